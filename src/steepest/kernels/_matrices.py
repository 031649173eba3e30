# SPDX-License-Identifier: Apache-2.0
"""Loops over batches of matrices for what stands between the products of a polar iteration in bfloat16.

A batch is `batch * m` rows of n entries, one after the other.
"""

import numpy as np

from steepest.kernels._llvm import (
    bfloat_from_f32,
    bits_f32,
    f32_bits,
    f32_from_bfloat,
    f32_pointer,
    f64_pointer,
    scratch_memory,
    select,
    smaller,
    u16_pointer,
)
from steepest.kernels._registry import device, kernel
from steepest.kernels._rows import lane_add
from steepest.kernels._vector import WIDTH, load, load_some, vfma
from steepest.kernels._vector_stores import store, store_some

F32, I32 = np.float32, np.int32
#: Columns of a tile of a transposition: one line of memory.
COLUMNS = 16
#: Its rows, one line of what is written, and their distance in the scratch memory: no power of two, or they would
#: share the cache's sets.
_ROWS, _STRIDE = 32, 17
#: Terms that are added up in float32 lanes.
_BLOCK = 4096
_MAGNITUDE = I32(0x7FFFFFFF)
_ZERO = F32(0)


@kernel("void(intp, intp, intp, intp, intp)")
def largest_of_rows(x_address, out_address, n, start, stop):
    """Write the largest size of an entry of each row; a row with NaN gives NaN."""
    out = f32_pointer(out_address)
    for row in range(start, stop):
        x, top = f32_pointer(x_address + 4 * row * n), I32(0)
        for j in range(n):
            # As integers sizes have the same order, and NaN is above infinity.
            size = I32(bits_f32(x[j]) & _MAGNITUDE)
            top = select(size > top, size, top)
        out[row] = f32_bits(top)


@kernel("void(intp, intp, intp, intp, intp, intp, intp)")
def narrow_rows(x_address, divisors, y_address, m, n, start, stop):
    """Write rows of float32, divided by their matrix's number, in bfloat16."""
    numbers = f32_pointer(divisors)
    for row in range(start, stop):
        x, y = f32_pointer(x_address + 4 * row * n), u16_pointer(y_address + 2 * row * n)
        divisor = numbers[row // m]
        for j in range(n):
            y[j] = bfloat_from_f32(x[j] / divisor)


@kernel("void(intp, intp, intp, intp, intp, intp, intp)")
def narrow_columns(x_address, divisors, y_address, m, n, start, stop):
    """Write the transposes of m x n matrices of float32, divided by their numbers, in bfloat16: tiles from start on."""
    numbers, tile_of = f32_pointer(divisors), f32_pointer(scratch_memory())
    tiles = (n + COLUMNS - 1) // COLUMNS
    for tile in range(start, stop):
        matrix, first = tile // tiles, tile % tiles * COLUMNS
        columns, divisor = smaller(COLUMNS, n - first), numbers[matrix]
        for top in range(0, m, _ROWS):
            rows = smaller(_ROWS, m - top)
            x = f32_pointer(x_address + 4 * ((matrix * m + top) * n + first))
            y = u16_pointer(y_address + 2 * ((matrix * n + first) * m + top))
            for i in range(rows):
                for j in range(columns):
                    tile_of[i * _STRIDE + j] = x[i * n + j] / divisor
            for j in range(columns):
                for i in range(rows):
                    y[j * m + i] = bfloat_from_f32(tile_of[i * _STRIDE + j])


@device
def _squared(x, first, last):
    total = _ZERO
    for j in range(first, last):
        value = f32_from_bfloat(x[j])
        total = lane_add(total, value * value)
    return total


@kernel("void(intp, intp, intp, intp, intp)")
def squared_rows(x_address, out_address, n, start, stop):
    """Write the sum of squares of each row of bfloat16, in float64."""
    out = f64_pointer(out_address)
    for row in range(start, stop):
        x, total, first = u16_pointer(x_address + 2 * row * n), 0.0, 0
        while first < n:
            last = smaller(first + _BLOCK, n)
            total += np.float64(_squared(x, first, last))
            first = last
        out[row] = total


@kernel("void(intp, intp, intp, intp, intp, intp, intp)")
def polynomial_rows(gram_address, square_address, numbers_address, out_address, m, start, stop):
    """Write rows of a I + b A + c A^2, maybe over those of A^2; numbers holds a, b and c of each matrix, in float32."""
    numbers = f32_pointer(numbers_address)
    for row in range(start, stop):
        matrix, i, offset = row // m, row % m, 2 * row * m
        a, b, c = numbers[3 * matrix], numbers[3 * matrix + 1], numbers[3 * matrix + 2]
        gram, square = u16_pointer(gram_address + offset), u16_pointer(square_address + offset)
        out = u16_pointer(out_address + offset)
        corner = a + (b * f32_from_bfloat(gram[i]) + c * f32_from_bfloat(square[i]))
        # Sixteen lanes by name: LLVM's own vectors give up where out is where a square was.
        for j in range(0, m, WIDTH):
            rest = m - j
            if rest >= WIDTH:
                store(out, j, vfma(load(gram, j), b, load(square, j) * c))
            else:
                store_some(out, j, vfma(load_some(gram, j, rest), b, load_some(square, j, rest) * c), rest)
        out[i] = bfloat_from_f32(corner)
