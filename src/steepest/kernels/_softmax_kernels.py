# SPDX-License-Identifier: Apache-2.0
"""The kernels of softmax, log-softmax and logsumexp and of their gradients: loops over rows, for each dtype.

Rows are contiguous and lie one after the other. Those whose name ends in `_masked` take a temperature and, for each
row, the address of its additive float32 mask.
"""

from typing import Any

import numpy as np

from steepest.kernels import _vector
from steepest.kernels._llvm import f32_pointer, i64_pointer
from steepest.kernels._op import DTYPES
from steepest.kernels._registry import device, specialize
from steepest.kernels._softmax_group import LN2_F64, LONGEST, ROWS, log_softmax_of_four, softmax_of_four
from steepest.kernels._softmax_rows import (
    BLOCK,
    ONLINE_RELOAD,
    RECOMPUTE,
    ROUNDER,
    TWO_PASS,
    WIDTH,
    extexp,
    fill_row,
    is_ordinary,
    lanes_max,
    lanes_sum,
    largest,
    last_result,
    load,
    load_some,
    logits,
    logits_some,
    lowest_of,
    online,
    power_below,
    result,
    scale_block,
    splat,
    statistics,
    store,
    store_some,
    three_pass,
    vfma,
    vmax,
    write_exponentials,
    write_logarithms,
    write_online,
)

F32 = np.float32
_ZERO, _LOWEST = F32(0), F32(-200)
pointer: Any = f32_pointer
SIZE: int = 4
#: Whether y can hold a row of terms without a loss.
EXACT: bool = True


@device
def four_of_f32(address, n):
    """Return pointers to four rows of float32."""
    size = 4 * n
    second, third, fourth = address + size, address + 2 * size, address + 3 * size
    return f32_pointer(address), f32_pointer(second), f32_pointer(third), f32_pointer(fourth)


@device
def masks_of_four(masks, row):
    """Return pointers to the masks of four rows."""
    of = i64_pointer(masks)
    return f32_pointer(of[row]), f32_pointer(of[row + 1]), f32_pointer(of[row + 2]), f32_pointer(of[row + 3])


@device
def keeping_row(source, y, terms, exponents, n, algorithm, fill):
    """Write the softmax of a row whose terms are kept in n float32 at `terms`, which may be y itself."""
    if algorithm == ONLINE_RELOAD:
        total, exponent = online(source, n, terms, exponents)
        if is_ordinary(total, exponent):
            write_online(terms, y, n, F32(1.0 / total), exponents, exponent)
            return
    total, _, _ = three_pass(source, n, terms)
    if total != total:
        fill_row(y, n, F32(np.nan))
    elif total == 0.0:
        fill_row(y, n, fill)
    else:
        scale_block(terms, y, 0, n, F32(1.0 / total))


@device
def sweeping_row(source, y, n, algorithm, fill, streaming):
    """Write the softmax of a row by an algorithm that computes each exponential twice."""
    total, exponent, shift = statistics(source, n, algorithm)
    if total != total:
        fill_row(y, n, F32(np.nan))
    elif total == 0.0:
        fill_row(y, n, fill)
    else:
        write_exponentials(source, y, n, shift, exponent, F32(1.0 / total), streaming)


@device
def log_softmax_row(source, y, n, algorithm, fill, streaming):
    """Write the log-softmax of a row."""
    total, exponent, shift = statistics(source, n, algorithm)
    if total != total:
        fill_row(y, n, F32(np.nan))
    elif total == 0.0:
        fill_row(y, n, fill)
    else:
        write_logarithms(source, y, n, shift, np.float64(exponent) * LN2_F64 + np.log(total), streaming)


