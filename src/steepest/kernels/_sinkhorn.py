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
from steepest.kernels._vector import WIDTH, lanes_sum, load, load_some, splat, vfma
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


@device
def add_square(x, at, unit, weight, total):
    """Return total + weight (unit x)^2 for 16 entries."""
    v = load(x, at) * unit
    return vfma(v * v, weight, total)


@device
def weighted_squares(x, a, b, c, d, units, columns, at, n):
    """Return sum_j (u x_j)^2 C_j of the four rows that begin at a, b, c, d: C is read once for them."""
    first = second = third = fourth = 0.0
    for head in range(0, n, RUN):
        p = splat(_ZERO)
        q = r = s = p
        i, stop = head, smaller(head + RUN, n)
        while i + WIDTH <= stop:
            weight = load(columns, at + i)
            p = add_square(x, a + i, units[0], weight, p)
            q = add_square(x, b + i, units[1], weight, q)
            r = add_square(x, c + i, units[2], weight, r)
            s = add_square(x, d + i, units[3], weight, s)
            i += WIDTH
        if i < stop:
            weight, rest = load_some(columns, at + i, stop - i), stop - i
            v, w = load_some(x, a + i, rest) * units[0], load_some(x, b + i, rest) * units[1]
            y, z = load_some(x, c + i, rest) * units[2], load_some(x, d + i, rest) * units[3]
            p, q = vfma(v * v, weight, p), vfma(w * w, weight, q)
            r, s = vfma(y * y, weight, r), vfma(z * z, weight, s)
        first, second = first + lanes_sum(p), second + lanes_sum(q)
        third, fourth = third + lanes_sum(r), fourth + lanes_sum(s)
    return first, second, third, fourth


@device
def add_scaled_squares(x, a, b, c, d, scales, partial, e, n):
    """Add (s x_j)^2 of four rows to partial_j, which is read and written once for them."""
    i = 0
    while i + WIDTH <= n:
        v, w = load(x, a + i) * scales[0], load(x, b + i) * scales[1]
        y, z = load(x, c + i) * scales[2], load(x, d + i) * scales[3]
        total = vfma(w, w, vfma(v, v, load(partial, e + i)))
        store(partial, e + i, vfma(z, z, vfma(y, y, total)))
        i += WIDTH
    if i < n:
        rest = n - i
        v, w = load_some(x, a + i, rest) * scales[0], load_some(x, b + i, rest) * scales[1]
        y, z = load_some(x, c + i, rest) * scales[2], load_some(x, d + i, rest) * scales[3]
        total = vfma(w, w, vfma(v, v, load_some(partial, e + i, rest)))
        store_some(partial, e + i, vfma(z, z, vfma(y, y, total)), rest)


def _sweep(x_address, units_at, scales_at, columns_at, partial_at, distance, m, n, size, is_first, start, stop):
    x, bits = pointer(x_address), plain_pointer(x_address)
    units, scales, columns = f32_pointer(units_at), f32_pointer(scales_at), f32_pointer(columns_at)
    partial, each = f32_pointer(partial_at), (m + size - 1) // size
    for block in range(start, stop):
        matrix, e = block // each, block * n
        first = matrix * m + block % each * size
        last = smaller(first + size, matrix * m + m)
        for i in range(n):
            partial[e + i] = _ZERO
        for row in range(first, last, 4):
            # Fewer than four rows: the last again, adding nothing.
            g, h, k = smaller(row + 1, last - 1), smaller(row + 2, last - 1), smaller(row + 3, last - 1)
            a, b, c, d = row * distance, g * distance, h * distance, k * distance
            if is_first:
                for one in range(row, k + 1):
                    # As integers: NaN comes after inf, and the reduction is vectorized everywhere.
                    top, at = I32(0), one * distance
                    for i in range(n):
                        magnitude = I32(bits_f32(widen(bits[at + i])) & _MAGNITUDE)
                        top = select(magnitude > top, magnitude, top)
                    units[one] = unit_of(top)
            some = units[row], units[g], units[h], units[k]
            p, q, r, s = weighted_squares(x, a, b, c, d, some, columns, matrix * n, n)
            scales[row], scales[g] = scale_of(some[0], p / n), scale_of(some[1], q / n)
            scales[h], scales[k] = scale_of(some[2], r / n), scale_of(some[3], s / n)
            beyond = scales[g] if row + 1 < last else _ZERO, scales[h] if row + 2 < last else _ZERO
            found = scales[row], beyond[0], beyond[1], scales[k] if row + 3 < last else _ZERO
            add_scaled_squares(x, a, b, c, d, found, partial, e, n)


def _apply(x_address, y_address, scales_at, columns_at, x_distance, y_distance, m, n, alpha, beta, start, stop):
    x, y, scales, columns = pointer(x_address), pointer(y_address), f32_pointer(scales_at), f32_pointer(columns_at)
    for row in range(start, stop):
        a, b, c, i = row * x_distance, row * y_distance, row // m * n, 0
        scale = scales[row]
        if beta == _ZERO:
            while i + WIDTH <= n:
                store(y, b + i, load(x, a + i) * scale * load(columns, c + i) * alpha)
                i += WIDTH
            if i < n:
                value = load_some(x, a + i, n - i) * scale * load_some(columns, c + i, n - i) * alpha
                store_some(y, b + i, value, n - i)
        else:
            while i + WIDTH <= n:
                value = load(x, a + i) * scale * load(columns, c + i)
                store(y, b + i, vfma(value, alpha, load(y, b + i) * beta))
                i += WIDTH
            if i < n:
                rest = n - i
                value = load_some(x, a + i, rest) * scale * load_some(columns, c + i, rest)
                store_some(y, b + i, vfma(value, alpha, load_some(y, b + i, rest) * beta), rest)


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
