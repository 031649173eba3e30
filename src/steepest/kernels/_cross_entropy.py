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

from steepest.kernels._cross_entropy_short import LONGEST, reference, row_of_few, write_probabilities
from steepest.kernels._elementwise import MEMORY, same
from steepest.kernels._exp import extexp_f32
from steepest.kernels._llvm import (
    f32_pointer,
    f64_pointer,
    i64_pointer,
    max_or_second,
    maxnum,
    scale,
    select,
)
from steepest.kernels._op import DTYPES
from steepest.kernels._registry import Kernel, device, kernel, specialize
from steepest.kernels._rows import lane_add
from steepest.kernels._softcap import softcapped, softcapped_slope, uncapped, uncapped_slope
from steepest.kernels._vector import bfloat_pointer, half_pointer

F32, F64 = np.float32, np.float64  # `float` keeps a float32 in jitted code
#: Columns of the float64 state kept for each row, zeros at first and for ignored rows. The sum of exponentials, of
#: which the logarithm and the inverse are kept, is relative to `reference` of the largest logit; OTHERS is the
#: probability of all classes but the target.
LARGEST, LOG_SUM, INVERSE, OTHERS, TOTAL, LOSS, WEIGHT, COLUMNS = range(8)
#: Places in one row more: the divisor of the mean, and 1 + a row whose target is out of range.
DIVISOR, INVALID = 0, 1
MEAN, SUM, NONE = 0, 1, 2
_BLOCK = 4096
_ZERO, _NEGATIVE_INF = F32(0), F32(-np.inf)
_LN2 = math.log(2)
# e^-110 of the largest term vanishes from a float32 sum, and is 0 as a probability.
_FAR_BELOW_MAX = F32(110)

# What a template's names stand for is given by `specialize`.
pointer: Any = f32_pointer
widen: Any = same
narrow: Any = same
capped: Any = uncapped
slope: Any = uncapped_slope
with_vector: bool = False
lanes_of: Any = f32_pointer
SIZE: int = 4
few: int = LONGEST


def _largest_of(x, first, last):
    # NaN is ignored here: it comes back in the sum.
    largest = _NEGATIVE_INF
    for i in range(first, last):
        largest = maxnum(largest, widen(x[i]))
    return largest


def _sum_of(x, first, last, frame):
    cap, lowest, shift, exponent = frame
    total = _ZERO
    for i in range(first, last):
        m, n = extexp_f32(max_or_second(lowest, capped(widen(x[i]), cap) - shift))
        total = lane_add(total, scale(m, n - exponent))
    return total


def _dot_of(x, u, first, last, offset, cap, largest):
    """Return (sum of u, sum of u (x - largest)); where u is 0, x does not matter."""
    total, dot = _ZERO, _ZERO
    for i in range(first, last):
        factor = u[i + offset]
        total = lane_add(total, factor)
        term = factor * (capped(widen(x[i]), cap) - largest)
        dot = lane_add(dot, select(factor == _ZERO, _ZERO, term))
    return total, dot


largest_of: Any = _largest_of
sum_of: Any = _sum_of
dot_of: Any = _dot_of


@device
def _frame(largest, cap):
    """Return (cap, lowest, shift, exponent): what exponentials of a row with that largest logit are relative to."""
    shift, exponent = reference(largest)
    return cap, (largest - shift) - _FAR_BELOW_MAX, shift, exponent


def _accumulate(x, u, span, offset, cap, sums):
    """Return (largest, rest, total, dot) with the terms of the span (first, last) added.

    rest is relative to `reference(largest)`, dot is the sum of u (x - largest).
    """
    (start, last), (largest, rest, total, dot) = span, sums
    shift, exponent = reference(largest)
    while start < last:
        stop = min(start + _BLOCK, last)
        top = capped(largest_of(x, start, stop), cap)
        if top > largest:
            old_shift, old_exponent = shift, exponent
            shift, exponent = reference(top)
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
            rest += F64(sum_of(x, start, stop, _frame(largest, cap)))
            if with_vector:
                block_total, block_dot = dot_of(x, u, start, stop, offset, cap, largest)
                dot += F64(block_dot)
                total += F64(block_total)
        start = stop
    return largest, rest, total, dot


accumulate: Any = _accumulate


@device
def _row_coefficients(t, weights_address, classes, smoothing):
    """Return (w, k_t, k_u) of a row; t is -1 for probabilities."""
    if t < 0:
        return 1.0, 0.0, 1.0
    w = F64(f32_pointer(weights_address)[t]) if weights_address != 0 else 1.0
    return w, (1.0 - smoothing) * w, smoothing / classes


def _row_sums(x, u, row, t, shape, cap):
    """Return (x_t, largest, rest, total, dot) of a row whose sums leave its target t out; t is -1 for none."""
    x_stride, u_stride, classes = shape
    begin = row * x_stride
    offset = row * u_stride - begin
    x_t, total, dot = _NEGATIVE_INF, 0.0, 0.0
    if t >= 0:
        x_t = capped(widen(x[begin + t]), cap)
        if with_vector and u[row * u_stride + t] != _ZERO:
            total = F64(u[row * u_stride + t])
            dot = -np.inf if x_t == _NEGATIVE_INF else 0.0
    sums = (x_t, 0.0, total, dot)
    if t > 0:
        sums = accumulate(x, u, (begin, begin + t), offset, cap, sums)
    largest, rest, total, dot = accumulate(x, u, (begin + t + 1, begin + classes), offset, cap, sums)
    return x_t, largest, rest, total, dot


