import numpy as np
import pytest
import torch

from steepest.geometry.polar import polar_factor
from steepest.optim import Engine, Shampoo
from steepest.optim.adam_rule import AdamRule
from steepest.optim.grafting import GraftedRule
from steepest.optim.kronecker import add_gram_, eigh, inverse_root_
from steepest.optim.shampoo import ShampooRule
from tests.optim.gradients import MATRICES, assert_follows, give_gradients, parameters, run
from tests.reference.shampoo import shampoo_steps


def follow(params, *, kind: str = "full", rtol: float = 1e-7, frequency: int = 10, longest: int = 8192, **settings):
    optimizer = Shampoo(params, lr=0.05, precondition_frequency=frequency, max_preconditioner_dim=longest, **settings)
    assert_follows(
        optimizer,
        params,
        lambda w, g: shampoo_steps(w, g, lr=0.05, frequency=frequency, longest=longest, **settings),
        kind=kind,
        rtol=rtol,
    )


@pytest.mark.parametrize("exponent", [0.25, 0.5])
@pytest.mark.parametrize("accumulation", ["ema", "sum"])
@pytest.mark.parametrize("grafting", ["adam", "sgd", "none"])
def test_twenty_steps_equal_the_formula(exponent, accumulation, grafting):
    follow(parameters(MATRICES * 2), exponent=exponent, accumulation=accumulation, grafting=grafting, eps=1e-4)


@pytest.mark.parametrize("frequency", [1, 7])
@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
def test_frequencies_and_degenerate_gradients_follow_the_formula(frequency, kind):
    follow(parameters(MATRICES), frequency=frequency, kind=kind, weight_decay=0.3, eps=1e-4)


@pytest.mark.parametrize("longest", [6, 11])
def test_a_long_side_leaves_the_other_with_twice_the_exponent(longest):
    follow(parameters(((12, 5), (5, 12), (4, 4))), longest=longest, eps=1e-4)


def test_two_long_sides_leave_a_diagonal():
    """With exponent 1/4 and all squares summed that is AdaGrad."""
    params = parameters(((6, 4),))
    start = params[0].detach().clone()
    optimizer = Shampoo(
        params, lr=0.1, betas=(0.0, 0.0), accumulation="sum", grafting="none", eps=0.0, max_preconditioner_dim=3
    )
    total = torch.zeros(6, 4, dtype=torch.float64)
    for step in range(5):
        give_gradients(params, step)
        total += params[0].grad.square()
        start -= 0.1 * params[0].grad / total.sqrt()
        optimizer.step()
    torch.testing.assert_close(params[0].detach(), start)


def test_the_first_step_without_averages_is_the_polar_factor():
    """From one gradient, L^(-1/4) G R^(-1/4) has singular values of one."""
    params = parameters(((6, 4), (5, 5)))
    start = [p.detach().clone() for p in params]
    optimizer = Shampoo(params, lr=1.0, betas=(0.0, 0.0), accumulation="sum", grafting="none", eps=0.0)
    run(optimizer, params, range(1))
    for p, w in zip(params, start, strict=True):
        torch.testing.assert_close(w - p.detach(), polar_factor(p.grad, method="svd"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("exponent", "power"), [(0.25, 1.0), (0.125, 2.0**-10)])
def test_the_size_of_gradients_acts_by_the_power_one_minus_four_p(exponent, power):
    one, two = parameters(((6, 4),)), parameters(((6, 4),))
    start = one[0].detach().clone()
    settings = {"grafting": "none", "exponent": exponent, "lr": 0.1}
    first, second = Shampoo(one, **settings), Shampoo(two, **settings)
    for step in range(3):
        give_gradients(one, step)
        give_gradients(two, step)
        two[0].grad.mul_(2.0**-20)
        first.step()
        second.step()
    torch.testing.assert_close((two[0] - start) / power, one[0] - start)


def test_directions_turn_with_the_coordinates():
    generator = torch.Generator().manual_seed(5)
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0] for n in (6, 4))
    plain, turned = parameters(((6, 4),)), parameters(((6, 4),))
    with torch.no_grad():
        turned[0].copy_(left @ plain[0] @ right)
    one, two = (Shampoo(p, lr=0.1, grafting="sgd", precondition_frequency=2) for p in (plain, turned))
    for step in range(6):
        give_gradients(plain, step)
        turned[0].grad = left @ plain[0].grad @ right
        one.step()
        two.step()
    torch.testing.assert_close(turned[0], left @ plain[0] @ right)


