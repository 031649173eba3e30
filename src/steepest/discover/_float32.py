# SPDX-License-Identifier: Apache-2.0
"""Compiled float32 evaluation: every operation rounded, fma fused, errors in ulp."""

import math

import numba
import numpy as np

from steepest.kernels._llvm import bits_f32, f32_bits, fma

F32 = np.float32
_HALF, _QUARTER, _TWO, _FOUR = F32(0.5), F32(0.25), F32(2.0), F32(4.0)


@numba.njit(error_model="numpy", nogil=True)
def forward32(code, constants, x, values):
    """Fill `values` (registers, points), float32, with all registers of the program."""
    values[0] = x
    count = len(constants)
    for k in range(count):
        values[1 + k, :] = constants[k]
    for i in range(len(code)):
        op = code[i, 0]
        a, b, c, out = values[code[i, 1]], values[code[i, 2]], values[code[i, 3]], values[1 + count + i]
        for p in range(len(x)):
            if op == 0:
                out[p] = a[p] + b[p]
            elif op == 1:
                out[p] = a[p] - b[p]
            elif op == 2:
                out[p] = a[p] * b[p]
            elif op == 3:
                out[p] = a[p] / b[p]
            elif op == 4:
                out[p] = fma(a[p], b[p], c[p])
            elif op == 5:
                out[p] = F32(math.sqrt(a[p]))
            elif op == 6:
                out[p] = a[p] * a[p]
            elif op == 7:
                out[p] = _TWO * a[p]
            elif op == 8:
                out[p] = _FOUR * a[p]
            elif op == 9:
                out[p] = _HALF * a[p]
            else:
                out[p] = _QUARTER * a[p]


@numba.njit(error_model="numpy", nogil=True)
def largest_ulp(code, constants, x, target, per_ulp, values):
    """Return the largest |value - target| * per_ulp; inf where it is not a number."""
    forward32(code, constants, x, values)
    last = values[len(values) - 1]
    top = 0.0
    for p in range(len(x)):
        error = abs(np.float64(last[p]) - target[p]) * per_ulp[p]
        if not error < 1e30:
            return np.inf
        top = max(top, error)
    return top


@numba.njit(error_model="numpy", nogil=True)
def judge(code, constants, x, target, values):
    """Return the largest error in ulp of float32 (inf where a value is no number), where, and how many exceed 1."""
    forward32(code, constants, x, values)
    last = values[len(values) - 1]
    worst, at, above = 0.0, 0, 0
    for p in range(len(x)):
        exponent = max(math.frexp(target[p])[1] - 24, -149)
        error = math.ldexp(abs(np.float64(last[p]) - target[p]), -exponent)
        if not error < 1e30:
            error = np.inf
        if error > 1.0:
            above += 1
        if error > worst:
            worst, at = error, p
    return worst, at, above


@numba.njit(error_model="numpy", nogil=True)
def climb(code, constants, x, target, per_ulp, tries, seed):
    """Change last bits of `constants` in place while the largest error, in ulp, does not grow; return it."""
    np.random.seed(seed)
    values = np.empty((1 + len(constants) + len(code), len(x)), np.float32)
    best = largest_ulp(code, constants, x, target, per_ulp, values)
    trial = constants.copy()
    for _ in range(tries):
        trial[:] = constants
        for _ in range(1 + np.random.randint(3)):
            k = np.random.randint(len(constants))
            size = 1 << np.random.randint(12)
            move = np.random.randint(-size, size + 1)
            trial[k] = f32_bits(np.int32(bits_f32(trial[k]) + move))
        now = largest_ulp(code, trial, x, target, per_ulp, values)
        if now <= best:
            best = now
            constants[:] = trial
    return best


@numba.njit(error_model="numpy", nogil=True)
def each_float(low, high):
    """Return every float32 whose bits are from low to high - 1."""
    out = np.empty(high - low, np.float32)
    for i in range(high - low):
        out[i] = f32_bits(np.int32(low + i))
    return out
