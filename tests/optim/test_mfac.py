import copy

import numpy as np
import pytest
import torch
from torch import nn

from steepest.optim import MFAC, Options
from steepest.optim.mfac import MFACRule, inner_products
from steepest.optim.rule import Step
from tests.optim.gradients import MATRICES, VECTORS, give_gradients, parameters, run
from tests.reference.mfac import dense_direction, mfac_steps, recursive_direction

SHAPES = (*MATRICES, *VECTORS)


def joined(arrays) -> np.ndarray:
    return np.concatenate([np.asarray(a).ravel() for a in arrays])


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize(("average", "momentum", "window"), [("seen", 0.0, 6), ("window", 0.9, 6), ("seen", 0.5, 64)])
def test_twenty_steps_equal_the_dense_inverse(kind, average, momentum, window):
    params = parameters(SHAPES)
    same = {"window": window, "damping": 1e-3, "momentum": momentum, "weight_decay": 0.1, "average": average}
    optimizer = MFAC(params, lr=0.01, **same)
    start = joined(p.detach().numpy() for p in params)
    gradients = []
    for step in range(20):
        gradients.append(joined(give_gradients(params, step, kind)))
        optimizer.step()
    expected = mfac_steps(start, gradients, lr=0.01, **same)
    np.testing.assert_allclose(joined(p.detach().numpy() for p in params), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("damping", [1e-1, 1e-3, 1e-5])
def test_direction_equals_dense_and_sequential_sherman_morrison(damping):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 200))
    rule = MFACRule(window=32, damping=damping)
    state = rule.init(torch.zeros(1, 200, dtype=torch.float64))
    for count, g in enumerate(rows, 1):
        u = rule.update(torch.from_numpy(g).unsqueeze(0), state, Step(count, 0))[0].numpy()
        if count in (1, 5, 32, 33, 40):
            seen = rows[max(0, count - 32) : count]
            for reference in (dense_direction, recursive_direction):
                expected = reference(seen, g, damping=damping, count=len(seen))
                assert np.linalg.norm(u - expected) < 1e-8 * np.linalg.norm(expected)


