import copy

import pytest
import torch
from torch import nn

from steepest.geometry import DCTSubspace, change_of_basis, compress_with_feedback, dct_matrix
from steepest.optim import DCTAdamW, Options
from steepest.optim.dct_adamw import DCTAdamWRule
from steepest.optim.low_rank import kept_columns, move_columns_
from steepest.optim.rule import Step
from tests.optim.gradients import MATRICES, assert_follows, give_gradients, gradient, parameters, run
from tests.reference.dct_adamw import dct_adamw_steps


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize(
    ("rank", "gap", "feedback", "order"), [(3, 1, True, 1), (3, 4, True, 2), (2, 1, False, 1), (64, 1, True, 1)]
)
def test_twenty_steps_equal_the_formula_with_dense_rotations(kind, rank, gap, feedback, order):
    params = parameters(MATRICES)
    same = {"lr": 0.01, "rank": rank, "weight_decay": 0.1, "order": order, "betas": (0.8, 0.95)}
    optimizer = DCTAdamW(params, **same, update_proj_gap=gap, error_feedback=feedback)
    assert_follows(
        optimizer, params, lambda w, gs: dct_adamw_steps(w, gs, **same, gap=gap, feedback=feedback), kind=kind
    )


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8)])
def test_full_rank_without_feedback_is_adamw_in_the_rotated_basis(shape):
    params, n = parameters([shape]), min(shape)
    q = dct_matrix(n, dtype=torch.float64)

    def rotated(x: torch.Tensor) -> torch.Tensor:
        return x @ q if shape[0] >= shape[1] else q.T @ x

    other = nn.Parameter(rotated(params[0].detach()))
    ours = DCTAdamW(params, lr=0.01, rank=n, error_feedback=False, weight_decay=0.1)
    theirs = torch.optim.AdamW([other], lr=0.01, weight_decay=0.1)
    for step in range(20):
        give_gradients(params, step)
        other.grad = rotated(params[0].grad)
        ours.step()
        theirs.step()
    torch.testing.assert_close(rotated(params[0].detach()), other.detach(), rtol=1e-9, atol=1e-10)


