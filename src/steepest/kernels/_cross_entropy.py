# SPDX-License-Identifier: Apache-2.0
"""The loops of cross-entropy: one sweep over the logits for the loss, one more for the gradient.

With q the target distribution of a row (k_t at the target plus k_u times a vector u), row loss and gradient are

    k_t (lse - x_t) + k_u sum_c u_c (lse - x_c) + z w lse^2        (k_t + k_u sum u + 2 z w lse) softmax(x) - q

Exponentials are kept as m 2^n against a common exponent, so that no x - max is rounded; sums run in float32 lanes
inside blocks and in float64 across them, so their error does not grow with the number of classes. The target stays
out of the sum: lse - x_t = log1p(rest / e^x_t) keeps its digits where the model is sure.
"""

import math
from types import FunctionType
from typing import Any

import numpy as np

from steepest.kernels._coefficients import LOG2E
from steepest.kernels._elementwise import MEMORY, same
from steepest.kernels._exp import extexp_f32
from steepest.kernels._llvm import (
    f32_pointer,
    f64_pointer,
    fabs,
    i64_pointer,
    intrinsic,
    max_or_second,
    maxnum,
    rint,
    scale,
    select,
)
from steepest.kernels._op import DTYPES
from steepest.kernels._registry import Kernel, device, kernel, specialize
from steepest.kernels._sigmoid import tanh_f32

F32, F64 = np.float32, np.float64  # `float` keeps a float32 in jitted code
#: Columns of the float64 state kept for each row, zeros at first and for ignored rows.
LARGEST, LOG_SUM, NLL, TOTAL, LOSS, WEIGHT, COLUMNS = 0, 1, 2, 3, 4, 5, 6
#: Places in one row more: the divisor of the mean, and 1 + a row whose target is out of range.
DIVISOR, INVALID = 0, 1
MEAN, SUM, NONE = 0, 1, 2
_BLOCK = 4096
_ZERO, _ONE, _FOUR, _NEGATIVE_INF = F32(0), F32(1), F32(4), F32(-np.inf)
_LN2 = math.log(2)
# |x| up to here keeps the reduction by multiples of ln 2 exact; above it x - max is (nearly) exact itself.
_REDUCIBLE = F32(65536)
# e^-110 of the largest term vanishes from a float32 sum, and is 0 as a probability.
_FAR_BELOW_MAX = F32(110)
_FARTHEST = F32(60)


@intrinsic
def _lane_add(typingctx, a, b):
    """Return a + b, in any order of a loop's terms: what lets LLVM keep the sum in lanes."""

    def generate(context, builder, signature, args):
        return builder.fadd(*args, flags=("reassoc",))

    return a(a, a), generate


@device
def _uncapped(x, cap):
    return x


@device
def _softcapped(x, cap):
    return cap * tanh_f32(x / cap)


@device
def _uncapped_slope(x, cap):
    return _ONE


@device
def _softcapped_slope(x, cap):
    """Return 1 / cosh^2(x / cap), without the cancellation of 1 - tanh^2."""
    size = fabs(x / cap)
    size = select(size > _FARTHEST, _FARTHEST, size)
    m, n = extexp_f32(-(size + size))
    z = scale(m, n)
    divisor = _ONE + z
    return _FOUR * (z / (divisor * divisor))


# What a template's names stand for is given by `specialize`.
pointer: Any = f32_pointer
widen: Any = same
narrow: Any = same
capped: Any = _uncapped
slope: Any = _uncapped_slope
with_vector: bool = False


@device
def _reference(largest):
    """Return (shift, exponent) with x - shift reducible for x near largest and e^largest near e^shift 2^exponent."""
    shift = largest if fabs(largest) >= _REDUCIBLE else _ZERO
    return shift, rint((largest - shift) * LOG2E)


def _largest_of(x, first, last):
    # NaN is ignored here: it comes back in the sum.
    largest = _NEGATIVE_INF
    for i in range(first, last):
        largest = maxnum(largest, widen(x[i]))
    return largest


def _sum_of(x, first, last, cap, lowest, shift, exponent):
    total = _ZERO
    for i in range(first, last):
        m, n = extexp_f32(max_or_second(lowest, capped(widen(x[i]), cap) - shift))
        total = _lane_add(total, scale(m, n - exponent))
    return total


def _dot_of(x, u, first, last, offset, cap, largest):
    """Return (sum of u, sum of u (x - largest)); where u is 0, x does not matter."""
    total, dot = _ZERO, _ZERO
    for i in range(first, last):
        factor = u[i + offset]
        total = _lane_add(total, factor)
        term = factor * (capped(widen(x[i]), cap) - largest)
        dot = _lane_add(dot, select(factor == _ZERO, _ZERO, term))
    return total, dot


largest_of: Any = _largest_of
sum_of: Any = _sum_of
dot_of: Any = _dot_of