row_sums: Any = _row_sums


@device
def _class_of(target_address, row, ignore_index):
    """Return the target of a row, -1 where targets are probabilities, and whether the row counts."""
    if target_address == 0:
        return -1, True
    t = i64_pointer(target_address)[row]
    return t, t != ignore_index


def _forward(operands, state_address, shape, numbers, start, stop):
    x_address, x_stride, target_address, _, u_address, u_stride = operands
    rows, classes, ignore_index, _ = shape
    x, u, state = pointer(x_address), f32_pointer(u_address), f64_pointer(state_address)
    # First the sums of all rows: calls of the C library between them would make them wait for each other.
    for row in range(start, stop):
        t, counts = _class_of(target_address, row, ignore_index)
        if not counts:
            continue
        if target_address != 0 and (t < 0 or t >= classes):
            state[rows * COLUMNS + INVALID] = row + 1.0
            return
        if classes <= few:
            x_t, total, dot = widen(x[row * x_stride + t]), 0.0, 0.0
            largest, rest = row_of_few((lanes_of(x_address + row * x_stride * SIZE),), classes, t)
        else:
            x_t, largest, rest, total, dot = row_sums(x, u, row, t, (x_stride, u_stride, classes), numbers[0])
        own = row * COLUMNS
        state[own + LARGEST], state[own + OTHERS], state[own + INVERSE] = largest, rest, x_t
        state[own + TOTAL], state[own + LOSS] = total, dot
    for row in range(start, stop):
        finish(operands, state, shape, numbers, row)


def _finish(operands, state, shape, numbers, row):
    """Make of a row's sums, which lie in the state, its loss and what its gradient needs."""
    t, counts = _class_of(operands[2], row, shape[2])
    if not counts:
        return
    own = row * COLUMNS
    largest, rest, total, dot = state[own + LARGEST], state[own + OTHERS], state[own + TOTAL], state[own + LOSS]
    shift, exponent = reference(F32(largest))
    # What x_t and the largest logit are above e^shift 2^exponent; the differences keep the digits of small ones.
    above = (state[own + INVERSE] - F64(shift)) - F64(exponent) * _LN2 if t >= 0 else -np.inf
    largest_above = (largest - F64(shift)) - F64(exponent) * _LN2
    e_t = math.exp(above)
    if rest < e_t:
        nll = math.log1p(rest / e_t)
        log_sum = nll + above
    else:
        log_sum = math.log(rest + e_t)
        nll = log_sum - above
    w, k_t, k_u = _row_coefficients(t, operands[3], shape[1], numbers[1])
    loss = k_t * nll if t >= 0 else 0.0
    if with_vector:
        loss += k_u * (total * (log_sum - largest_above) - dot)
    if numbers[2] != 0:
        lse = largest + (log_sum - largest_above)
        loss += numbers[2] * w * lse * lse
    inverse = 1.0 / (rest + e_t)
    state[own + LOG_SUM], state[own + INVERSE], state[own + OTHERS] = log_sum, inverse, rest * inverse
    state[own + LOSS], state[own + WEIGHT] = loss, w


finish: Any = _finish


def _softmax_of(x, u, first, last, offset, frame, factors):
    """Overwrite x with (a softmax(x) - b u) times the cap's slope; in place, or LLVM could not use vectors."""
    cap, lowest, shift, exponent = frame
    r, a, b = factors
    for i in range(first, last):
        value = widen(x[i])
        m, n = extexp_f32(max_or_second(lowest, capped(value, cap) - shift))
        y = a * scale(m * r, n - exponent)
        if with_vector:
            y -= b * u[i + offset]
        x[i] = narrow(y * slope(value, cap))


def _softmax_into(x, out, u, span, offsets, frame, factors):
    """Write what `_softmax_of` gives for x[i + offsets[0]] to out[i], another tensor."""
    cap, lowest, shift, exponent = frame
    r, a, b = factors
    displacement, offset = offsets
    for i in range(span[0], span[1]):
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