def test_a_window_not_yet_full_steps_m_times_longer_only_as_published():
    g = torch.randn(1, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = {}
    for average in ("seen", "window"):
        rule = MFACRule(window=100, damping=1e-9, average=average)
        lengths[average] = float(rule.update(g, rule.init(g), Step(1, 0)).norm())
    assert lengths["seen"] == pytest.approx(1 / float(g.norm()), rel=1e-6)
    assert lengths["window"] == pytest.approx(100 / float(g.norm()), rel=1e-6)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("damping", [1e-3, 1e-4])
def test_float32_is_exact_where_the_difference_form_is_not(damping, repeated):
    """The difference form (g - G^T s) / damping loses digits by |g|^2 / damping, also for gradients far apart."""
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((16, 10_000)).astype(np.float32) * np.float32(0.1)
    if repeated:
        rows = (rows[:1] + 0.01 * rows).astype(np.float32)
    rule = MFACRule(window=16, damping=damping)
    state = rule.init(torch.zeros(1, 10_000))
    for count, g in enumerate(rows, 1):
        u = rule.update(torch.from_numpy(g).unsqueeze(0), state, Step(count, 0))[0].double().numpy()
    g64, k = rows.astype(np.float64), len(rows)
    small = np.linalg.solve(k * damping * np.eye(k) + g64 @ g64.T, np.eye(k)[-1])
    expected = k * g64.T @ small
    plain = (rows[-1] - rows.T @ (small @ (g64 @ g64.T)).astype(np.float32)) / np.float32(damping)
    error = np.linalg.norm(u - expected) / np.linalg.norm(expected)
    assert error < 1e-6
    assert np.linalg.norm(plain - expected) / np.linalg.norm(expected) > 10 * error


def test_inner_products_of_long_vectors_are_exact_to_their_bound():
    rows = torch.randn(5, 10 * 4096 + 77, generator=torch.Generator().manual_seed(0)) + 1
    exact = rows.double() @ rows[0].double()
    size = rows[0].double().norm() * rows.double().norm(dim=1)
    assert ((inner_products(rows, rows[0]) - exact).abs() / size).max() < 1e-12
    error = ((inner_products(rows, rows[0], exact=False) - exact).abs() / size).max()
    assert 1e-12 < error < 1e-7


@pytest.mark.parametrize("repeat", ["same", "zero"])
def test_duplicate_and_zero_gradients(repeat):
    g = torch.ones(1, 7) if repeat == "same" else torch.zeros(1, 7)
    rule = MFACRule(window=4, damping=1e-12)
    state = rule.init(g)
    for count in range(1, 10):
        u = rule.update(g, state, Step(count, 0))
        assert u.isfinite().all()
    torch.testing.assert_close(u, g / 7, rtol=1e-5, atol=0)


def test_weights_only_state_holds_the_window_and_resumes():
    params = parameters([(4, 3), (5,)], torch.float32)
    one = MFAC(params, window=3)
    run(one, params, range(5))
    saved = copy.deepcopy(one.state_dict())
    assert saved["state"][0]["window"].shape == (3, 17)
    assert saved["state"][0]["gram"].dtype == torch.float64
    again = [nn.Parameter(p.detach().clone()) for p in params]
    two = MFAC(again, window=3)
    two.load_state_dict(saved)
    run(one, params, range(5, 9))
    run(two, again, range(5, 9))
    assert all(torch.equal(p, q) for p, q in zip(params, again, strict=True))


def test_a_missing_gradient_is_zero_and_its_parameter_stays():
    """Also for the first parameter, with which the state of the group is kept."""
    ours, full = parameters([(4, 3), (5,)]), parameters([(4, 3), (5,)])
    one, two = MFAC(ours, window=4), MFAC(full, window=4)
    run(one, ours, range(2))
    run(two, full, range(2))
    kept = ours[0].detach().clone()
    for params in (ours, full):
        give_gradients(params, 2)
    ours[0].grad = None
    full[0].grad.zero_()
    one.step()
    two.step()
    assert torch.equal(ours[0], kept)
    assert not torch.equal(full[0], kept)
    assert torch.equal(ours[1], full[1])
    with torch.no_grad():
        full[0].copy_(kept)
    run(one, ours, range(3, 5))
    run(two, full, range(3, 5))
    assert all(torch.equal(p, q) for p, q in zip(ours, full, strict=True))


def test_parameters_of_several_dtypes_share_one_vector():
    mixed = [*parameters([(4, 3)], torch.bfloat16), *parameters([(5,)], torch.float32)]
    optimizer = MFAC(mixed, window=3, lr=0.1)
    run(optimizer, mixed, range(3))
    assert optimizer.state[mixed[0]]["window"].dtype == torch.float32
    wide = [nn.Parameter(p.detach().float()) for p in mixed]
    assert all(p.isfinite().all() for p in wide)
    assert [p.dtype for p in mixed] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize(
    "options",
    [
        Options(clip=0.5),
        Options(cautious=True),
        Options(hyperball=True),
        Options(decay="decoupled"),
        Options(decay="cautious"),
    ],
)
def test_options_act_on_the_vector(options):
    params, plain = parameters(SHAPES), parameters(SHAPES)
    start = [p.detach().clone() for p in params]
    # The last window alone: without momentum the direction is g / (damping + |g|^2), longer when g is clipped.
    one = MFAC(params, lr=0.1, window=1, damping=1.0, weight_decay=0.5, options=options)
    two = MFAC(plain, lr=0.1, window=1, damping=1.0)
    run(one, params, range(1))
    run(two, plain, range(1))
    moves = zip(params, plain, start, strict=True)
    for p, q, s in moves:
        ours, theirs = s - p.detach(), s - q.detach()
        if options.clip == 0.5:
            total = joined([w.numpy() * 0.5 + g.grad.numpy() for w, g in zip(start, plain, strict=True)])
            clipped = (s * 0.5 + q.grad) * (0.5 / np.linalg.norm(total))
            torch.testing.assert_close(ours, 0.1 * clipped / 1.25)
        if options.cautious:
            assert ((ours == 0) | (ours * (q.grad + 0.5 * s) > 0)).all()
        if options.hyperball and p.ndim > 1:  # vectors are left free
            torch.testing.assert_close(p.norm(), s.norm())
            assert p.numel() == 1 or not torch.equal(p, s)
        if options.decay == "decoupled":
            torch.testing.assert_close(ours, theirs + 0.05 * s)
        if options.decay == "cautious":
            torch.testing.assert_close(ours, theirs + 0.05 * s * (theirs * s >= 0))


def test_two_groups_have_windows_of_their_own():
    a, b = parameters([(3, 3), (4,)])
    optimizer = MFAC([{"params": [a]}, {"params": [b], "damping": 0.1}], window=2)
    run(optimizer, [a, b], range(3))
    assert optimizer.state[a]["window"].shape == (2, 9)
    assert optimizer.state[b]["window"].shape == (2, 4)


def test_a_window_too_large_is_refused_with_what_would_fit():
    p = parameters([(100, 100)], torch.float32)
    with pytest.raises(ValueError, match=r"window=25 or less"):
        MFAC(p, window=1000, memory_limit=1e6)
    MFAC(p, window=25, memory_limit=1e6)
    with pytest.raises(ValueError, match="fewer parameters"):
        MFAC(p, window=1, memory_limit=1e3)


@pytest.mark.parametrize(
    "settings", [{"window": 0}, {"damping": 0.0}, {"momentum": 1.0}, {"average": "half"}, {"memory_limit": 0}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        MFAC(parameters([(4, 4)]), **settings)


def test_nan_is_not_hidden():
    params = parameters([(3, 3), (4,)])
    optimizer = MFAC(params, window=2)
    run(optimizer, params, range(1))
    give_gradients(params, 1)
    params[0].grad[0, 0] = torch.nan
    optimizer.step()
    assert all(p.isnan().any() for p in params)


def test_a_model_is_one_vector():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.LayerNorm(3))
    optimizer = MFAC(model, window=2)
    assert len(optimizer.param_groups) == 1
    run(optimizer, list(model.parameters()), range(2))
    assert optimizer.state[model[0].weight]["window"].shape == (2, sum(p.numel() for p in model.parameters()))