def _accumulate(x, u, first, last, offset, cap, largest, rest, total, dot):
    """Add the terms of [first, last) to (largest, rest, total, dot).

    rest is relative to `_reference(largest)`, dot is the sum of u (x - largest).
    """
    shift, exponent = _reference(largest)
    start = first
    while start < last:
        stop = min(start + _BLOCK, last)
        top = capped(largest_of(x, start, stop), cap)
        if top > largest:
            old_shift, old_exponent = shift, exponent
            shift, exponent = _reference(top)
            if largest > _NEGATIVE_INF:
                change = (F64(old_shift) - F64(shift)) + (F64(old_exponent) - F64(exponent)) * _LN2
                rest *= math.exp(change)
                dot += total * (F64(largest) - F64(top))
            largest = top
        if largest == _NEGATIVE_INF:  # nothing but -inf so far, or NaN
            for i in range(start, stop):
                if widen(x[i]) != _NEGATIVE_INF:
                    rest = np.nan
                if with_vector and u[i + offset] != _ZERO:
                    dot += F64(u[i + offset]) * F64(widen(x[i]))
                    total += F64(u[i + offset])
        else:
            lowest = (largest - shift) - _FAR_BELOW_MAX
            rest += F64(sum_of(x, start, stop, cap, lowest, shift, exponent))
            if with_vector:
                block_total, block_dot = dot_of(x, u, start, stop, offset, cap, largest)
                dot += F64(block_dot)
                total += F64(block_total)
        start = stop
    return largest, rest, total, dot


accumulate: Any = _accumulate


@device
def _row_coefficients(t, hard, weights_address, classes, smoothing):
    """Return (w, k_t, k_u) of a row."""
    if not hard:
        return 1.0, 0.0, 1.0
    w = F64(f32_pointer(weights_address)[t]) if weights_address != 0 else 1.0
    return w, (1.0 - smoothing) * w, smoothing / classes


def _forward(
    x_address, x_stride, target_address, weights_address, u_address, u_stride, state_address,
    rows, classes, ignore_index, cap, smoothing, z, start, stop,
):  # fmt: skip
    x, u, state = pointer(x_address), f32_pointer(u_address), f64_pointer(state_address)
    targets = i64_pointer(target_address)
    hard = target_address != 0
    for row in range(start, stop):
        t = targets[row] if hard else -1
        if hard and t == ignore_index:
            continue
        if hard and (t < 0 or t >= classes):
            state[rows * COLUMNS + INVALID] = row + 1.0
            continue
        begin = row * x_stride
        offset = row * u_stride - begin
        x_t, total, dot = _NEGATIVE_INF, 0.0, 0.0
        if hard:
            x_t = capped(widen(x[begin + t]), cap)
            if with_vector and u[row * u_stride + t] != _ZERO:
                total = F64(u[row * u_stride + t])
                dot = -np.inf if x_t == _NEGATIVE_INF else 0.0
        largest, rest = x_t, 0.0
        if hard:
            largest, rest, total, dot = accumulate(x, u, begin, begin + t, offset, cap, largest, rest, total, dot)
        largest, rest, total, dot = accumulate(
            x, u, begin + t + 1, begin + classes, offset, cap, largest, rest, total, dot
        )
        shift, exponent = _reference(largest)
        # What x_t and the largest logit are above e^shift 2^exponent; the differences keep the digits of small ones.
        above = (F64(x_t) - F64(shift)) - F64(exponent) * _LN2 if hard else -np.inf
        largest_above = (F64(largest) - F64(shift)) - F64(exponent) * _LN2
        e_t = math.exp(above)
        log_sum = math.log(rest + e_t)
        nll = math.log1p(rest / e_t) if rest < e_t else log_sum - above
        w, k_t, k_u = _row_coefficients(t, hard, weights_address, classes, smoothing)
        loss = k_t * nll if hard else 0.0
        if with_vector:
            loss += k_u * (total * (log_sum - largest_above) - dot)
        if z != 0:
            lse = F64(largest) + (log_sum - largest_above)
            loss += z * w * lse * lse
        own = row * COLUMNS
        state[own + LARGEST], state[own + LOG_SUM], state[own + NLL] = largest, log_sum, nll
        state[own + TOTAL], state[own + LOSS], state[own + WEIGHT] = total, loss, w


def _softmax_of(x, u, first, last, offset, cap, lowest, shift, exponent, r, a, b):
    """Overwrite x with (a softmax(x) - b u) times the cap's slope; in place, or LLVM could not use vectors."""
    for i in range(first, last):
        value = widen(x[i])
        m, n = extexp_f32(max_or_second(lowest, capped(value, cap) - shift))
        y = a * scale(m * r, n - exponent)
        if with_vector:
            y -= b * u[i + offset]
        x[i] = narrow(y * slope(value, cap))


def _softmax_into(x, displacement, out, u, first, last, offset, cap, lowest, shift, exponent, r, a, b):
    """Write what `_softmax_of` gives for x[i + displacement] to out[i], another tensor."""
    for i in range(first, last):
        value = widen(x[i + displacement])
        m, n = extexp_f32(max_or_second(lowest, capped(value, cap) - shift))
        y = a * scale(m * r, n - exponent)
        if with_vector:
            y -= b * u[i + offset]
        out[i] = narrow(y * slope(value, cap))


