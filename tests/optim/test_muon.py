import copy

import numpy as np
import pytest
import torch

from steepest.geometry.polar import polar_factor
from steepest.geometry.polar_iteration import published_iteration
from steepest.optim import Muon
from tests.reference.muon import muon_steps

SHAPES = [(8, 8), (12, 5), (5, 12), (1, 7), (7, 1)]


def exact(x: torch.Tensor) -> torch.Tensor:
    return polar_factor(x, method="svd")


def parameters(dtype=torch.float64) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in SHAPES * 2]


def give_gradients(params, step: int) -> list[np.ndarray]:
    generator = torch.Generator().manual_seed(100 + step)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)
    return [p.grad.double().numpy().copy() for p in params]


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_twenty_steps_equal_the_formula(nesterov, weight_decay):
    params = parameters()
    before = [p.detach().numpy().copy() for p in params]
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": weight_decay, "nesterov": nesterov}
    optimizer = Muon(params, polar=exact, **settings)
    gradients = []
    for step in range(20):
        gradients.append(give_gradients(params, step))
        optimizer.step()
    for i, p in enumerate(params):
        expected = muon_steps(before[i], [g[i] for g in gradients], **settings)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-9, atol=1e-10)


def test_the_published_list_equals_torchs_muon_up_to_bfloat16():
    """torch keeps B <- mu B + G; the polar factor does not see that scale."""
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    one = Muon(ours, lr=0.02, momentum=0.95, polar=published_iteration("muon", dtype=torch.bfloat16))
    two = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.0)
    start = [p.detach().clone() for p in ours]
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        one.step()
        two.step()
    for a, b, s in zip(ours, theirs, start, strict=True):
        # Both round to bfloat16 in every product, in another order; a wrong formula is off by the whole step.
        assert (a - b).norm() < 0.05 * (a - s).norm()


def test_gradients_are_untouched_and_missing_ones_skipped():
    params = parameters()
    before = give_gradients(params, 0)
    params[3].grad = None
    kept = params[3].detach().clone()
    Muon(params).step()
    for p, g in zip(params, before, strict=True):
        if p.grad is not None:
            assert np.array_equal(p.grad.numpy(), g)
    assert torch.equal(params[3], kept)


def test_zero_and_rank_deficient_gradients():
    p = torch.nn.Parameter(torch.ones(4, 6))
    p.grad = torch.zeros(4, 6)
    Muon([p]).step()
    assert torch.equal(p, torch.ones(4, 6))
    q = torch.nn.Parameter(torch.zeros(4, 6, dtype=torch.float64))
    q.grad = torch.outer(torch.arange(1.0, 5.0), torch.ones(6)).double()
    Muon([q], lr=1.0, polar=exact).step()
    assert torch.linalg.matrix_norm(q.detach(), 2).item() == pytest.approx(1)
    assert torch.linalg.matrix_rank(q.detach()) == 1


def test_scale_of_the_gradient_does_not_matter():
    one, two = parameters(), parameters()
    give_gradients(one, 0)
    give_gradients(two, 0)
    for p in two:
        p.grad.mul_(1e-20)
    Muon(one, polar=exact).step()
    Muon(two, polar=exact).step()
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_state_resumes_bit_for_bit():
    whole, halves = parameters(torch.float32), parameters(torch.float32)
    one, two = Muon(whole), Muon(halves)
    for step in range(3):
        give_gradients(whole, step)
        give_gradients(halves, step)
        one.step()
        two.step()
    saved = copy.deepcopy(two.state_dict())
    two = Muon(halves)
    two.load_state_dict(saved)
    for step in range(3, 6):
        give_gradients(whole, step)
        give_gradients(halves, step)
        one.step()
        two.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, halves, strict=True))


def test_closure_runs_with_gradients():
    p = torch.nn.Parameter(torch.eye(3))
    optimizer = Muon([p])

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr"),
        ({"lr": float("nan")}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1}, "decay"),
    ],
)
def test_bad_numbers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Muon(parameters(), **settings)


@pytest.mark.parametrize("bad", [torch.zeros(3), torch.zeros(2, 3, 4), torch.zeros(2, 2, dtype=torch.complex64)])
def test_what_is_not_a_real_matrix_is_refused(bad):
    with pytest.raises((TypeError, ValueError), match="real"):
        Muon([torch.nn.Parameter(bad)])
