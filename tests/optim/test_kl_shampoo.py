import numpy as np
import pytest
import torch

from steepest.optim import KLSOAP, KLShampoo
from steepest.optim.kl_shampoo import KLShampooRule
from steepest.optim.rule import Step
from steepest.optim.soap import SOAPRule
from tests.optim.gradients import MATRICES, give_gradients, parameters, run
from tests.reference.kl_shampoo import kl_steps
from tests.reference.soap import is_eigenbasis

BOTH = pytest.mark.parametrize("kind", [KLShampoo, KLSOAP])


def first_basis(state: dict, name: str) -> np.ndarray:
    basis = state["basis_" + name][0].numpy().copy()
    assert is_eigenbasis(basis, state[name][0].numpy())
    return basis


@BOTH
@pytest.mark.parametrize(("settings", "frequency"), [({}, 10), ({"betas": (0.9, 0.98), "eps": 1e-3}, 7)])
def test_twenty_steps_equal_the_formula(kind, settings, frequency):
    params = parameters(MATRICES * 2)
    optimizer = kind(params, lr=0.05, weight_decay=0.0, precondition_frequency=frequency, **settings)
    start, gradients, bases = [p.detach().numpy().copy() for p in params], [], []
    for step in range(20):
        gradients.append(give_gradients(params, step))
        optimizer.step()
        if step == 0:
            bases = [[first_basis(optimizer.state[p], side) for side in ("left", "right")] for p in params]
    for i, p in enumerate(params):
        expected = kl_steps(
            start[i],
            [g[i] for g in gradients],
            bases[i],
            adam=kind is KLSOAP,
            lr=0.05,
            frequency=frequency,
            **settings,
        )
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-6, atol=1e-7, err_msg=str(p.shape))


@BOTH
def test_the_first_step_only_looks(kind):
    params, start = parameters(((6, 4),)), parameters(((6, 4),))
    run(kind(params, weight_decay=0.5), params, range(1))
    assert torch.equal(params[0], start[0])


def test_factors_find_the_covariance_of_gaussian_gradients():
    """For gradients A^(1/2) Z B^(1/2), R x L tends to B x A; SOAP's factors have another size."""
    generator = torch.Generator().manual_seed(0)
    roots = []
    for n, largest in ((4, 4), (3, 9)):
        turn = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
        roots.append(turn @ torch.diag(torch.linspace(1, largest, n, dtype=torch.float64).sqrt()) @ turn.T)
    wanted = torch.kron(roots[1] @ roots[1], roots[0] @ roots[0])
    rules = (KLShampooRule(betas=(0.9, 0.99), precondition_frequency=5), SOAPRule(betas=(0.9, 0.99)))
    states = [rule.init(torch.zeros(64, 4, 3, dtype=torch.float64)) for rule in rules]
    for count in range(1, 801):
        noise = torch.randn(64, 4, 3, generator=generator, dtype=torch.float64)
        for rule, state in zip(rules, states, strict=True):
            rule.update(roots[0] @ noise @ roots[1], state, Step(count, 0))
    errors = []
    for state in states:
        pairs = zip(state["right"], state["left"], strict=True)
        found = torch.stack([torch.kron(right, left) for right, left in pairs]).mean(0)
        errors.append(float((found - wanted).norm() / wanted.norm()))
    assert errors[0] < 0.1
    assert errors[1] > 5


def test_its_direction_whitens_gaussian_gradients():
    """Once the factors are learnt, L^(-1/2) G R^(-1/2) has entries of variance one."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.outer(torch.linspace(1, 4, 6), torch.linspace(1, 3, 5)).double()
    rule = KLShampooRule(betas=(0.0, 0.99))
    state = rule.init(torch.zeros(64, 6, 5, dtype=torch.float64))
    steps = []
    for count in range(1, 701):
        grad = torch.randn(64, 6, 5, generator=generator, dtype=torch.float64) * scale
        direction = rule.update(grad, state, Step(count, 0))
        if count > 600:
            steps.append(direction)
    variance = torch.cat(steps).square().mean(0)
    assert variance.min() > 0.9
    assert variance.max() < 1.1


@BOTH
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"betas": (0.9, 1.0)}, "betas"), ({"eps": 0.0}, "eps"), ({"precondition_frequency": 0}, "frequency")],
)
def test_bad_numbers_are_refused(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(parameters(((3, 3),)), **settings)