def _softmax(x_address, y_address, n, algorithm, fill, _, start, stop):
    scratch = np.empty(0 if EXACT else min(ROWS * n, max(ROWS * LONGEST, n)), np.float32)
    exponents = np.empty(n // BLOCK + 1, np.float32)
    row = start
    while row < stop:
        x, y = x_address + row * n * SIZE, y_address + row * n * SIZE
        terms = y if EXACT else scratch.ctypes.data
        if n <= LONGEST and row + ROWS <= stop:
            size = n * SIZE
            sources = (pointer(x),), (pointer(x + size),), (pointer(x + 2 * size),), (pointer(x + 3 * size),)
            results = pointer(y), pointer(y + size), pointer(y + 2 * size), pointer(y + 3 * size)
            if softmax_of_four(sources, results, four_of_f32(terms, n), n):
                row += ROWS
                continue
        keeping_row((pointer(x),), pointer(y), f32_pointer(terms), exponents, n, algorithm, fill)
        row += 1


def _softmax_masked(x_address, y_address, masks, step, scale, n, algorithm, fill, _, start, stop):
    scratch = np.empty(0 if EXACT else min(ROWS * n, max(ROWS * LONGEST, n)), np.float32)
    exponents = np.empty(n // BLOCK + 1, np.float32)
    row = start
    while row < stop:
        x, y = x_address + row * n * SIZE, y_address + row * n * SIZE
        terms = y if EXACT else scratch.ctypes.data
        if n <= LONGEST and row + ROWS <= stop:
            size = n * SIZE
            a, b, c, d = pointer(x), pointer(x + size), pointer(x + 2 * size), pointer(x + 3 * size)
            e, f, g, h = masks_of_four(masks, row)
            sources = (a, e, step, scale), (b, f, step, scale), (c, g, step, scale), (d, h, step, scale)
            results = pointer(y), pointer(y + size), pointer(y + 2 * size), pointer(y + 3 * size)
            if softmax_of_four(sources, results, four_of_f32(terms, n), n):
                row += ROWS
                continue
        source = (pointer(x), f32_pointer(i64_pointer(masks)[row]), step, scale)
        keeping_row(source, pointer(y), f32_pointer(terms), exponents, n, algorithm, fill)
        row += 1


def _softmax_by_sweeps(x_address, y_address, n, algorithm, fill, streaming, start, stop):
    for row in range(start, stop):
        source = (pointer(x_address + row * n * SIZE),)
        sweeping_row(source, pointer(y_address + row * n * SIZE), n, algorithm, fill, streaming != 0)


def _softmax_by_sweeps_masked(x_address, y_address, masks, step, scale, n, algorithm, fill, streaming, start, stop):
    for row in range(start, stop):
        source = (pointer(x_address + row * n * SIZE), f32_pointer(i64_pointer(masks)[row]), step, scale)
        sweeping_row(source, pointer(y_address + row * n * SIZE), n, algorithm, fill, streaming != 0)


def _log_softmax(x_address, y_address, n, algorithm, fill, streaming, start, stop):
    grouped, row = n <= LONGEST and algorithm == RECOMPUTE, start
    while row < stop:
        x, y = x_address + row * n * SIZE, y_address + row * n * SIZE
        if grouped and row + ROWS <= stop:
            size = n * SIZE
            sources = (pointer(x),), (pointer(x + size),), (pointer(x + 2 * size),), (pointer(x + 3 * size),)
            results = pointer(y), pointer(y + size), pointer(y + 2 * size), pointer(y + 3 * size)
            if log_softmax_of_four(sources, results, n):
                row += ROWS
                continue
        log_softmax_row((pointer(x),), pointer(y), n, algorithm, fill, streaming != 0)
        row += 1


def _log_softmax_masked(x_address, y_address, masks, step, scale, n, algorithm, fill, streaming, start, stop):
    grouped, row = n <= LONGEST and algorithm == RECOMPUTE, start
    while row < stop:
        x, y = x_address + row * n * SIZE, y_address + row * n * SIZE
        if grouped and row + ROWS <= stop:
            size = n * SIZE
            a, b, c, d = pointer(x), pointer(x + size), pointer(x + 2 * size), pointer(x + 3 * size)
            e, f, g, h = masks_of_four(masks, row)
            sources = (a, e, step, scale), (b, f, step, scale), (c, g, step, scale), (d, h, step, scale)
            results = pointer(y), pointer(y + size), pointer(y + 2 * size), pointer(y + 3 * size)
            if log_softmax_of_four(sources, results, n):
                row += ROWS
                continue
        source = (pointer(x), f32_pointer(i64_pointer(masks)[row]), step, scale)
        log_softmax_row(source, pointer(y), n, algorithm, fill, streaming != 0)
        row += 1


def _logsumexp(x_address, y_address, n, algorithm, start, stop):
    y = f32_pointer(y_address)
    for row in range(start, stop):
        x = pointer(x_address + row * n * SIZE)
        total, exponent, shift = statistics((x,), n, algorithm)
        value = np.float64(shift) + (np.float64(exponent) * LN2_F64 + np.log(total))
        if total != total:  # NaN, or +inf and no NaN
            value = np.float64(lanes_sum_of_maxima(x, n))
        y[row] = F32(value if total != 0.0 else -np.inf)


@device
def lanes_sum_of_maxima(x, n):
    """Return inf for a row with +inf and no NaN, NaN for a row with NaN."""
    a, i = splat(_ZERO), 0
    while i < n:
        z = load(x, i) if i + WIDTH <= n else load_some(x, i, n - i)
        a = a + vmax(_ZERO, z)
        i += WIDTH
    return lanes_sum(a)


@device
def exponential(z):
    """Return e^z for z <= 0; 0 where that is below the smallest normal number."""
    m, n = extexp(vmax(_LOWEST, z))
    return m * power_below(n)


@device
def dot(a, b, n):
    """Return sum a b in float64: lanes inside a block, float64 across."""
    total, start = 0.0, 0
    while start < n:
        stop = min(start + BLOCK, n)
        p = splat(_ZERO)
        q, i = p, start
        while i + 2 * WIDTH <= stop:
            p = vfma(load(a, i), load(b, i), p)
            q = vfma(load(a, i + WIDTH), load(b, i + WIDTH), q)
            i += 2 * WIDTH
        if i + WIDTH <= stop:
            p = vfma(load(a, i), load(b, i), p)
            i += WIDTH
        if i < stop:
            q = vfma(load_some(a, i, stop - i), load_some(b, i, stop - i), q)
        total += lanes_sum(p + q)
        start = stop
    return total


@device
def row_sum(a, n):
    """Return sum a in float64: lanes inside a block, float64 across."""
    total, start = 0.0, 0
    while start < n:
        stop = min(start + BLOCK, n)
        p = splat(_ZERO)
        q, i = p, start
        while i + 2 * WIDTH <= stop:
            p = p + load(a, i)
            q = q + load(a, i + WIDTH)
            i += 2 * WIDTH
        if i + WIDTH <= stop:
            p = p + load(a, i)
            i += WIDTH
        if i < stop:
            q = q + load_some(a, i, stop - i)
        total += lanes_sum(p + q)
        start = stop
    return total


def _softmax_gradient(grad_address, y_address, out_address, scale, n, start, stop):
    for row in range(start, stop):
        offset = row * n * SIZE
        grad, y, out = pointer(grad_address + offset), pointer(y_address + offset), pointer(out_address + offset)
        mean, i = F32(dot(grad, y, n)), 0
        while i + WIDTH <= n:
            store(out, i, load(y, i) * (load(grad, i) - mean) * scale)
            i += WIDTH
        if i < n:
            rest = n - i
            store_some(out, i, load_some(y, i, rest) * (load_some(grad, i, rest) - mean) * scale, rest)


def _log_softmax_gradient(grad_address, y_address, out_address, scale, n, start, stop):
    for row in range(start, stop):
        offset = row * n * SIZE
        grad, y, out = pointer(grad_address + offset), pointer(y_address + offset), pointer(out_address + offset)
        total, i = splat(F32(-row_sum(grad, n))), 0
        if lanes_max(logits_some((y,), 0, 1)) == -np.inf and largest((y,), 0, n) == -np.inf:
            fill_row(out, n, _ZERO)  # a masked row that was asked to be a constant
            continue
        while i + WIDTH <= n:
            store(out, i, vfma(exponential(load(y, i)), total, load(grad, i)) * scale)
            i += WIDTH
        if i < n:
            rest = n - i
            value = vfma(exponential(load_some(y, i, rest)), total, load_some(grad, i, rest)) * scale
            store_some(out, i, value, rest)


@device
def log_softmax_gradient_row(source, grad, out, n, fill, scale):
    """Write (grad - softmax(z) sum grad) scale from the logits z: a 16-bit log-probability has lost too many digits."""
    total, exponent, shift = statistics(source, n, TWO_PASS)
    if total != total or total == 0.0:
        fill_row(out, n, F32(total) if total != total else fill)
        return
    factor, i = F32(-row_sum(grad, n) / total), 0
    lowest, rounder = lowest_of(exponent), ROUNDER - exponent
    while i + WIDTH <= n:
        value = load(grad, i) + result(logits(source, i), shift, lowest, rounder, factor)
        store(out, i, value * scale)
        i += WIDTH
    if i < n:
        rest = n - i
        value = last_result(logits_some(source, i, rest), rest, shift, lowest, rounder, factor)
        value = load_some(grad, i, rest) + value
        store_some(out, i, value * scale, rest)


def _log_softmax_of_logits_gradient(grad_address, x_address, out_address, masks, step, scale, n, fill, start, stop):
    for row in range(start, stop):
        offset = row * n * SIZE
        source = (pointer(x_address + offset), f32_pointer(i64_pointer(masks)[row]), step, scale)
        grad, out = pointer(grad_address + offset), pointer(out_address + offset)
        log_softmax_gradient_row(source, grad, out, n, fill, scale)


_MEMORY = {
    "f32": {"pointer": f32_pointer, "SIZE": 4, "EXACT": True},
    "bf16": {"pointer": _vector.bfloat_pointer, "SIZE": 2, "EXACT": False},
    "f16": {"pointer": _vector.half_pointer, "SIZE": 2, "EXACT": False},
}
_ROWS = "intp, intp"


def _of_each_dtype_and_way(keeping: Any, sweeping: Any, name: str, arguments: str) -> dict[Any, Any]:
    kept = _of_each_dtype(keeping, name, arguments)
    swept = kept if sweeping is keeping else _of_each_dtype(sweeping, f"{name}_by_sweeps", arguments)
    return {(d, keeps): (kept if keeps else swept)[d] for d in DTYPES for keeps in (False, True)}


def _of_each_dtype(template: Any, name: str, arguments: str) -> dict[Any, Any]:
    signature = f"void({arguments}, {_ROWS})"
    return {d: specialize(template, signature, f"{name}_{s}", **_MEMORY[s]) for d, s in DTYPES.items()}


_PLAIN = "intp, intp, intp, intp, float32, intp"
_MASKED = "intp, intp, intp, intp, float32, intp, intp, float32, intp"
#: (dtype, whether the algorithm keeps terms) -> kernel. Two, because each takes seconds to compile.
SOFTMAX = _of_each_dtype_and_way(_softmax, _softmax_by_sweeps, "softmax", _PLAIN)
SOFTMAX_MASKED = _of_each_dtype_and_way(_softmax_masked, _softmax_by_sweeps_masked, "softmax_masked", _MASKED)
LOG_SOFTMAX = _of_each_dtype_and_way(_log_softmax, _log_softmax, "log_softmax", _PLAIN)
LOG_SOFTMAX_MASKED = _of_each_dtype_and_way(_log_softmax_masked, _log_softmax_masked, "log_softmax_masked", _MASKED)
LOGSUMEXP = _of_each_dtype(_logsumexp, "logsumexp", "intp, intp, intp, intp")
SOFTMAX_GRADIENT = _of_each_dtype(_softmax_gradient, "softmax_gradient", "intp, intp, intp, float32, intp")
LOG_SOFTMAX_GRADIENT = _of_each_dtype(_log_softmax_gradient, "log_softmax_gradient", "intp, intp, intp, float32, intp")
LOG_SOFTMAX_OF_LOGITS_GRADIENT = _of_each_dtype(
    _log_softmax_of_logits_gradient,
    "log_softmax_of_logits_gradient",
    "intp, intp, intp, intp, intp, float32, intp, float32",
)
