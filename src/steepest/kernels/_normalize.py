# SPDX-License-Identifier: Apache-2.0
"""Normalization of rows: the loops that RMSNorm, LayerNorm and l2 normalization share.

A row that has been shifted by its mean (LayerNorm) is divided by a scale, then multiplied by a gain and shifted by a
bias. Backward reads the row again rather than keep statistics: it is in cache, the second time.
"""

import functools
import math
from typing import Any

import numpy as np
import torch

from steepest.kernels._llvm import f32_pointer
from steepest.kernels._op import DTYPES
from steepest.kernels._registry import Kernel, device, specialize
from steepest.kernels._rows import RUN
from steepest.kernels._vector import (
    WIDTH,
    bfloat_pointer,
    first_lanes,
    half_pointer,
    lanes_max,
    lanes_sum,
    load,
    load_some,
    splat,
    vfma,
    vmax,
)
from steepest.kernels._vector_stores import store, store_some

F32 = np.float32
#: Rows whose share of the gain's gradient is added up in float32; blocks of them are added in float64.
ROWS_PER_BLOCK = 32
#: Time of one element of one sweep on one thread, about.
NANOSECONDS = 0.4
_ZERO, _ONE, _MINUS_ONE = F32(0), F32(1), F32(-1)
# A row whose mean square is not between these is multiplied by a power of two first.
_LOWEST, _HIGHEST = 2.0**-90, 2.0**110
# No norm of a row near 1 is below this, whose reciprocal is finite.
_SMALLEST = 2.0**-126
_TWO_STEPS = 2 * WIDTH
POINTERS: dict[str, Any] = {"f32": f32_pointer, "bf16": bfloat_pointer, "f16": half_pointer}


@device
def rms_rate(total, width, eps, factor):
    """Return (1 / s, d(1/s)/d(total) up to sign, mean square) of s = sqrt(mean + eps), the row times `factor`."""
    mean = total / width + float(eps) * factor * factor
    return 1 / math.sqrt(mean), 1 / (width * mean), total / width + float(eps)


@device
def l2_rate(total, width, eps, factor):
    """Return the same of s = max(sqrt(total), eps)."""
    norm, least = math.sqrt(total), max(float(eps) * factor, _SMALLEST)
    if norm < least:
        return 1 / least, 0.0, total / width + float(eps) * float(eps)
    return 1 / norm, 1 / total, total / width + float(eps) * float(eps)


# Placeholders of the templates: s is what is normalized, x the summand before a residual is added, y the output.
x_pointer: Any = f32_pointer
s_pointer: Any = f32_pointer
y_pointer: Any = f32_pointer
rate: Any = rms_rate
ADD = False
CENTER = False
GAIN = True


@device
def _mean(s, c, width, factor):
    # The first element comes off before the sum, so that a mean far from 0 does not cost the sum its digits.
    whole, total, pivot = width // WIDTH * WIDTH, 0.0, F32(lanes_sum(load_some(s, c, 1))) * factor
    for first in range(0, width, RUN):
        lanes, end = splat(_ZERO), min(first + RUN, whole)
        for i in range(first, end, WIDTH):
            lanes = lanes + (load(s, c + i) * factor - pivot)
        if first + RUN > whole and whole < width:
            count = width - whole
            lanes = lanes + first_lanes(load_some(s, c + whole, count) * factor - pivot, count)
        total += lanes_sum(lanes)
    mean = float(pivot) + total / width
    high = F32(mean)
    return high, F32(mean - float(high))


@device
def _squares(s, c, width, high, low, factor):
    whole, total = width // WIDTH * WIDTH, 0.0
    for first in range(0, width, RUN):
        lanes, more, end = splat(_ZERO), splat(_ZERO), min(first + RUN, whole)
        for i in range(first, end - WIDTH, _TWO_STEPS):
            v = load(s, c + i) * factor - high - low
            u = load(s, c + i + WIDTH) * factor - high - low
            lanes, more = vfma(v, v, lanes), vfma(u, u, more)
        if (end - first) % _TWO_STEPS:
            v = load(s, c + end - WIDTH) * factor - high - low
            lanes = vfma(v, v, lanes)
        if first + RUN > whole and whole < width:
            count = width - whole
            v = first_lanes(load_some(s, c + whole, count) * factor - high - low, count)
            lanes = vfma(v, v, lanes)
        total += lanes_sum(lanes) + lanes_sum(more)
    return total


