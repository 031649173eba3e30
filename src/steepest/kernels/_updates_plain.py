# SPDX-License-Identifier: Apache-2.0
"""The updates in torch, one tensor at a time: for other devices, layouts and dtypes, and to test the kernels by."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from steepest.kernels._updates_hyper import (
    AdamHyper,
    DecayTerms,
    MomentumHyper,
    adam_terms,
    decay_terms,
    momentum_terms,
)
from steepest.kernels._updates_noise import noise_bits, noise_key
from steepest.kernels._updates_states import (
    State,
    decode_plain,
    encode_bits_,
    round_to_bfloat16,
    round_to_float16,
)

Hyper = AdamHyper | MomentumHyper


def adam_plain_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: tuple[Sequence[State], Sequence[State], Sequence[State] | None],
    hyper: AdamHyper,
    lr_scales: Sequence[float] | None,
    chosen: Iterable[int],
) -> None:
    """Do what `adam_step_` does, in torch, with the parameters at these positions."""
    exp_avgs, exp_avg_sqs, max_exp_avg_sqs = states
    a, b, c = adam_terms(hyper)
    decay = decay_terms(hyper)
    for i in chosen:
        p = params[i]
        x, g = _wide(p), _gradient(p, grads[i], hyper, decay)
        bits = _Bits(hyper, i, p)
        m, v = decode_plain(exp_avgs[i]).to(x.dtype), decode_plain(exp_avg_sqs[i], signed=False).to(x.dtype)
        m.lerp_(g, 1 - hyper.beta1)
        square = g * g
        overflown = v.isinf() | square.isinf()  # the difference of infinities would be NaN
        v = torch.where(overflown, v + square, v.lerp(square, 1 - hyper.beta2))
        encode_bits_(exp_avgs[i], m, bits.low(0), signed=True)
        encode_bits_(exp_avg_sqs[i], v, bits.high(0), signed=False)
        if max_exp_avg_sqs is not None:
            v = torch.maximum(v, decode_plain(max_exp_avg_sqs[i], signed=False).to(x.dtype))
            encode_bits_(max_exp_avg_sqs[i], v, bits.low(1), signed=False)
        u = (a * m + b * g if b else a * m) / v.sqrt_().mul_(c).add_(hyper.eps)
        _apply(p, x, u, g, hyper, decay, (hyper.lr if lr_scales is None else hyper.lr * lr_scales[i], bits))


def momentum_plain_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: tuple[Sequence[State] | None],
    hyper: MomentumHyper,
    lr_scales: Sequence[float] | None,
    chosen: Iterable[int],
) -> None:
    """Do what `momentum_step_` does, in torch, with the parameters at these positions."""
    (buffers,) = states
    terms, decay = momentum_terms(hyper, buffers is not None), decay_terms(hyper)
    for i in chosen:
        p = params[i]
        x, g = _wide(p), _gradient(p, grads[i], hyper, decay)
        bits = _Bits(hyper, i, p)
        u = terms.z * g
        if buffers is not None:
            old = decode_plain(buffers[i]).to(x.dtype)
            new = terms.k * old + terms.h * g
            encode_bits_(buffers[i], new, bits.low(0), signed=True)
            u = terms.x * old + (terms.y * new + u)
        if terms.sign:
            u = torch.where(u.isnan(), u, u.sign())
        _apply(p, x, u, g, hyper, decay, (hyper.lr if lr_scales is None else hyper.lr * lr_scales[i], bits))


class _Bits:
    """The random bits of one parameter, 16 an element for each use; None where nothing is rounded at random."""

    def __init__(self, hyper: Hyper, number: int, like: Tensor) -> None:
        self._hyper, self._number, self._like = hyper, number, like

    def _all(self, stream: int) -> Tensor | None:
        if self._hyper.noise is None:
            return None
        return noise_bits(noise_key(self._hyper.noise, self._number, stream), self._like)

    def low(self, stream: int) -> Tensor | None:
        bits = self._all(stream)
        return None if bits is None else bits & 0xFFFF

    def high(self, stream: int) -> Tensor | None:
        bits = self._all(stream)
        return None if bits is None else bits >> 16


def _wide(p: Tensor) -> Tensor:
    return p if p.dtype == torch.float64 else p.to(torch.float32)


def _gradient(p: Tensor, grad: Tensor, hyper: Hyper, decay: DecayTerms) -> Tensor:
    g = _wide(grad) * hyper.grad_scale
    return g + decay.l2 * _wide(p) if decay.l2 else g


def _apply(
    p: Tensor, x: Tensor, u: Tensor, g: Tensor, hyper: Hyper, decay: DecayTerms, rest: tuple[float, _Bits]
) -> None:
    """Write x - lr u - decay to p."""
    lr, bits = rest
    if hyper.cautious:
        kept = ~(u * g.sign() <= 0)  # NaN is kept, so that it shows; the product of two small numbers would be 0
        u = torch.where(kept, u, 0.0)
        # A tensor, not a number: no wait on an accelerator.
        u *= p.numel() / kept.sum().clamp_min(1).to(u.dtype)
    shrink: Tensor | float = decay.shrink
    if decay.masked:
        shrink = (~(u * x.sign() < 0)).to(x.dtype) * decay.shrink
    new = x - shrink * x - lr * u if decay.shrink else x - lr * u
    noise = bits.high(1) if hyper.round_params and p.dtype in (torch.bfloat16, torch.float16) else None
    if noise is None:
        p.copy_(new)
    elif p.dtype == torch.bfloat16:
        p.copy_(round_to_bfloat16(new, noise))
    else:
        p.copy_(round_to_float16(new, noise))
