import math

import pytest
import torch

from steepest.geometry.polar import polar_factor
from steepest.optim import Dion
from steepest.optim.dion import DionRule, dion_direction_
from steepest.optim.rule import Step
from steepest.optim.stepping import GroupStep
from tests.optim.gradients import MATRICES, assert_follows, gradient, parameters, run
from tests.reference.dion import dion_steps


def first_basis(optimizer: Dion, number: int, shape: tuple[int, int], rank: int) -> torch.Tensor:
    seed = GroupStep(optimizer.param_groups[0], optimizer.rule_of(0), 1, 0).seed(number)
    return torch.randn(shape[1], rank, generator=Step(1, seed).generator(torch.device("cpu")), dtype=torch.float64)


@pytest.mark.parametrize("rank_fraction", [0.25, 0.6, 1.0])
def test_twenty_steps_equal_the_formula(rank_fraction):
    params = parameters(MATRICES)
    same = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    optimizer = Dion(params, rank_fraction=rank_fraction, **same)
    bases = {
        shape: first_basis(optimizer, i, shape, math.ceil(rank_fraction * min(shape))).numpy()
        for i, shape in enumerate(MATRICES)
    }
    assert_follows(optimizer, params, lambda w, gs: dion_steps(w, gs, basis=bases[w.shape], **same), rtol=1e-7)


@pytest.mark.parametrize("shape", [(8, 8), (12, 5), (5, 12)])
def test_full_rank_approaches_the_polar_factor_of_a_steady_momentum(shape):
    n = min(shape)
    generator = torch.Generator().manual_seed(0)
    frames = [torch.linalg.qr(torch.randn(s, n, generator=generator, dtype=torch.float64)).Q for s in shape]
    g = (frames[0] * torch.linspace(1, 3, n, dtype=torch.float64)) @ frames[1].T
    target = polar_factor(g, method="svd")
    rule = DionRule(momentum=0.9)
    state = rule.init(torch.zeros(1, *shape, dtype=torch.float64))
    errors = []
    for count in range(1, 121):
        u = rule.update(g.unsqueeze(0), state, Step(count, 5))[0]
        errors.append(float((u - target).norm() / target.norm()))
    assert errors[-1] < 1e-6
    # Power iteration: the error falls by the square of the ratio of neighbouring singular values a step.
    gaps = torch.linspace(1, 3, n, dtype=torch.float64)
    rate = float((gaps[:-1] / gaps[1:]).max()) ** 2
    assert math.exp((math.log(errors[60]) - math.log(errors[30])) / 30) == pytest.approx(rate, rel=0.05)


def test_singular_values_of_a_step_are_between_zero_and_root_rank():
    rule = DionRule(rank_fraction=0.5)
    state = rule.init(torch.zeros(1, 10, 8, dtype=torch.float64))
    for count in range(1, 5):
        u = rule.update(gradient((10, 8), count, 0).unsqueeze(0), state, Step(count, 1))
        assert torch.linalg.vector_norm(u).item() == pytest.approx(math.sqrt(4))
        assert torch.linalg.matrix_rank(u[0]) == 4


def test_what_a_step_left_out_stays_in_the_momentum():
    generator = torch.Generator().manual_seed(0)
    m, q = (torch.randn(1, 9, k, generator=generator, dtype=torch.float64) for k in (9, 3))
    before = m.clone()
    dion_direction_(m, q, momentum=0.8)
    left = torch.linalg.qr(before @ torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(1)).double()).Q
    taken = (before - m) / 0.2
    assert torch.linalg.matrix_rank(taken[0]) == 3
    # A projection: what was taken is orthogonal to what was left.
    assert abs(float((taken * (before - taken)).sum())) < 1e-12 * float(before.square().sum())
    assert left.shape == (1, 9, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lost_rank_does_not_step_along_rounding_errors(dtype):
    """A rank one momentum gives its polar factor, of rank one, at any rank and scale."""
    x, y = gradient((9, 1), 0, 0), gradient((1, 7), 0, 1)
    expected = (x / x.norm()) @ (y / y.norm())
    for size in (1e-25, 1.0, 1e15):
        rule = DionRule()
        state = rule.init(torch.zeros(1, 9, 7, dtype=dtype))
        for count in range(1, 4):
            u = rule.update((x @ y * size).to(dtype).unsqueeze(0), state, Step(count, 3))
            torch.testing.assert_close(u[0].double(), expected, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-12)


def test_a_basis_that_lost_columns_finds_new_directions():
    rule = DionRule(momentum=0.5)
    state = rule.init(torch.zeros(1, 6, 6, dtype=torch.float64))
    zero = torch.zeros(1, 6, 6, dtype=torch.float64)
    assert torch.equal(rule.update(zero, state, Step(1, 0)), zero)
    rule.update(gradient((6, 6), 0, 0, "rank one").unsqueeze(0), state, Step(2, 0))
    u = rule.update(gradient((6, 6), 1, 0).unsqueeze(0), state, Step(3, 0))
    assert torch.linalg.matrix_rank(u[0]) == 6


def test_nan_is_not_hidden():
    params = parameters([(6, 4), (6, 4)])
    optimizer = Dion(params)
    for p in params:
        p.grad = torch.ones_like(p)
    params[0].grad[0, 0] = torch.nan
    optimizer.step()
    assert params[0].isnan().any()
    assert params[1].isfinite().all()


def test_the_first_basis_depends_on_the_seed_alone():
    params, other = parameters([(6, 4)], torch.float32), parameters([(6, 4)], torch.float32)
    torch.manual_seed(1)
    run(Dion(params, rank_fraction=0.5), params, range(2))
    torch.manual_seed(2)
    run(Dion(other, rank_fraction=0.5), other, range(2))
    assert torch.equal(params[0], other[0])


def test_state_is_the_momentum_and_a_basis():
    params = parameters([(32, 48)], torch.float32)
    optimizer = Dion(params, rank_fraction=0.25)
    run(optimizer, params, range(1))
    sizes = {name: t.numel() for name, t in optimizer.state[params[0]].items() if name != "step"}
    assert sizes == {"momentum_buffer": 32 * 48, "basis": 48 * 8}


@pytest.mark.parametrize("settings", [{"momentum": 1.0}, {"rank_fraction": 0.0}, {"rank_fraction": 1.01}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Dion(parameters([(4, 4)]), **settings)


def test_a_rank_that_changes_during_a_run_is_refused():
    params = parameters([(8, 8)])
    optimizer = Dion(params)
    run(optimizer, params, range(1))
    optimizer.param_groups[0]["rank_fraction"] = 0.5
    with pytest.raises(ValueError, match="rank cannot change"):
        run(optimizer, params, range(1))