def _clear(x, first, last):
    for i in range(first, last):
        x[i] = narrow(_ZERO)


softmax_of: Any = _softmax_of
softmax_into: Any = _softmax_into
clear: Any = _clear


def _backward(
    grad_address, grad_stride, x_address, x_stride, target_address, weights_address, u_address, u_stride,
    state_address, out_address, rows, classes, ignore_index, mean, cap, smoothing, z, start, stop,
):  # fmt: skip
    x, out, u, state = pointer(x_address), pointer(out_address), f32_pointer(u_address), f64_pointer(state_address)
    targets, grads = i64_pointer(target_address), f32_pointer(grad_address)
    hard, copies = target_address != 0, x_address != out_address
    divisor = state[rows * COLUMNS + DIVISOR] if mean else 1.0
    for row in range(start, stop):
        own, begin, out_begin = row * COLUMNS, row * x_stride, row * (classes if copies else x_stride)
        t = targets[row] if hard else -1
        if hard and t == ignore_index:
            clear(out, out_begin, out_begin + classes)
            continue
        g = F64(grads[row * grad_stride]) / divisor
        w, k_t, k_u = _row_coefficients(t, hard, weights_address, classes, smoothing)
        largest, log_sum = F32(state[own + LARGEST]), state[own + LOG_SUM]
        shift, exponent = _reference(largest)
        beyond = k_u * state[own + TOTAL] if with_vector else 0.0
        if z != 0:
            beyond += 2.0 * z * w * (log_sum + F64(shift) + F64(exponent) * _LN2)
        r, a, b = F32(math.exp(-log_sum)), F32(g * (k_t + beyond)), F32(g * k_u)
        lowest = (largest - shift) - _FAR_BELOW_MAX
        x_t = widen(x[begin + t]) if hard else _ZERO
        offset = row * u_stride - out_begin
        last = out_begin + classes
        if copies:
            displacement = begin - out_begin
            softmax_into(x, displacement, out, u, out_begin, last, offset, cap, lowest, shift, exponent, r, a, b)
        else:
            softmax_of(out, u, out_begin, last, offset, cap, lowest, shift, exponent, r, a, b)
        if hard:
            y = beyond + (k_t + beyond) * math.expm1(-state[own + NLL])
            if with_vector:
                y -= k_u * F64(u[row * u_stride + t])
            out[out_begin + t] = narrow(F32(g * y) * slope(x_t, cap))


@kernel("intp(intp, intp, intp, intp)")
def cross_entropy_reduce(state_address, loss_address, rows, reduction):
    """Write the loss, or every row's, keep the divisor, and return 1 + a row whose target is out of range, or 0."""
    state, loss = f64_pointer(state_address), f32_pointer(loss_address)
    total, divisor = 0.0, 0.0
    for row in range(rows):
        total += state[row * COLUMNS + LOSS]
        divisor += state[row * COLUMNS + WEIGHT]
        if reduction == NONE:
            loss[row] = state[row * COLUMNS + LOSS]
    state[rows * COLUMNS + DIVISOR] = divisor
    if reduction != NONE:
        loss[0] = total / divisor if reduction == MEAN else total
    return int(state[rows * COLUMNS + INVALID])


def _bind(function: FunctionType, **bindings: Any) -> Any:
    """Return the device function of a template."""
    return device(FunctionType(function.__code__, {**function.__globals__, **bindings}, function.__name__))


def _specialized(dtype: str, vector: bool, cap: bool) -> tuple[Kernel, Kernel]:
    names: dict[str, Any] = {**MEMORY[dtype], "with_vector": vector}
    if cap:
        names |= {"capped": _softcapped, "slope": _softcapped_slope}
    names |= {"largest_of": _bind(_largest_of, **names), "sum_of": _bind(_sum_of, **names)}
    names |= {"dot_of": _bind(_dot_of, **names), "clear": _bind(_clear, **names)}
    names |= {"accumulate": _bind(_accumulate, **names), "softmax_of": _bind(_softmax_of, **names)}
    names |= {"softmax_into": _bind(_softmax_into, **names)}
    suffix = f"{'_vector' if vector else ''}{'_softcap' if cap else ''}_{dtype}"
    forward = f"void({', '.join(['intp'] * 10)}, float32, float64, float64, intp, intp)"
    backward = f"void({', '.join(['intp'] * 14)}, float32, float64, float64, intp, intp)"
    return (
        specialize(_forward, forward, f"cross_entropy{suffix}", **names),
        specialize(_backward, backward, f"cross_entropy_gradient{suffix}", **names),
    )


#: (dtype, whether rows have a vector u, whether logits are capped) -> (forward, backward).
KERNELS = {
    (dtype, vector, cap): _specialized(short, vector, cap)
    for dtype, short in DTYPES.items()
    for vector in (False, True)
    for cap in (False, True)
}