def _backward(grad, operands, results, shape, numbers, start, stop):
    x_address, x_stride, target_address, weights_address, u_address, u_stride = operands
    rows, classes, ignore_index, mean = shape
    cap, smoothing, z = numbers
    x, out, u, state = pointer(x_address), pointer(results[1]), f32_pointer(u_address), f64_pointer(results[0])
    copies = x_address != results[1]
    divisor = state[rows * COLUMNS + DIVISOR] if mean != 0 else 1.0
    for row in range(start, stop):
        own, begin, first = row * COLUMNS, row * x_stride, row * (classes if copies else x_stride)
        t = i64_pointer(target_address)[row] if target_address != 0 else -1
        if target_address != 0 and t == ignore_index:
            clear(out, first, first + classes)
            continue
        g = F64(f32_pointer(grad[0])[row * grad[1]]) / divisor
        w, k_t, k_u = _row_coefficients(t, weights_address, classes, smoothing)
        log_sum, frame = state[own + LOG_SUM], _frame(F32(state[own + LARGEST]), cap)
        beyond = k_u * state[own + TOTAL] if with_vector else 0.0
        if z != 0:
            beyond += 2.0 * z * w * (log_sum + F64(frame[2]) + F64(frame[3]) * _LN2)
        factors = F32(state[own + INVERSE]), F32(g * (k_t + beyond)), F32(g * k_u)
        x_t = widen(x[begin + t]) if t >= 0 else _ZERO
        if classes <= few:
            source, to = (lanes_of(x_address + begin * SIZE),), lanes_of(results[1] + first * SIZE)
            write_probabilities(source, to, classes, (frame[2], frame[3]), state[own + INVERSE], factors[1])
        elif copies:
            offsets = begin - first, row * u_stride - first
            softmax_into(x, out, u, (first, first + classes), offsets, frame, factors)
        else:
            softmax_of(out, u, first, first + classes, row * u_stride - first, frame, factors)
        if t >= 0:
            y = beyond - (k_t + beyond) * state[own + OTHERS]
            if with_vector:
                y -= k_u * F64(u[row * u_stride + t])
            out[first + t] = narrow(F32(g * y) * slope(x_t, cap))


@device
def _reduce(state_address, loss_address, rows, reduction):
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


@kernel("intp(intp, intp, intp, intp)")
def cross_entropy_reduce(state_address, loss_address, rows, reduction):
    """Write the loss, or every row's, keep the divisor, and return 1 + a row whose target is out of range, or 0."""
    return _reduce(state_address, loss_address, rows, reduction)


forward: Any = _forward
backward: Any = _backward


def _small(operands, results, shape, reduction):
    """Write the loss and, if results[1] is not 0, its gradient: in one call what `_forward` and the next two do."""
    rows = shape[0]
    state, one, none = np.zeros((rows + 1) * COLUMNS), np.ones(1, np.float32), (_ZERO, 0.0, 0.0)
    address = state.ctypes.data
    forward(operands, address, shape, none, 0, rows)
    invalid = _reduce(address, results[0], rows, reduction)
    if invalid == 0 and results[1] != 0:
        backward((one.ctypes.data, 0), operands, (address, results[1]), shape, none, 0, rows)
    return invalid


def _bind(function: FunctionType, **bindings: Any) -> Any:
    """Return the device function of a template."""
    return device(FunctionType(function.__code__, {**function.__globals__, **bindings}, function.__name__))


#: Addresses and strides of x, targets, weights and u; (rows, classes, ignore_index, whether the mean is taken);
#: (cap, smoothing, z).
_OPERANDS, _SHAPE, _PAIR = "UniTuple(intp, 6)", "UniTuple(intp, 4)", "UniTuple(intp, 2)"
_NUMBERS = "Tuple((float32, float64, float64))"


_LANES = {
    "f32": {"lanes_of": f32_pointer, "SIZE": 4},
    "bf16": {"lanes_of": bfloat_pointer, "SIZE": 2},
    "f16": {"lanes_of": half_pointer, "SIZE": 2},
}


def _names(dtype: str, vector: bool, cap: bool) -> dict[str, Any]:
    names: dict[str, Any] = {**MEMORY[dtype], **_LANES[dtype], "with_vector": vector}
    names["few"] = 0 if vector or cap else LONGEST
    if cap:
        names |= {"capped": softcapped, "slope": softcapped_slope}
    names |= {"largest_of": _bind(_largest_of, **names), "sum_of": _bind(_sum_of, **names)}
    names |= {"dot_of": _bind(_dot_of, **names), "clear": _bind(_clear, **names)}
    names |= {"accumulate": _bind(_accumulate, **names), "softmax_of": _bind(_softmax_of, **names)}
    names |= {"row_sums": _bind(_row_sums, **names), "softmax_into": _bind(_softmax_into, **names)}
    names |= {"finish": _bind(_finish, **names)}
    return names


def _specialized(dtype: str, vector: bool, cap: bool) -> tuple[Kernel, Kernel]:
    names = _names(dtype, vector, cap)
    suffix = f"{'_vector' if vector else ''}{'_softcap' if cap else ''}_{dtype}"
    forward = f"void({_OPERANDS}, intp, {_SHAPE}, {_NUMBERS}, intp, intp)"
    backward = f"void({_PAIR}, {_OPERANDS}, {_PAIR}, {_SHAPE}, {_NUMBERS}, intp, intp)"
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


_NAMES = _names("f32", False, False)
_NAMES |= {"forward": _bind(_forward, **_NAMES), "backward": _bind(_backward, **_NAMES)}
SMALL = specialize(_small, f"intp({_OPERANDS}, {_PAIR}, {_SHAPE}, intp)", "cross_entropy_small", **_NAMES)
