"""What the engine does around every rule, each option against a reference."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from steepest.geometry.polar import polar_factor
from steepest.optim import SGD, AdamW, Lion, Muon, Options, Signum
from steepest.optim.apply import Factors, cautious, subtract_
from tests.optim.gradients import MATRICES, VECTORS, assert_follows, give_gradients, gradient, parameters, run
from tests.reference import options as reference

SHAPES = (*MATRICES, *VECTORS)
KINDS = ["full", "rank one", "zero"]


def exact(x: torch.Tensor) -> torch.Tensor:
    return polar_factor(x, method="svd")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("nesterov", [False, True])
def test_cautious_steps_equal_the_formula(nesterov, kind):
    params = parameters(SHAPES)
    optimizer = SGD(params, lr=0.05, momentum=0.9, nesterov=nesterov, options=Options(cautious=True))
    settings = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "caution": True}
    assert_follows(optimizer, params, lambda w, g: reference.momentum_steps(w, g, **settings), kind=kind)


def test_caution_keeps_descent_whatever_the_direction_and_its_whole_weight():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        u, g = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
        kept = cautious(u, g, (-2, -1))
        assert (kept * g >= 0).all()
        assert (kept != 0).sum() == (u * g > 0).sum()
    torch.testing.assert_close(cautious(g, g, (-2, -1)), g)
    assert not cautious(-g, g, (-2, -1)).any()


def test_caution_sees_the_signs_of_numbers_whose_product_is_zero():
    u = torch.tensor([[1e-30, -1e-30, 0.0, torch.nan]])
    g = torch.tensor([[1e-30, 1e-30, 1.0, 1.0]])
    kept = cautious(u, g, (-2, -1))
    assert kept[0, 0] == u[0, 0] * 2
    assert kept[0, 1:3].tolist() == [0, 0]
    assert kept[0, 3].isnan()


def test_caution_counts_each_matrix_of_a_batch_by_itself():
    """Two equal matrices in one batch get what each gets alone."""
    alone, batch = parameters([(4, 3)]), parameters([(4, 3), (4, 3)])
    with torch.no_grad():
        batch[1].mul_(-2)
    options = Options(cautious=True)
    one, two = Muon(alone, polar=exact, options=options), Muon(batch, polar=exact, options=options)
    for step in range(5):
        give_gradients(alone, step)
        batch[0].grad, batch[1].grad = alone[0].grad.clone(), gradient((4, 3), step, 7)
        one.step()
        two.step()
    torch.testing.assert_close(alone[0], batch[0])


@pytest.mark.parametrize("kind", KINDS)
def test_cautious_decay_of_a_matrix_rule_equals_the_formula(kind):
    """Decay where the step moves an entry towards zero (or not at all), against NumPy with an exact polar factor."""
    params = parameters(MATRICES)
    optimizer = Muon(
        params, lr=0.05, momentum=0.9, nesterov=False, weight_decay=0.3, polar=exact, options=Options(decay="cautious")
    )

    def steps(w, gradients):
        buffer = np.zeros(w.shape)
        for g in gradients:
            buffer = 0.9 * buffer + 0.1 * g
            left, s, right = np.linalg.svd(buffer, full_matrices=False)
            u = (left * (s > s.max(initial=0) * 1e-12)) @ right
            decayed = w - 0.05 * 0.3 * np.where(u * w >= 0, w, 0)
            w = decayed - 0.05 * math.sqrt(max(1, w.shape[0] / w.shape[1])) * u
        return w

    assert_follows(optimizer, params, steps, kind=kind)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_cautious_decay_never_slows_a_step_away_from_zero(dtype):
    p = torch.tensor([2.0, -2.0, 2.0, -2.0, 2.0]).to(dtype)
    u = torch.tensor([1.0, -1.0, -1.0, 1.0, 0.0]).to(torch.promote_types(dtype, torch.float32))
    subtract_([p], [u], Factors(step=0.5, keep=0.75, decay="cautious"))
    assert p.tolist() == [1.0, -1.0, 2.5, -2.5, 1.5]


def test_caution_about_decay_needs_no_learning_rate():
    """At a learning rate of zero a scheduler has switched the step off, and the decay with it."""
    p = nn.Parameter(torch.ones(2, 2))
    optimizer = AdamW([p], weight_decay=0.1, options=Options(decay="cautious"))
    optimizer.param_groups[0]["lr"] = 0.0
    p.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(p, torch.ones(2, 2))


@pytest.mark.parametrize("shape", [(12, 5), (5, 12), (8, 8), (1, 7), (7, 1)])
def test_hyperball_equals_the_formula(shape):
    params = parameters([shape])
    radius = params[0].detach().norm().item()
    optimizer = SGD(params, lr=0.1, momentum=0.9, options=Options(hyperball=True))
    settings = {"lr": 0.1, "momentum": 0.9, "radius": radius}
    assert_follows(optimizer, params, lambda w, g: reference.momentum_steps(w, g, **settings))
    assert params[0].detach().norm().item() == pytest.approx(radius)


@pytest.mark.parametrize("make", [AdamW, Lion, Muon, Signum])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hyperball_keeps_the_length_of_the_start_under_every_rule(make, dtype):
    params = parameters([(12, 5), (5, 12), (5, 12)], dtype)
    lengths = [p.detach().norm() for p in params]
    start = [p.detach().clone() for p in params]
    run(make(params, lr=0.1, weight_decay=0.5, options=Options(hyperball=True)), params, range(10))
    for p, length, before in zip(params, lengths, start, strict=True):
        torch.testing.assert_close(p.detach().norm(), length, rtol=1e-6, atol=0)
        assert (p - before).norm() > 0.1 * length


def test_hyperball_step_is_the_learning_rate_of_the_length_whatever_the_shape_factor():
    for scale in ("none", "original", "match_rms"):
        p = nn.Parameter(torch.eye(6, 2, dtype=torch.float64))
        p.grad = torch.flip(torch.eye(6, 2, dtype=torch.float64), (0,))  # at a right angle to the weights
        Muon([p], lr=0.5, polar=exact, options=Options(hyperball=True, lr_scale=scale)).step()
        cosine = (p.detach() * torch.eye(6, 2)).sum() / 2
        assert cosine.item() == pytest.approx(1 / math.hypot(1, 0.5))


def test_hyperball_keeps_the_length_of_each_block_and_each_expert():
    blocks, experts = parameters([(9, 4), (3, 4, 5)])
    with torch.no_grad():
        blocks[:3] *= 5
        experts[1] *= 7
    optimizer = Muon(
        [
            {"params": [blocks], "blocks": (3, 6)},
            {"params": [experts], "role": "experts"},
        ],
        lr=0.1,
        options=Options(hyperball=True),
    )
    before = [part.detach().norm() for part in (*blocks.split((3, 6)), *experts)]
    run(optimizer, [blocks, experts], range(5))
    for part, length in zip((*blocks.split((3, 6)), *experts), before, strict=True):
        torch.testing.assert_close(part.detach().norm(), length, rtol=1e-6, atol=0)


def test_hyperball_in_a_transposed_convolution():
    p = parameters([(6, 4, 3)])[0]
    length = p.detach().norm()
    group = {"params": [p], "role": "conv", "transposed": True, "groups": 2}
    optimizer = Muon([group], lr=0.1, options=Options(hyperball=True))
    run(optimizer, [p], range(3))
    torch.testing.assert_close(p.detach().norm(), length, rtol=1e-6, atol=0)


def test_hyperball_leaves_vectors_free_and_refuses_zero_matrices():
    params = parameters([(3, 3), (4,)])
    with torch.no_grad():
        params[1].zero_()
    run(AdamW(params, lr=0.1, options=Options(hyperball=True)), params, range(1))
    torch.testing.assert_close(params[1].detach().abs(), torch.full((4,), 0.1, dtype=torch.float64))
    zero = nn.Parameter(torch.zeros(2, 2))
    optimizer = AdamW([zero], options=Options(hyperball=True))
    zero.grad = torch.ones(2, 2)
    for _ in range(2):
        with pytest.raises(ValueError, match="hyperball"):
            optimizer.step()
    assert not optimizer.state[zero]


def test_hyperball_resumes():
    whole, half = parameters([(4, 5), (3,)]), parameters([(4, 5), (3,)])
    settings = {"lr": 0.1, "options": Options(hyperball=True)}
    run(Signum(whole, **settings), whole, range(6))
    first = Signum(half, **settings)
    run(first, half, range(3))
    with torch.no_grad():
        half[0].mul_(1.5)  # The length is that of the start, not that of the time of loading.
    second = Signum(half, **settings)
    second.load_state_dict(first.state_dict())
    run(second, half, range(3, 6))
    torch.testing.assert_close(half[0].detach().norm(), whole[0].detach().norm())


@pytest.mark.parametrize("clip", [0.1, 2.0, 1e3])
def test_clipping_of_plain_lengths_equals_the_formula(clip):
    params = parameters(SHAPES)
    optimizer = SGD(params, lr=0.05, momentum=0.9, options=Options(clip=clip))
    settings = {"lr": 0.05, "momentum": 0.9, "clip": clip}
    assert_follows(optimizer, params, lambda w, g: reference.momentum_steps(w, g, **settings))


def test_clipping_measures_by_the_dual_norm_of_the_rule():
    """The nuclear norm under the spectral norm, the sum of sizes under l-infinity, the length where there is none."""
    grad = gradient((6, 4), 0, 0)
    duals = {
        "Muon": torch.linalg.matrix_norm(grad, "nuc"),
        "Lion": grad.abs().sum(),
        "AdamW": grad.norm(),
        "SGD": grad.norm(),
    }
    for make, key in ((Muon, "momentum_buffer"), (Lion, "momentum_buffer"), (AdamW, "exp_avg"), (SGD, None)):
        p = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
        p.grad = grad.clone()
        settings = {"momentum": 0.5} if make is SGD else {}
        optimizer = make([p], options=Options(clip=0.25), **settings)
        optimizer.step()
        kept = optimizer.state[p][key or "momentum_buffer"]
        share = {"Muon": 0.05, "Lion": 0.01, "AdamW": 0.1, "SGD": 1.0}[make.__name__]
        torch.testing.assert_close(kept, share * 0.25 / duals[make.__name__] * grad)


def test_clipping_of_large_finite_gradients_does_not_wipe_them_out():
    p = nn.Parameter(torch.zeros(3, 3))
    p.grad = torch.full((3, 3), 1e25)
    SGD([p], lr=1.0, options=Options(clip=3.0)).step()
    torch.testing.assert_close(p.detach(), torch.full((3, 3), -1.0))


@pytest.mark.parametrize("make", [AdamW, Muon])
def test_a_gradient_that_is_not_finite(make):
    names = [("first.weight", nn.Parameter(torch.eye(3))), ("second.weight", nn.Parameter(torch.eye(3)))]
    for policy in ("propagate", "skip", "raise"):
        params = [nn.Parameter(p.detach().clone()) for _, p in names]
        optimizer = make(list(zip([n for n, _ in names], params, strict=True)), options=Options(nonfinite=policy))
        for p in params:
            p.grad = torch.ones(3, 3)
        params[1].grad[1, 2] = torch.inf if policy == "skip" else torch.nan
        before = [p.detach().clone() for p in params]
        if policy == "raise":
            with pytest.raises(ValueError, match=r"second\.weight"):
                optimizer.step()
        else:
            optimizer.step()
        if policy == "propagate":
            assert params[1].isnan().any()
            continue
        assert all(torch.equal(p, b) for p, b in zip(params, before, strict=True))
        assert not any(optimizer.state[p] for p in params)
        assert optimizer.skipped == (policy == "skip")
        params[1].grad = torch.ones(3, 3)
        optimizer.step()
        assert all(not torch.equal(p, b) for p, b in zip(params, before, strict=True))


@pytest.mark.parametrize(
    ("mode", "factors"),
    [
        ("none", (1, 1, 1)),
        ("original", (2, 1, 1)),
        ("match_rms", (0.2 * math.sqrt(8), 0.2 * math.sqrt(8), 0.2 * math.sqrt(2))),
        ("spectral", (2, 0.5, 1)),
        ("mup", (2, 0.5, 1)),
    ],
)
@pytest.mark.parametrize("make", [Signum, Muon])
def test_every_factor_by_shape_reaches_the_step(make, mode, factors):
    """8 x 2, 2 x 8 and 2 x 2 matrices; for mup the learning rate was tuned at width 4, or 2 for the square one."""
    shapes = [(8, 2), (2, 8), (2, 2)]
    for shape, factor in zip(shapes, factors, strict=True):
        width = 2 if shape == (2, 2) else 4
        scaled, plain = (nn.Parameter(torch.zeros(shape, dtype=torch.float64)) for _ in range(2))
        for p, name in ((scaled, mode), (plain, "none")):
            p.grad = gradient(shape, 0, 0)
            options = Options(lr_scale=name, base_width=width if name == "mup" else None)
            make([p], lr=0.1, options=options, **({"polar": exact} if make is Muon else {})).step()
        torch.testing.assert_close(scaled, plain * factor)


@pytest.mark.parametrize("mode", ["original", "match_rms", "spectral", "mup"])
def test_vectors_and_embeddings_under_mup_have_no_factor(mode):
    vector, embedding = nn.Parameter(torch.zeros(16)), nn.Parameter(torch.zeros(3, 16))
    vector.grad, embedding.grad = torch.ones(16), torch.ones(3, 16)
    groups = [{"params": [vector]}, {"params": [embedding], "role": "embedding"}]
    Signum(groups, lr=0.5, options=Options(lr_scale=mode, base_width=4)).step()
    assert torch.equal(vector.detach(), torch.full((16,), -0.5))
    assert torch.equal(embedding.detach(), torch.full((3, 16), -0.5)) == (mode in ("mup", "original"))


def test_a_matrix_stored_the_other_way_has_the_factor_of_its_outputs():
    for transposed in (False, True):
        p = nn.Parameter(torch.zeros(8, 2))
        p.grad = torch.ones(8, 2)
        Signum([{"params": [p], "transposed": transposed}], lr=1.0, options=Options(lr_scale="spectral")).step()
        assert p[0, 0].item() == pytest.approx(-0.5 if transposed else -2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": "decopled"}, "decay"),
        ({"lr_scale": "muP"}, "lr_scale"),
        ({"lr_scale": "mup"}, "base_width"),
        ({"clip": 0.0}, "clip"),
        ({"clip": -1.0}, "clip"),
        ({"nonfinite": "ignore"}, "nonfinite"),
        ({"state_dtype": "float8"}, "state_dtype"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Options(**settings)