def test_moving_columns_equals_the_rotation_and_is_exact():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(4, 9, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    before, now = (DCTSubspace().project(x, 3) for x in (a, b))
    moment = before.coefficients.clone()
    move_columns_(moment, *kept_columns(before.indices, now.indices))
    torch.testing.assert_close(moment, before.coefficients @ change_of_basis(before, now), rtol=0, atol=1e-14)
    for i in range(4):
        for j, index in enumerate(now.indices[i].tolist()):
            old = before.indices[i].tolist()
            expected = before.coefficients[i, :, old.index(index)] if index in old else torch.zeros(9).double()
            assert torch.equal(moment[i, :, j], expected)


def test_moments_that_are_not_finite_do_not_spread_to_new_columns():
    moment = torch.full((1, 2, 1), torch.inf)
    move_columns_(moment, *kept_columns(torch.tensor([[0]]), torch.tensor([[1]])))
    assert torch.equal(moment, torch.zeros(1, 2, 1))


def test_error_is_what_the_geometry_keeps_and_never_above_the_bound():
    rule = DCTAdamWRule(rank=3, order=2)
    generator = torch.Generator().manual_seed(0)
    state = rule.init(torch.zeros(1, 9, 7, dtype=torch.float64))
    error = torch.zeros(1, 9, 7, dtype=torch.float64)
    for count in range(1, 11):
        g = torch.randn(1, 9, 7, generator=generator, dtype=torch.float64)
        total = error + g
        _, error = compress_with_feedback(g, error, DCTSubspace(order=2), 3)
        rule.update(g, state, Step(count, 0))
        torch.testing.assert_close(state["error"], error, rtol=0, atol=1e-12)
        assert state["error"].square().sum() <= (1 - 3 / 7) * total.square().sum()


def test_nothing_is_lost_with_feedback():
    """What was lifted and the last error add up to the sum of the gradients."""
    rule = DCTAdamWRule(rank=2)
    state = rule.init(torch.zeros(1, 5, 8, dtype=torch.float64))
    total, kept = torch.zeros(5, 8).double(), torch.zeros(5, 8).double()
    for count in range(1, 8):
        g = gradient((5, 8), count, 0)
        before = state["error"] + g
        rule.update(g.unsqueeze(0), state, Step(count, 0))
        kept += (before - state["error"])[0]
        total += g
    torch.testing.assert_close(kept + state["error"][0], total, rtol=0, atol=1e-12)
    assert state["error"].abs().max() > 0.1


@pytest.mark.parametrize(("correction", "largest"), [("step", 3.16), ("column", 1.0)])
def test_a_column_that_comes_in_late_jumps_unless_its_own_steps_are_counted(correction, largest):
    q = dct_matrix(4, dtype=torch.float64)
    rule = DCTAdamWRule(rank=1, error_feedback=False, bias_correction=correction)
    state = rule.init(torch.zeros(1, 4, 4, dtype=torch.float64))
    ones = torch.ones(1, 4, 1, dtype=torch.float64)
    for count in range(1, 2001):
        u = rule.update(ones * q[:, 0], state, Step(count, 0))
    torch.testing.assert_close((u @ q)[..., 0], torch.ones(1, 4).double(), rtol=1e-6, atol=0)
    # The published correction for step 20000 no longer corrects anything.
    u = rule.update(ones * q[:, 3], state, Step(20000, 0))
    torch.testing.assert_close((u @ q)[..., 3], torch.full((1, 4), largest).double(), rtol=2e-3, atol=0)


def test_columns_are_chosen_again_only_after_the_gap():
    params = parameters([(6, 5)])
    optimizer = DCTAdamW(params, rank=2, update_proj_gap=3, error_feedback=False)
    chosen = []
    for step in range(9):
        give_gradients(params, step)
        optimizer.step()
        chosen.append(tuple(optimizer.state[params[0]]["indices"][0].tolist()))
    assert chosen[0] == chosen[1] == chosen[2]
    assert chosen[3] == chosen[5]
    assert chosen[6] == chosen[8]
    assert len(set(chosen)) > 1


@pytest.mark.parametrize(("feedback", "extra"), [(False, 0), (True, 64 * 256)])
def test_state_is_that_of_the_rank(feedback, extra):
    params = parameters([(64, 256), (256, 64)], torch.float32)
    optimizer = DCTAdamW(params, rank=8, error_feedback=feedback)
    run(optimizer, params, range(2))
    for p in params:
        state = {name: t for name, t in optimizer.state[p].items() if name != "step"}
        floats = sum(t.numel() for t in state.values() if t.is_floating_point())
        assert floats == 2 * 8 * 256 + extra
        assert floats - extra <= 0.13 * 2 * p.numel()
        assert state["indices"].shape == (1, 8)


def test_shapes_have_bases_of_their_own_and_convolutions_are_stepped():
    """A published code sizes one basis by the first layer, and leaves tensors of more dimensions as they are."""
    convolution = nn.Parameter(torch.randn(6, 3, 3, 3, dtype=torch.float64))
    matrices = parameters([(9, 4), (4, 11)])
    optimizer = DCTAdamW(
        [{"params": matrices}, {"params": [convolution], "role": "conv"}], lr=0.01, rank=2, weight_decay=0.0
    )
    flat = convolution.detach().flatten(1).numpy().copy()
    gradients = []
    for step in range(3):
        give_gradients([*matrices, convolution], step)
        gradients.append(convolution.grad.flatten(1).numpy().copy())
        optimizer.step()
    expected = torch.from_numpy(dct_adamw_steps(flat, gradients, lr=0.01, rank=2))
    torch.testing.assert_close(convolution.detach().flatten(1), expected, rtol=1e-9, atol=1e-10)
    assert optimizer.state[matrices[0]]["exp_avg"].shape == (1, 9, 2)
    assert optimizer.state[matrices[1]]["exp_avg"].shape == (1, 11, 2)


def test_indices_and_step_are_in_the_state_dict():
    params = parameters([(8, 6)], torch.float32)
    one = DCTAdamW(params, rank=2, update_proj_gap=4)
    run(one, params, range(2))
    saved = copy.deepcopy(one.state_dict())
    assert {"step", "indices", "exp_avg", "exp_avg_sq", "error"} <= set(saved["state"][0])
    again = [nn.Parameter(params[0].detach().clone())]
    two = DCTAdamW(again, rank=2, update_proj_gap=4)
    two.load_state_dict(saved)
    run(one, params, range(2, 7))
    run(two, again, range(2, 7))
    assert torch.equal(params[0], again[0])


def test_error_is_kept_in_the_dtype_of_the_option():
    params = parameters([(8, 6)], torch.float32)
    run(DCTAdamW(params, rank=2, options=Options(state_dtype="8bit")), params, range(3))
    assert params[0].isfinite().all()


def test_a_gradient_with_nan_reaches_its_own_matrix_alone():
    params = parameters([(6, 4), (6, 4)])
    optimizer = DCTAdamW(params, rank=2)
    give_gradients(params, 0)
    params[0].grad[0, 0] = torch.nan
    optimizer.step()
    assert params[0].isnan().all()
    assert params[1].isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [{"rank": 0}, {"rank": 2.5}, {"update_proj_gap": 0}, {"betas": (1.0, 0.9)}, {"eps": 0.0}, {"order": 3}],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DCTAdamW(parameters([(4, 4)]), **settings)


def test_a_rank_that_changes_during_a_run_is_refused():
    params = parameters([(8, 8)])
    optimizer = DCTAdamW(params, rank=2)
    run(optimizer, params, range(1))
    optimizer.param_groups[0]["rank"] = 3
    with pytest.raises(ValueError, match="rank cannot change"):
        run(optimizer, params, range(1))