@device
def _products(s, grad, weight, c, d, width, high, low, factor, gain):
    """Return the sums of v^2, g v and g, for the shifted row v and g the gradient times the gain."""
    whole, squares, products, sums = width // WIDTH * WIDTH, 0.0, 0.0, 0.0
    for first in range(0, width, RUN):
        lanes, more, most, end = splat(_ZERO), splat(_ZERO), splat(_ZERO), min(first + RUN, whole)
        for i in range(first, end, WIDTH):
            v, g = load(s, c + i) * factor - high - low, load(grad, d + i)
            if gain:
                g = g * load(weight, i)
            lanes, more, most = vfma(v, v, lanes), vfma(g, v, more), most + g
        if first + RUN > whole and whole < width:
            count = width - whole
            v = first_lanes(load_some(s, c + whole, count) * factor - high - low, count)
            g = load_some(grad, d + whole, count)
            if gain:
                g = g * load_some(weight, whole, count)
            lanes, more, most = vfma(v, v, lanes), vfma(g, v, more), most + g
        squares += lanes_sum(lanes)
        products += lanes_sum(more)
        sums += lanes_sum(most)
    return squares, products, sums


@device
def better_factor(s, c, width):
    """Return the power of two that brings the largest element of a row near 1."""
    whole, top = width // WIDTH * WIDTH, splat(_ZERO)
    for i in range(0, whole, WIDTH):
        v = load(s, c + i)
        top = vmax(top, vmax(v, v * _MINUS_ONE))
    if whole < width:
        v = load_some(s, c + whole, width - whole)
        top = vmax(top, vmax(v, v * _MINUS_ONE))
    return power_below(lanes_max(top))


@device
def power_below(size):
    """Return the reciprocal of the power of two above a size; 1 where there is none."""
    if size == _ZERO or size == np.inf:
        return _ONE
    return F32(math.ldexp(1.0, min(max(-math.frexp(size)[1], -126), 127)))


@device
def fine(square):
    """Return whether a mean square is far from overflow and underflow."""
    return _LOWEST < square < _HIGHEST


def _value(addresses, distances, width, eps, start, stop):
    x, r, s = x_pointer(addresses[0]), s_pointer(addresses[1]), s_pointer(addresses[2])
    weight, bias, y = f32_pointer(addresses[3]), f32_pointer(addresses[4]), y_pointer(addresses[5])
    whole, rest = width // WIDTH * WIDTH, width % WIDTH
    for row in range(start, stop):
        c, d, high, low, factor = row * distances[2], row * width, _ZERO, _ZERO, _ONE
        if ADD:
            a, b = row * distances[0], row * distances[1]
            for i in range(0, whole, WIDTH):
                store(s, c + i, load(x, a + i) + load(r, b + i))
            if rest:
                store_some(s, c + whole, load_some(x, a + whole, rest) + load_some(r, b + whole, rest), rest)
        exact = 0.0
        for attempt in range(2):
            if CENTER:
                high, low = _mean(s, c, width, factor)
            total = _squares(s, c, width, high, low, factor)
            exact, _, square = rate(total, width, eps, factor)
            if fine(square) or attempt == 1:
                break
            factor = better_factor(s, c, width)
        scale = F32(exact)
        for i in range(0, whole, WIDTH):
            v = (load(s, c + i) * factor - high - low) * scale
            if GAIN:
                v = v * load(weight, i)
            if CENTER:
                v = v + load(bias, i)
            store(y, d + i, v)
        if rest:
            v = (load_some(s, c + whole, rest) * factor - high - low) * scale
            if GAIN:
                v = v * load_some(weight, whole, rest)
            if CENTER:
                v = v + load_some(bias, whole, rest)
            store_some(y, d + whole, v, rest)


@device
def _row_gradient(g, v, weight_lanes, before, scale, mean, pull, gain):
    if gain:
        g = g * weight_lanes
    return vfma(vfma(v, pull, g - mean), scale, before)


