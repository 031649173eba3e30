# SPDX-License-Identifier: Apache-2.0
"""Activations for gates: device functions for the value and for (value, derivative), and the same in torch.

The derivative shares its exponential with the value. Large inputs are clamped where the answer no longer changes, so
that infinity times zero never arises.
"""

import math

import numpy as np
import torch
from torch import Tensor

from steepest.kernels import _coefficients as k
from steepest.kernels._erf import half_square_exp, quick_gelu_f32
from steepest.kernels._exp import extexp_f32
from steepest.kernels._llvm import fabs, fma, horner, max_or_second, min_or_second, scale, select
from steepest.kernels._registry import device
from steepest.kernels._sigmoid import SHIFT, gelu_tanh_f32, reduce_negated, sigmoid_f32, silu_f32

F32 = np.float32
_ZERO, _MINUS_ZERO, _ONE, _THREE, _SIX = F32(0), F32(-0.0), F32(1), F32(3), F32(6)
_LOWEST, _HIGHEST, _GELU_FARTHEST, _TANH_FARTHEST = F32(-109), F32(60), F32(14.75), F32(12)
_DENSITY = F32(1 / math.sqrt(2 * math.pi))
_EXP, _PHI = k.EXP.coefficients[1:], k.PHI.coefficients

sigmoid, silu, gelu, gelu_tanh = sigmoid_f32, silu_f32, quick_gelu_f32, gelu_tanh_f32


@device
def relu(x):
    """Return max(x, 0); NaN stays NaN."""
    return max_or_second(_ZERO, x)


@device
def relu_slope(x):
    """Return max(x, 0) and 1 where x > 0."""
    return max_or_second(_ZERO, x), select(x > _ZERO, _ONE, _ZERO)


@device
def identity_slope(x):
    """Return x and 1."""
    return x, _ONE


@device
def sigmoid_parts(x):
    """Return sigmoid(x) and sigmoid(-x), both with full relative precision, for |x| <= 130 or NaN."""
    m, n = extexp_f32(-fabs(x))
    z = scale(m, n)
    large = _ONE / (_ONE + z)
    small = z * large
    return select(x >= _ZERO, large, small), select(x >= _ZERO, small, large)


@device
def _both_sides(x):
    """Return sigmoid(x) and sigmoid(-x) for x in [-109, 60] or NaN, each within 3 ulp where it is normal."""
    power, t = reduce_negated(x)
    grown = power * t
    p = horner(t, _EXP)
    inverse = _ONE / fma(grown, p, power + SHIFT)
    return inverse * SHIFT, fma(grown, p, power) * inverse


@device
def sigmoid_slope(x):
    """Return sigmoid(x) and its derivative."""
    s, rest = _both_sides(min_or_second(_HIGHEST, max_or_second(_LOWEST, x)))
    return s, s * rest


@device
def silu_slope(x):
    """Return x sigmoid(x) and its derivative s + x s (1 - s)."""
    low = max_or_second(_LOWEST, x)
    near = min_or_second(_HIGHEST, low)
    s, rest = _both_sides(near)
    return low * s, fma(near * s, rest, s)


@device
def gelu_slope(x):
    """Return x Phi(x) and its derivative Phi(x) + x phi(x)."""
    near = max_or_second(-_GELU_FARTHEST, min_or_second(_GELU_FARTHEST, x))
    a = fabs(near)
    power, t, _, p, _ = half_square_exp(a)
    bell = fma(t, p, _ONE) * power * SHIFT
    r = _ONE / (a + _THREE)
    tail = r * horner(fma(-_SIX, r, _ONE), _PHI) * bell
    cdf = select(x > _ZERO, _ONE - tail, tail)
    return max_or_second(_MINUS_ZERO, x) - a * tail, fma(near * _DENSITY, bell, cdf)


@device
def gelu_tanh_slope(x):
    """Return GELU's tanh form x sigmoid(u) and its derivative s + x s (1 - s) u'."""
    near = max_or_second(-_TANH_FARTHEST, min_or_second(_TANH_FARTHEST, x))
    square = near * near
    u = near * fma(k.GELU_CUBIC, square, k.GELU_LINEAR)
    s, rest = _both_sides(min_or_second(_HIGHEST, max_or_second(_LOWEST, u)))
    slope = fma(_THREE * k.GELU_CUBIC, square, k.GELU_LINEAR)
    return max_or_second(-_TANH_FARTHEST, x) * s, fma(near * s * rest, slope, s)


def plain_sigmoid(x: Tensor) -> Tensor:
    """Return sigmoid(x) with its left tail, in torch."""
    z = torch.exp(-x.abs())
    return torch.where(x >= 0, 1 / (1 + z), z / (1 + z))


def plain_silu(x: Tensor) -> Tensor:
    """Return x sigmoid(x), in torch; -0 at -inf."""
    return x.clamp(min=-1000) * plain_sigmoid(x)


def plain_gelu(x: Tensor) -> Tensor:
    """Return x Phi(x) by erfc, in torch; -0 at -inf."""
    near = x.clamp(min=-60)
    return near * 0.5 * torch.erfc(near * -math.sqrt(0.5))


def plain_gelu_tanh(x: Tensor) -> Tensor:
    """Return GELU's tanh form by a sigmoid, in torch; -0 at -inf."""
    near = x.clamp(-60, 60)
    u = near * (2 * math.sqrt(2 / math.pi)) * (1 + 0.044715 * near * near)
    return x.clamp(min=-60) * plain_sigmoid(u)


def plain_silu_slope(x: Tensor) -> Tensor:
    """Return the derivative of SiLU, in torch."""
    near = x.clamp(-1000, 1000)
    return plain_sigmoid(near) * (1 + near * plain_sigmoid(-near))


def plain_gelu_slope(x: Tensor) -> Tensor:
    """Return the derivative of GELU, in torch."""
    near = x.clamp(-60, 60)
    density = torch.exp(-0.5 * near * near) / math.sqrt(2 * math.pi)
    return 0.5 * torch.erfc(near * -math.sqrt(0.5)) + near * density


def plain_gelu_tanh_slope(x: Tensor) -> Tensor:
    """Return the derivative of GELU's tanh form, in torch."""
    near = x.clamp(-60, 60)
    linear = 2 * math.sqrt(2 / math.pi)
    u, slope = near * linear * (1 + 0.044715 * near * near), linear * (1 + 3 * 0.044715 * near * near)
    return plain_sigmoid(u) * (1 + near * plain_sigmoid(-u) * slope)


def plain_swish(x: Tensor, beta: Tensor) -> Tensor:
    """Return x sigmoid(beta x), in torch; 0 where the sigmoid is 0."""
    s = plain_sigmoid(beta * x)
    return torch.where(s == 0, torch.copysign(s, x), x * s)
