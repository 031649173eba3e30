# SPDX-License-Identifier: Apache-2.0
"""The loops of row and column scaling: one sweep over the matrix a pass, nothing written to it until the end.

A matrix is `batch * m` rows of n entries. With v a row times its unit (a power of two), R and C the squared factors of
rows and columns, a pass is R_i = 1 / mean_j(v_ij^2 C_j), then C_j = 1 / mean_i(R_i v_ij^2); a row's scale is its unit
times the root of R_i. A row is read from memory for R_i and, still in the cache, added to its block's share of the
column means.
"""

from typing import Any

import numpy as np

from steepest.kernels import _vector
from steepest.kernels._elementwise import MEMORY
from steepest.kernels._llvm import (
    SCRATCH_BYTES,
    bits_f32,
    f32_bits,
    f32_pointer,
    f64_pointer,
    larger,
    scratch_memory,
    select,
    smaller,
    sqrt,
)
from steepest.kernels._op import DTYPES
from steepest.kernels._registry import device, kernel, specialize
from steepest.kernels._rows import RUN
from steepest.kernels._sinkhorn_lanes import (
    ROWS,
    add_lanes,
    load_rows,
    load_rows_some,
    no_lanes,
    share_of,
    share_of_some,
    sum_of_squares,
    weighted_squares,
)
from steepest.kernels._vector import WIDTH, load, load_some, vfma
from steepest.kernels._vector_stores import store, store_some

F32, F64, I32 = np.float32, np.float64, np.int32
#: A mean square below this has lost its digits to underflow; its reciprocal and sums of those stay finite.
FLOOR = 1e-32
#: Columns that are added up together, in a float64 buffer of this length.
COLUMNS = SCRATCH_BYTES // 8
_ZERO, _LARGEST = F32(0), np.finfo(np.float32).max
_MAGNITUDE, _INFINITY = I32(0x7FFFFFFF), I32(0x7F800000)

pointer: Any = f32_pointer
plain_pointer: Any = f32_pointer
widen: Any = None


@device
def unit_of(top):
    """Return a power of two that brings a row's largest entry, given as bits, into [1, 4); NaN for inf or NaN."""
    if top >= _INFINITY:
        return F32(np.nan)
    return F32(1) if top == 0 else f32_bits(I32(smaller(larger(254 - (top >> 23), 1), 253) << 23))


@device
def reciprocal(mean):
    """Return 1 / mean, zero where that is (nearly) zero; NaN goes through."""
    return F32(0) if mean <= FLOOR else F32(1 / mean)


@device
def scale_of(unit, mean):
    """Return a row's factor, unit / root of the mean square; finite for finite rows (those below 1e-34 end small)."""
    scale = unit * sqrt(reciprocal(mean))
    return select(scale > _LARGEST, _LARGEST, scale)


