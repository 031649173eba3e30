import itertools

import numpy as np
import pytest
import torch

from steepest.kernels import updates
from steepest.kernels._updates_plain import adam_plain_, momentum_plain_
from steepest.kernels.updates import (
    AdamHyper,
    MomentumHyper,
    Noise,
    Quantized,
    adam_step_,
    encode_state_,
    momentum_step_,
    state_zeros,
)
from tests.reference.updates import adam_steps, momentum_steps

SHAPES = [(), (5,), (16,), (0,), (255,), (17, 31), (3, 1, 1500)]
STEPS = 20
ADAMS = [
    {},
    {"weight_decay": 0.1},
    {"weight_decay": 0.1, "decay": "l2", "beta1": 0.8},
    {"weight_decay": 0.01, "decay": "independent", "grad_scale": 0.25},
    {"weight_decay": 0.5, "decay": "cautious"},
    {"amsgrad": True, "beta2": 0.6},
    {"nadam": True, "weight_decay": 0.1},
    {"nadam": True, "beta1": 0.99, "amsgrad": True},
    {"cautious": True, "weight_decay": 0.2, "decay": "cautious"},
    {"cautious": True, "weight_decay": 0.2, "decay": "l2"},
    {"beta1": 0.0, "beta2": 0.0, "eps": 1e-3},
]
MOMENTA = [
    {},
    {"sign": True},
    {"cautious": True, "sign": True},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "decay": "l2"},
    {"momentum": 0.9, "dampening": 0.5},
    {"momentum": 0.9, "rule": "ema", "weight_decay": 0.3, "decay": "cautious"},
    {"momentum": 0.9, "rule": "ema", "nesterov": True, "grad_scale": 3.0},
    {"momentum": 0.9, "rule": "ema", "sign": True},
    {"momentum": 0.99, "rule": "lion", "weight_decay": 0.1},
    {"momentum": 0.99, "rule": "lion", "cautious": True},
]


def tensors(dtype, seed=0, shapes=SHAPES):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for s in shapes]


def adam_by(step, params, options, *, state=torch.float32, steps=STEPS, noise=True, seed=1, round_params=False):
    """Parameters and states after some steps."""
    options = dict(options)
    amsgrad = options.pop("amsgrad", False)
    params = [p.clone() for p in params]
    states = [[state_zeros(p, state) for p in params] for _ in range(3)]
    for t in range(1, steps + 1):
        grads = gradients(params[0].dtype, t, shapes=[p.shape for p in params])
        hyper = AdamHyper(
            lr=0.01, step=t, noise=Noise(seed, t) if noise else None, round_params=round_params, **options
        )
        scales = [1 + 0.5 * i for i in range(len(params))]
        step(params, grads, states[0], states[1], states[2] if amsgrad else None, hyper, scales)
    return params, states


def momentum_by(step, params, options, *, state=torch.float32, steps=STEPS, noise=True, round_params=False):
    params = [p.clone() for p in params]
    needs = options.get("momentum") or options.get("rule") == "lion"
    buffers = [state_zeros(p, state) for p in params] if needs else None
    for t in range(1, steps + 1):
        grads = gradients(params[0].dtype, t, shapes=[p.shape for p in params])
        hyper = MomentumHyper(
            lr=0.01, step=t, noise=Noise(1, t) if noise else None, round_params=round_params, **options
        )
        step(params, grads, buffers, hyper, [1 + 0.5 * i for i in range(len(params))])
    return params, [buffers or []]


def gradients(dtype, t, shapes=SHAPES):
    return [g * (1 + t % 3) for g in tensors(dtype, 100 + t, shapes)]


def plain_adam(params, grads, m, v, x, hyper, scales):
    chosen = [i for i, p in enumerate(params) if p.numel()]
    adam_plain_(params, grads, (m, v, x), hyper, scales, chosen)