def _gradient(addresses, s_distance, width, rows, eps, start, stop):
    grad, s, weight = y_pointer(addresses[0]), s_pointer(addresses[2]), f32_pointer(addresses[3])
    sum_grad, out, partial = s_pointer(addresses[1]), s_pointer(addresses[4]), f32_pointer(addresses[5])
    whole, rest, zero = width // WIDTH * WIDTH, width % WIDTH, splat(_ZERO)
    for block in range(start, stop):
        e = 2 * block * width if CENTER else block * width
        if GAIN:
            for i in range(2 * width if CENTER else width):
                partial[e + i] = _ZERO
        for row in range(block * ROWS_PER_BLOCK, min((block + 1) * ROWS_PER_BLOCK, rows)):
            c, d, high, low, factor = row * s_distance, row * width, _ZERO, _ZERO, _ONE
            exact = slope = products = sums = 0.0
            for attempt in range(2):
                if CENTER:
                    high, low = _mean(s, c, width, factor)
                squares, products, sums = _products(s, grad, weight, c, d, width, high, low, factor, GAIN)
                exact, slope, square = rate(squares, width, eps, factor)
                if fine(square) or attempt == 1:
                    break
                factor = better_factor(s, c, width)
            mean = F32(sums / width) if CENTER else _ZERO
            scale, pull = F32(exact), F32(-products * slope)
            # The factor belongs to the derivative by the row itself; 1 but for extreme rows.
            whole_scale = F32(exact * factor)
            for i in range(0, whole, WIDTH):
                v, g = load(s, c + i) * factor - high - low, load(grad, d + i)
                before = load(sum_grad, d + i) if ADD else zero
                w = load(weight, i) if GAIN else zero
                store(out, d + i, _row_gradient(g, v, w, before, whole_scale, mean, pull, GAIN))
                if GAIN:
                    store(partial, e + i, vfma(g, v * scale, load(partial, e + i)))
                if CENTER:
                    store(partial, e + width + i, load(partial, e + width + i) + g)
            if rest:
                v, g = load_some(s, c + whole, rest) * factor - high - low, load_some(grad, d + whole, rest)
                before = load_some(sum_grad, d + whole, rest) if ADD else zero
                w = load_some(weight, whole, rest) if GAIN else zero
                store_some(out, d + whole, _row_gradient(g, v, w, before, whole_scale, mean, pull, GAIN), rest)
                if GAIN:
                    kept = load_some(partial, e + whole, rest)
                    store_some(partial, e + whole, vfma(g, v * scale, kept), rest)
                if CENTER:
                    kept = load_some(partial, e + width + whole, rest)
                    store_some(partial, e + width + whole, kept + g, rest)


_VALUE = "void(UniTuple(intp, 6), UniTuple(intp, 3), intp, float64, intp, intp)"
_GRADIENT = "void(UniTuple(intp, 6), intp, intp, intp, float64, intp, intp)"


@functools.cache
def row_kernel(name: str, gradient: bool, dtypes: tuple[torch.dtype, torch.dtype, torch.dtype], add: bool) -> Kernel:
    """Return the kernel of "rms_norm", "layer_norm" or "l2_normalize" for rows.

    Args:
        name: Which.
        gradient: Whether of the gradient.
        dtypes: Of x, of s and of the output.
        add: Whether a residual is added first.

    Returns:
        The kernel.
    """
    x, s, y = (DTYPES[dtype] for dtype in dtypes)
    parts = [("add_" if add else "") + name + ("_gradient" if gradient else ""), *([] if gradient else [x]), s, y]
    bindings = {"x_pointer": POINTERS[x], "s_pointer": POINTERS[s], "y_pointer": POINTERS[y], "ADD": add}
    bindings |= {"CENTER": name == "layer_norm", "GAIN": name != "l2_normalize"}
    bindings["rate"] = l2_rate if name == "l2_normalize" else rms_rate
    template, signature = (_gradient, _GRADIENT) if gradient else (_value, _VALUE)
    return specialize(template, signature, "_".join(parts), **bindings)


# What `warmup` compiles: one dtype throughout. Mixed ones are compiled when first used.
for _name in ("rms_norm", "layer_norm", "l2_normalize"):
    for _dtype in DTYPES:
        for _add in (False, True)[: 1 if _name == "l2_normalize" else 2]:
            row_kernel(_name, False, (_dtype,) * 3, _add)
            row_kernel(_name, True, (_dtype,) * 3, _add)
