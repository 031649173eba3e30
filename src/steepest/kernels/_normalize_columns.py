# SPDX-License-Identifier: Apache-2.0
"""l2 normalization along a dimension that is not the last: sixteen columns at a time, one vector lane each."""

from typing import Any

import numpy as np

from steepest.kernels._llvm import f32_pointer, f64_pointer
from steepest.kernels._normalize import POINTERS, fine, l2_rate, power_below
from steepest.kernels._op import DTYPES
from steepest.kernels._registry import device, specialize
from steepest.kernels._vector import WIDTH, load, load_some, splat, vfma, vmax
from steepest.kernels._vector_stores import store, store_some

F32 = np.float32
#: Bytes of one thread's scratch memory: three rows of float32 lanes, then two of float64.
SCRATCH = 512
#: Terms added in float32 before float64 takes over.
_RUN = 256
_ZERO, _ONE, _MINUS_ONE = F32(0), F32(1), F32(-1)

pointer: Any = f32_pointer


@device
def _column(p, i, count):
    return load(p, i) if count == WIDTH else load_some(p, i, count)


@device
def _put(p, i, value, count):
    if count == WIDTH:
        store(p, i, value)
    else:
        store_some(p, i, value, count)


@device
def _sums(x, grad, at, n, inner, count, scratch, with_grad):
    """Add each column's squares, and products with the gradient, times the factors in the first row of scratch."""
    factors, lanes = f32_pointer(scratch), f32_pointer(scratch + 64)
    totals, products = f64_pointer(scratch + 256), f64_pointer(scratch + 384)
    for j in range(WIDTH):
        totals[j] = products[j] = 0.0
    factor = load(factors, 0)
    for first in range(0, n, _RUN):
        squares, more = splat(_ZERO), splat(_ZERO)
        for k in range(first, min(first + _RUN, n)):
            v = _column(x, at + k * inner, count) * factor
            squares = vfma(v, v, squares)
            if with_grad:
                more = vfma(v, _column(grad, at + k * inner, count), more)
        store(lanes, 0, squares)
        for j in range(WIDTH):
            totals[j] += float(lanes[j])
        store(lanes, 0, more)
        for j in range(WIDTH):
            products[j] += float(lanes[j])


@device
def _better_factors(x, at, n, inner, count, scratch, eps):
    factors, lanes, totals = f32_pointer(scratch), f32_pointer(scratch + 64), f64_pointer(scratch + 256)
    top = splat(_ZERO)
    for k in range(n):
        v = _column(x, at + k * inner, count)
        top = vmax(vmax(v, v * _MINUS_ONE), top)
    store(lanes, 0, top)
    for j in range(WIDTH):
        _, _, square = l2_rate(totals[j], n, eps, _ONE)
        factors[j] = _ONE if fine(square) or not lanes[j] > _ZERO else power_below(lanes[j])


@device
def _all_fine(scratch, n, count, eps):
    totals, good = f64_pointer(scratch + 256), True
    for j in range(count):
        _, _, square = l2_rate(totals[j], n, eps, _ONE)
        good = good and fine(square)
    return good


@device
def _measure(x, grad, at, n, inner, count, scratch, eps, with_grad):
    factors = f32_pointer(scratch)
    for j in range(WIDTH):
        factors[j] = _ONE
    _sums(x, grad, at, n, inner, count, scratch, with_grad)
    if not _all_fine(scratch, n, count, eps):
        _better_factors(x, at, n, inner, count, scratch, eps)
        _sums(x, grad, at, n, inner, count, scratch, with_grad)


def _value(x_address, y_address, scratch_address, n, inner, eps, start, stop):
    x, y, scratch = pointer(x_address), pointer(y_address), scratch_address + SCRATCH * start
    factors, scales, totals = f32_pointer(scratch), f32_pointer(scratch + 64), f64_pointer(scratch + 256)
    blocks = (inner + WIDTH - 1) // WIDTH
    for piece in range(start, stop):
        column = piece % blocks * WIDTH
        at, count = piece // blocks * n * inner + column, min(WIDTH, inner - column)
        _measure(x, x, at, n, inner, count, scratch, eps, False)
        for j in range(WIDTH):
            exact, _, _ = l2_rate(totals[j], n, eps, factors[j])
            scales[j] = F32(exact)
        factor, scale = load(factors, 0), load(scales, 0)
        for k in range(n):
            _put(y, at + k * inner, _column(x, at + k * inner, count) * factor * scale, count)


def _gradient(grad_address, x_address, out_address, scratch_address, n, inner, eps, start, stop):
    grad, x, out = pointer(grad_address), pointer(x_address), pointer(out_address)
    scratch = scratch_address + SCRATCH * start
    factors, scales, pulls = f32_pointer(scratch), f32_pointer(scratch + 64), f32_pointer(scratch + 128)
    totals, products = f64_pointer(scratch + 256), f64_pointer(scratch + 384)
    blocks = (inner + WIDTH - 1) // WIDTH
    for piece in range(start, stop):
        column = piece % blocks * WIDTH
        at, count = piece // blocks * n * inner + column, min(WIDTH, inner - column)
        _measure(x, grad, at, n, inner, count, scratch, eps, True)
        for j in range(WIDTH):
            exact, slope, _ = l2_rate(totals[j], n, eps, factors[j])
            scales[j], pulls[j] = F32(exact * float(factors[j])), F32(-products[j] * slope)
        factor, scale, pull = load(factors, 0), load(scales, 0), load(pulls, 0)
        for k in range(n):
            i = at + k * inner
            v, g = _column(x, i, count) * factor, _column(grad, i, count)
            _put(out, i, vfma(v, pull, g) * scale, count)


VALUE, GRADIENT = (
    {
        dtype: specialize(
            template, f"void({count * 'intp, '}float64, intp, intp)", f"{name}_{short}", pointer=POINTERS[short]
        )
        for dtype, short in DTYPES.items()
    }
    for template, name, count in ((_value, "l2_columns", 5), (_gradient, "l2_columns_gradient", 6))
)