def _sweep(x_address, units_at, scales_at, columns_at, partial_at, distance, m, n, size, is_first, start, stop):
    x, bits = pointer(x_address), plain_pointer(x_address)
    units, scales, columns = f32_pointer(units_at), f32_pointer(scales_at), f32_pointer(columns_at)
    partial, each = f32_pointer(partial_at), (m + size - 1) // size
    for block in range(start, stop):
        matrix, e = block // each, block * n
        first, c = matrix * m + block % each * size, matrix * n
        last = smaller(first + size, matrix * m + m)
        for i in range(n):
            partial[e + i] = _ZERO
        for row in range(first, last, ROWS):
            # Fewer than four rows: the last again, adding nothing.
            g, h, k = smaller(row + 1, last - 1), smaller(row + 2, last - 1), smaller(row + 3, last - 1)
            places = row * distance, g * distance, h * distance, k * distance
            if is_first:
                for one in range(row, k + 1):
                    # As integers: NaN comes after inf, and the reduction is vectorized everywhere.
                    top, at = I32(0), one * distance
                    for i in range(n):
                        magnitude = I32(bits_f32(widen(bits[at + i])) & _MAGNITUDE)
                        top = select(magnitude > top, magnitude, top)
                    units[one] = unit_of(top)
            some, sums = (units[row], units[g], units[h], units[k]), (0.0, 0.0, 0.0, 0.0)
            for head in range(0, n, RUN):
                i, end, totals = head, smaller(head + RUN, n), no_lanes()
                while i + WIDTH <= end:
                    totals = weighted_squares(totals, load_rows(x, places, i), some, load(columns, c + i))
                    i += WIDTH
                if i < end:
                    rest = load_rows_some(x, places, i, end - i)
                    totals = weighted_squares(totals, rest, some, load_some(columns, c + i, end - i))
                sums = add_lanes(sums, totals)
            scales[row], scales[g] = scale_of(some[0], sums[0] / n), scale_of(some[1], sums[1] / n)
            scales[h], scales[k] = scale_of(some[2], sums[2] / n), scale_of(some[3], sums[3] / n)
            beyond = scales[g] if row + 1 < last else _ZERO, scales[h] if row + 2 < last else _ZERO
            found, i = (scales[row], beyond[0], beyond[1], scales[k] if row + 3 < last else _ZERO), 0
            while i + WIDTH <= n:
                store(partial, e + i, sum_of_squares(load(partial, e + i), load_rows(x, places, i), found))
                i += WIDTH
            if i < n:
                total = sum_of_squares(load_some(partial, e + i, n - i), load_rows_some(x, places, i, n - i), found)
                store_some(partial, e + i, total, n - i)


def _apply(x_address, y_address, scales_at, columns_at, x_distance, y_distance, m, n, alpha, beta, start, stop):
    x, y, scales, columns = pointer(x_address), pointer(y_address), f32_pointer(scales_at), f32_pointer(columns_at)
    for row in range(start, stop):
        a, b, c, i = row * x_distance, row * y_distance, row // m * n, 0
        scale = scales[row]
        while i + WIDTH <= n:
            value = load(x, a + i) * scale * load(columns, c + i)
            store(y, b + i, vfma(value, alpha, share_of(y, b + i, beta)))
            i += WIDTH
        if i < n:
            value = load_some(x, a + i, n - i) * scale * load_some(columns, c + i, n - i)
            store_some(y, b + i, vfma(value, alpha, share_of_some(y, b + i, beta, n - i)), n - i)


@kernel("void(intp, intp, intp, intp, intp, intp, intp, intp)")
def sinkhorn_columns(partial_at, columns_at, blocks, m, n, is_last, start, stop):
    """Add up the blocks' shares and write C, or its root after the last pass; an item is one buffer of columns."""
    partial, columns, total = f32_pointer(partial_at), f32_pointer(columns_at), f64_pointer(scratch_memory())
    each = (n + COLUMNS - 1) // COLUMNS
    for item in range(start, stop):
        matrix, first = item // each, item % each * COLUMNS
        count = smaller(COLUMNS, n - first)
        for i in range(count):
            total[i] = 0.0
        for block in range(matrix * blocks, (matrix + 1) * blocks):
            e = block * n + first
            for i in range(count):
                total[i] += F64(partial[e + i])
        for i in range(count):
            factor = reciprocal(total[i] / m)
            columns[matrix * n + first + i] = sqrt(factor) if is_last else factor


_MEMORY = {
    name: {"pointer": wide, "plain_pointer": MEMORY[name]["pointer"], "widen": MEMORY[name]["widen"]}
    for name, wide in (("f32", f32_pointer), ("bf16", _vector.bfloat_pointer), ("f16", _vector.half_pointer))
}


def _of_each_dtype(template: Any, name: str, signature: str) -> dict[Any, Any]:
    return {d: specialize(template, signature, f"{name}_{s}", **_MEMORY[s]) for d, s in DTYPES.items()}


SWEEP = _of_each_dtype(_sweep, "sinkhorn_sweep", f"void({', '.join(12 * ['intp'])})")
APPLY = _of_each_dtype(_apply, "sinkhorn_apply", f"void({8 * 'intp, '}float32, float32, intp, intp)")
