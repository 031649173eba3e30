import pytest
import torch
from torch import nn

from steepest.geometry.polar import polar_factor
from steepest.optim import Dion2, Trion
from steepest.optim.rule import Step
from steepest.optim.trion import TrionRule
from tests.optim.gradients import MATRICES, assert_follows, give_gradients, gradient, parameters, run
from tests.reference.trion import dion2_steps, polar, trion_steps


def exact(x: torch.Tensor) -> torch.Tensor:
    return polar_factor(x, method="svd")


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize(("rank", "order"), [(3, 1), (3, 2), (64, 1)])
def test_trion_equals_the_formula(kind, rank, order):
    params = parameters(MATRICES)
    same = {"lr": 0.05, "rank": rank, "momentum": 0.9, "weight_decay": 0.1, "order": order}
    optimizer = Trion(params, polar=exact, **same)
    assert_follows(optimizer, params, lambda w, gs: trion_steps(w, gs, **same), kind=kind)


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize(("fraction", "order"), [(0.25, 1), (0.5, 2), (1.0, 1)])
def test_dion2_equals_the_formula(kind, fraction, order):
    params = parameters(MATRICES)
    same = {"lr": 0.05, "fraction": fraction, "momentum": 0.9, "weight_decay": 0.1, "order": order}
    optimizer = Dion2(params, polar=exact, **same)
    assert_follows(optimizer, params, lambda w, gs: dion2_steps(w, gs, **same), kind=kind)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: Trion(p, lr=0.05, rank=64, polar=exact),
        lambda p: Dion2(p, lr=0.05, fraction=1.0, weight_decay=0.0, polar=exact),
    ],
)
def test_at_full_rank_both_are_muon_with_heavy_ball_momentum(optimizer):
    params = parameters([(12, 5), (5, 12), (8, 8)])

    def muon(w, gradients):
        buffer = 0 * w
        for g in gradients:
            buffer = 0.95 * buffer + g
            w = w - 0.05 * max(1, w.shape[0] / w.shape[1]) ** 0.5 * polar(buffer)
        return w

    assert_follows(optimizer(params), params, muon)


def test_trion_forgets_only_what_it_used():
    """What the cosines leave out stays in the momentum whole, and the rest is multiplied by mu."""
    rule = TrionRule(rank=2, momentum=0.9, order=2, polar=exact)
    state = rule.init(torch.zeros(1, 9, 6, dtype=torch.float64))
    for count in range(1, 6):
        g = gradient((9, 6), count, 0).unsqueeze(0)
        total = state["momentum_buffer"] + g
        u = rule.update(g, state, Step(count, 0))
        taken = (total - state["momentum_buffer"]) / 0.1
        assert (total - taken).square().sum() <= (1 - 2 / 6) * total.square().sum()
        # The direction lies in the row space of what was taken, and all its singular values are one.
        values = torch.linalg.svdvals(u[0])
        torch.testing.assert_close(values[:2], torch.ones(2).double(), rtol=1e-9, atol=0)
        assert values[2] < 1e-12
        inner = (u * taken).sum()
        torch.testing.assert_close(inner, torch.linalg.matrix_norm(taken[0], "nuc"), rtol=1e-9, atol=0)


def test_dion2_moves_only_the_largest_columns():
    p = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    p.grad = torch.ones(6, 4, dtype=torch.float64) * torch.tensor([1.0, 3.0, 2.0, 0.5])
    optimizer = Dion2([p], lr=1.0, fraction=0.5, weight_decay=0.0, polar=exact)
    optimizer.step()
    assert (p.detach() != 0).any(0).tolist() == [False, True, True, False]
    expected = p.grad * torch.tensor([1.0, 0.95, 0.95, 1.0])
    torch.testing.assert_close(optimizer.state[p]["momentum_buffer"][0], expected)


@pytest.mark.parametrize("optimizer", [Trion, Dion2])
def test_the_scale_of_the_gradient_does_not_matter(optimizer):
    one, two = parameters(MATRICES), parameters(MATRICES)
    a, b = optimizer(one, polar=exact), optimizer(two, polar=exact)
    for step in range(3):
        give_gradients(one, step)
        give_gradients(two, step)
        for p in two:
            p.grad.mul_(2.0**-40)
        a.step()
        b.step()
    for p, q in zip(one, two, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("optimizer", [Trion, Dion2])
def test_nan_reaches_its_own_matrix_alone(optimizer):
    params = parameters([(6, 4), (6, 4)])
    made = optimizer(params, polar=exact)
    give_gradients(params, 0)
    params[0].grad.fill_(torch.nan)
    made.step()
    assert params[0].isnan().any()
    assert params[1].isfinite().all()


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (Trion, {"rank": 0}),
        (Trion, {"momentum": 1.0}),
        (Trion, {"order": 0}),
        (Dion2, {"fraction": 0.0}),
        (Dion2, {"fraction": 1.5}),
        (Dion2, {"momentum": -0.1}),
    ],
)
def test_bad_settings_are_refused(optimizer, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        optimizer(parameters([(4, 4)]), **settings)


@pytest.mark.parametrize("optimizer", [Trion, Dion2])
def test_default_runs_in_float32_with_published_newton_schulz(optimizer):
    params = parameters(MATRICES, torch.float32)
    start = [p.detach().clone() for p in params]
    run(optimizer(params), params, range(4))
    assert all(p.isfinite().all() and not torch.equal(p, s) for p, s in zip(params, start, strict=True))