def plain_momentum(params, grads, buffers, hyper, scales):
    momentum_plain_(params, grads, (buffers,), hyper, scales, [i for i, p in enumerate(params) if p.numel()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", ADAMS, ids=str)
def test_adam_equals_its_formula(options, dtype):
    start = tensors(dtype)
    for step in (adam_step_, plain_adam):
        found, _ = adam_by(step, start, options, state=dtype)
        for i, p in enumerate(start):
            right = adam_steps(
                p.numpy(), [gradients(dtype, t)[i].numpy() for t in range(1, STEPS + 1)], lr=0.01,
                lr_scale=1 + 0.5 * i, **options,
            )  # fmt: skip
            tolerance = 3e-6 if dtype is torch.float32 else 1e-13
            np.testing.assert_allclose(found[i].double().numpy(), right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", MOMENTA, ids=str)
def test_momentum_equals_its_formula(options, dtype):
    start = tensors(dtype)
    for step in (momentum_step_, plain_momentum):
        found, _ = momentum_by(step, start, options, state=dtype)
        for i, p in enumerate(start):
            right = momentum_steps(
                p.numpy(), [gradients(dtype, t)[i].numpy() for t in range(1, STEPS + 1)], lr=0.01,
                lr_scale=1 + 0.5 * i, **options,
            )  # fmt: skip
            tolerance = 1e-5 if dtype is torch.float32 else 1e-13
            np.testing.assert_allclose(found[i].double().numpy(), right, rtol=tolerance, atol=tolerance)


def bits(state):
    if isinstance(state, Quantized):
        return state.codes.to(torch.int32)
    return state.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[state.element_size()]).to(torch.int32)


@pytest.mark.parametrize("param", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state", [torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("noise", [True, False])
def test_kernels_write_what_the_plain_versions_write(param, state, noise):
    start = tensors(param)
    cases = [
        (adam_by, adam_step_, plain_adam, {"weight_decay": 0.1}),
        (adam_by, adam_step_, plain_adam, {"cautious": True, "amsgrad": True}),
        (momentum_by, momentum_step_, plain_momentum, {"momentum": 0.9, "nesterov": True}),
        # With the default beta1 = 0.9 gradients in the ratio 10 : -9, which 8 bits can hold, cancel but for rounding.
        (
            momentum_by,
            momentum_step_,
            plain_momentum,
            {"momentum": 0.9, "beta1": 0.937, "rule": "lion", "cautious": True},
        ),
    ]
    for run, fast, plain, options in cases:
        mine, states = run(fast, start, options, state=state, steps=3, noise=noise, round_params=noise)
        theirs, others = run(plain, start, options, state=state, steps=3, noise=noise, round_params=noise)
        pairs = list(zip(itertools.chain(mine, *states), itertools.chain(theirs, *others), strict=True))
        # A last bit of float32 may differ, and decide the rounding of a few, or on which side of a mask they are.
        far = sum(int(differ(a, b).sum()) for a, b in pairs)
        assert far <= 0.004 * sum(bits(a).numel() for a, _ in pairs)


def differ(a, b):
    """Where float32 differs beyond rounding, or shorter formats at all."""
    if isinstance(a, Quantized) or a.element_size() < 4:
        return bits(a) != bits(b)
    return ~torch.isclose(a, b, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("state", [torch.float32, torch.bfloat16, torch.uint8])
def test_the_bits_do_not_depend_on_the_number_of_threads(state):
    start = tensors(torch.bfloat16, shapes=[(700, 999), (3,), (5001,)])
    torch.set_num_threads(1)
    one = adam_by(adam_step_, start, {"cautious": True}, state=state, steps=2, round_params=True)
    torch.set_num_threads(3)
    three = adam_by(adam_step_, start, {"cautious": True}, state=state, steps=2, round_params=True)
    for a, b in zip(itertools.chain(one[0], *one[1]), itertools.chain(three[0], *three[1]), strict=True):
        assert torch.equal(bits(a), bits(b))


def test_other_seeds_and_offsets_give_other_bits():
    start = tensors(torch.float32, shapes=[(1000,)])
    runs = [adam_by(adam_step_, start, {}, state=torch.bfloat16, steps=1, seed=s)[1][0][0] for s in (0, 1, 0)]
    assert torch.equal(runs[0], runs[2])
    assert not torch.equal(runs[0], runs[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_parameters_rounded_at_random_keep_small_steps(dtype):
    p = torch.ones(1 << 14, dtype=dtype)
    p[::2] = 3e-5  # subnormal in float16
    before = p.double()
    g = torch.ones_like(p)
    for t in range(1, 201):
        momentum_step_([p], [g], None, MomentumHyper(lr=1e-6, noise=Noise(0, t), round_params=True))
    moved = (before - p.double()).view(-1, 2).mean(0)
    torch.testing.assert_close(moved, torch.full_like(moved, 2e-4), rtol=0.15, atol=0)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_torch(nesterov):
    p = torch.randn(40, 33)
    q = p.clone().requires_grad_()
    other = torch.optim.SGD([q], lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01)
    b = torch.zeros_like(p)
    for t in range(1, 11):
        q.grad = torch.randn_like(p)
        momentum_step_(
            [p], [q.grad], [b],
            MomentumHyper(lr=0.1, momentum=0.9, nesterov=nesterov, weight_decay=0.01, decay="l2", step=t),
        )  # fmt: skip
        other.step()
    torch.testing.assert_close(p, q.detach(), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "NAdam", "amsgrad"])
def test_adam_equals_torch(name):
    p = torch.randn(40, 33)
    q = p.clone().requires_grad_()
    make = {
        "Adam": lambda: torch.optim.Adam([q], lr=0.01, weight_decay=0.1),
        "AdamW": lambda: torch.optim.AdamW([q], lr=0.01, weight_decay=0.1),
        "NAdam": lambda: torch.optim.NAdam([q], lr=0.01, weight_decay=0.1),
        "amsgrad": lambda: torch.optim.AdamW([q], lr=0.01, weight_decay=0.1, amsgrad=True),
    }
    other = make[name]()
    m, v, x = (torch.zeros_like(p) for _ in range(3))
    decay = "l2" if name in ("Adam", "NAdam") else "decoupled"
    for t in range(1, 11):
        q.grad = torch.randn_like(p)
        hyper = AdamHyper(lr=0.01, weight_decay=0.1, decay=decay, nadam=name == "NAdam", step=t)
        adam_step_([p], [q.grad], [m], [v], [x] if name == "amsgrad" else None, hyper)
        other.step()
    torch.testing.assert_close(p, q.detach(), rtol=3e-6, atol=3e-6)


def test_other_layouts_mixed_dtypes_and_gradients_are_taken_as_they_are():
    params = [torch.randn(6, 5).t(), torch.randn(40, dtype=torch.bfloat16), torch.randn(9, dtype=torch.float64)]
    params.append(torch.nn.Parameter(torch.randn(8)))
    before = [p.detach().clone() for p in params]
    grads = [torch.randn(p.shape).to(p.dtype) for p in params]
    kept = [g.clone() for g in grads]
    states = [[state_zeros(p, torch.float32) for p in params] for _ in range(2)]
    adam_step_(params, grads, *states, None, AdamHyper(lr=0.1))
    for p, old, g, same in zip(params, before, grads, kept, strict=True):
        torch.testing.assert_close(p.detach(), old - 0.1 * g.sign(), rtol=1e-2, atol=1e-4)
        assert torch.equal(g, same)


def test_autograd_sees_the_change():
    p = torch.ones(5, requires_grad=True)
    loss = (p * p).sum()
    momentum_step_([p], [torch.ones(5)], None, MomentumHyper(lr=0.1))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_is_refused():
    p, g = torch.zeros(3), torch.zeros(3)
    with pytest.raises(ValueError, match="one length"):
        adam_step_([p], [g, g], [p], [p], None, AdamHyper(lr=0.1))
    with pytest.raises(ValueError, match="shape"):
        adam_step_([p], [torch.zeros(4)], [p], [p], None, AdamHyper(lr=0.1))
    with pytest.raises(ValueError, match="shape"):
        momentum_step_([torch.zeros(2, 3)], [torch.zeros(3, 2)], None, MomentumHyper(lr=0.1))
    with pytest.raises(ValueError, match="count from 1"):
        adam_step_([p], [g], [p], [p], None, AdamHyper(lr=0.1, step=0))
    with pytest.raises(ValueError, match="decay"):
        adam_step_([p], [g], [p], [p], None, AdamHyper(lr=0.1, decay="none"))
    with pytest.raises(ValueError, match="needs buffers"):
        momentum_step_([p], [g], None, MomentumHyper(lr=0.1, momentum=0.9))
    with pytest.raises(ValueError, match="sgd, ema or lion"):
        momentum_step_([p], [g], None, MomentumHyper(lr=0.1, rule="adam"))
    with pytest.raises(ValueError, match="state_zeros expects"):
        state_zeros(p, torch.int64)
    with pytest.raises(ValueError, match="encode_state_ expects"):
        encode_state_(state_zeros(p, torch.uint8), torch.zeros(4))


def test_all_names_have_documentation():
    assert all(getattr(updates, name).__doc__ for name in updates.__all__ if name not in ("Decay", "State"))


@pytest.mark.parametrize("step", [momentum_step_, plain_momentum])
def test_masks_compare_signs_where_the_product_would_be_zero(step):
    tiny = torch.full((40,), 1e-30)
    p, buffer = torch.full((40,), -1e-30), torch.zeros(40)
    hyper = MomentumHyper(lr=0.5, momentum=0.9, cautious=True, weight_decay=1.0, decay="cautious")
    step([p], [tiny], [buffer], hyper, None)
    torch.testing.assert_close(p, torch.full((40,), -1.5e-30), rtol=1e-6, atol=0)  # stepped, and not decayed