def test_grafting_onto_adam_is_the_general_wrapper_around_it():
    one, two = parameters(MATRICES), parameters(MATRICES)
    run(Shampoo(one, lr=0.1), one, range(5))
    rule = GraftedRule(direction=ShampooRule(grafting="none"), magnitude=AdamRule())
    run(Engine(two, rule, lr=0.1), two, range(5))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_a_batch_of_gram_matrices_is_the_plain_product_also_in_blocks():
    generator = torch.Generator().manual_seed(0)
    for rows, columns in ((7, 5), (129, 40), (300, 20)):
        g = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
        factor = torch.randn(2, rows, rows, generator=generator, dtype=torch.float64)
        factor = factor + factor.mT
        expected = 0.9 * factor + 0.1 * g @ g.mT
        add_gram_(factor, g, decay=0.9, weight=0.1)
        torch.testing.assert_close(factor, expected)
        transposed = torch.zeros(2, columns, columns, dtype=torch.float64)
        add_gram_(transposed, g.mT, decay=0.0, weight=1.0)
        torch.testing.assert_close(transposed, g.mT @ g)


def test_what_is_not_finite_keeps_the_last_root_and_spares_its_neighbours():
    good = torch.diag(torch.tensor([16.0, 1.0]))
    factor = torch.stack([good, torch.full((2, 2), torch.inf), torch.full((2, 2), torch.nan), torch.zeros(2, 2)])
    root = torch.stack([torch.full((2, 2), 7.0)] * 4)
    inverse_root_(root, factor, 0.25, 0.0)
    torch.testing.assert_close(root[0], torch.diag(torch.tensor([0.5, 1.0])))
    assert torch.equal(root[1:3], torch.full((2, 2, 2), 7.0))
    assert torch.equal(root[3], torch.eye(2))


def test_a_solver_that_gives_up_is_asked_again_in_float64_and_with_damping(monkeypatch):
    asked = []
    solve = torch.linalg.eigh

    def stubborn(x: torch.Tensor):
        asked.append(x.dtype)
        if len(asked) < 3:
            raise torch.linalg.LinAlgError("failed to converge")
        return solve(x)

    monkeypatch.setattr(torch.linalg, "eigh", stubborn)
    values, vectors = eigh(torch.diag(torch.tensor([1.0, 3.0, 2.0]))[None])
    assert asked == [torch.float32, torch.float64, torch.float64]
    torch.testing.assert_close(values, torch.tensor([[3.0, 2.0, 1.0]]))
    assert vectors.dtype == torch.float32


def test_rounding_below_zero_does_not_blow_up_a_root():
    """A factor of rank one in float32 has eigenvalues around zero of either sign."""
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(1, 64, 1, generator=generator) * 1e3
    root = torch.empty(1, 64, 64)
    inverse_root_(root, g @ g.mT, 0.5, 0.0)
    largest = float(g.square().sum())
    assert root.isfinite().all()
    assert torch.linalg.matrix_norm(root, 2) <= 1.1 * (64 * torch.finfo(torch.float32).eps * largest) ** -0.5
    # In the direction of the gradient the root is what it should be.
    assert np.isclose(float((root @ g).norm() / g.norm()), largest**-0.5, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"exponent": 0.0}, "exponent"),
        ({"eps": -1.0}, "eps"),
        ({"precondition_frequency": 0}, "precondition_frequency"),
        ({"max_preconditioner_dim": -1}, "max_preconditioner_dim"),
        ({"accumulation": "mean"}, "accumulation"),
        ({"grafting": "lion"}, "grafting"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Shampoo(parameters(((3, 3),)), **settings)
