# SPDX-License-Identifier: Apache-2.0
"""One row of softmax: the sums, four ways, and the writes. Device functions on sixteen lanes.

A row's statistics are (total, exponent, shift): its exponentials sum to total * 2^exponent * e^shift, total in float64.
Nothing ever subtracts the maximum *value*, whose rounding costs 1e-6: e^x is m 2^n, and only whole exponents are
subtracted. shift is 0 unless the row's largest logit is beyond `LARGEST`; there x - max is exact where it matters.
A total that is NaN stands for a row with NaN or +inf; a total of 0 for a row in which everything is -inf.

Sums run in float32 lanes over a block and in float64 from block to block, so their error does not grow with length:
at most (BLOCK / 64 + 2) 2^-24 however long the row is.
"""

import numpy as np

from steepest.kernels import _coefficients as k
from steepest.kernels._llvm import f64_bits, rint
from steepest.kernels._registry import device
from steepest.kernels._vector import (
    WIDTH,
    lanes_max,
    lanes_sum,
    load,
    load_some,
    logits,
    logits_some,
    misalignment,
    splat,
    store,
    store_some,
    stream,
    vfma,
    vhorner,
    vmax,
    vrint,
    vscale,
)

F32 = np.float32
BLOCK = 1024
#: Codes of the algorithms.
RECOMPUTE, RELOAD, TWO_PASS, ONLINE = 0, 1, 2, 3
_STEP = 4 * WIDTH
_ZERO, _INF = F32(0), F32(np.inf)
_LOG2E, _LN2_HI, _LN2_LO, _EXP = k.LOG2E, k.LN2_HI, k.LN2_LO, k.EXP.coefficients
_LN2, _LN2_F64 = F32(0.6931471805599453), 0.6931471805599453
#: Beyond this the reduction modulo ln 2 is no longer exact, and the row is shifted by its maximum.
LARGEST = F32(2.0**16)
_LARGEST_EXPONENT = F32(2.0**16 * 1.4427)
_LOWEST = F32(-(2.0**20))
_LOWEST_EXPONENT = F32(-(2.0**21))
#: Terms this far below the maximum (in units of x) count as 0: their results are below the smallest subnormal.
_NEGLIGIBLE = F32(150)


@device
def extexp(x):
    """Return (m, n) with e^x = m 2^n, m in [0.70, 1.42], for |x| <= 2^20 or NaN; m within 0.9 ulp for |x| <= 2^16."""
    n = vrint(x * _LOG2E)
    t = vfma(n, -_LN2_HI, x)
    t = vfma(n, -_LN2_LO, t)
    return vhorner(t, _EXP), n


@device
def term(z, shift, lowest, exponent):
    """Return e^(z - shift) 2^-exponent; lowest must be finite, so -inf gives 0 and NaN stays."""
    m, n = extexp(vmax(lowest, z - shift))
    return vscale(m, n - exponent)


@device
def power_of_two_f64(n):
    """Return 2^n in float64 for an integral float32 n <= 0; 0 below -1000."""
    return f64_bits((np.int64(n) + np.int64(1023)) << np.int64(52)) if n > F32(-1000) else 0.0


@device
def lowest_of(exponent):
    """Return the logit below which e^x 2^-exponent is 0."""
    return exponent * _LN2 - _NEGLIGIBLE


@device
def aligned_start(y, n):
    """Return how many elements come before the first whose address allows a streaming store; less than 16."""
    return min(misalignment(y), n)


@device
def largest(source, start, stop):
    """Return the largest logit that is not NaN; -inf if there is none."""
    a = splat(-_INF)
    b, c, d = a, a, a
    i = start
    while i + _STEP <= stop:
        a = vmax(logits(source, i), a)
        b = vmax(logits(source, i + 16), b)
        c = vmax(logits(source, i + 32), c)
        d = vmax(logits(source, i + 48), d)
        i += _STEP
    while i + WIDTH <= stop:
        a = vmax(logits(source, i), a)
        i += WIDTH
    if i < stop:
        b = vmax(logits_some(source, i, stop - i), b)
    return lanes_max(vmax(vmax(a, b), vmax(c, d)))


@device
def sum_block(source, start, stop, shift, exponent, keep):
    """Return the sum of the terms of one block in float64; write them to keep, unless that is None."""
    lowest = lowest_of(exponent)
    a = splat(_ZERO)
    b, c, d = a, a, a
    i = start
    while i + _STEP <= stop:
        p = term(logits(source, i), shift, lowest, exponent)
        q = term(logits(source, i + 16), shift, lowest, exponent)
        r = term(logits(source, i + 32), shift, lowest, exponent)
        s = term(logits(source, i + 48), shift, lowest, exponent)
        store(keep, i, p)
        store(keep, i + 16, q)
        store(keep, i + 32, r)
        store(keep, i + 48, s)
        a, b, c, d = a + p, b + q, c + r, d + s
        i += _STEP
    while i + WIDTH <= stop:
        p = term(logits(source, i), shift, lowest, exponent)
        store(keep, i, p)
        a = a + p
        i += WIDTH
    if i < stop:
        p = term(logits_some(source, i, stop - i), shift, lowest, exponent)
        store_some(keep, i, p, stop - i)
        b = b + p
    return lanes_sum((a + b) + (c + d))


@device
def any_nan(source, n):
    """Return whether a logit is NaN, in a row that has no other logits than NaN and -inf."""
    a = splat(_ZERO)
    i = 0
    while i < n:
        z = logits(source, i) if i + WIDTH <= n else logits_some(source, i, n - i)
        a = a + vmax(_ZERO, z)
        i += WIDTH
    return lanes_sum(a) != 0.0


@device
def three_pass(source, n, keep):
    """Return the statistics of any row by a sweep for the maximum and one for the sum; write the terms to keep."""
    top = largest(source, 0, n)
    if top == _INF:
        return np.nan, _ZERO, _ZERO
    if top == -_INF:
        return (np.nan if any_nan(source, n) else 0.0), _ZERO, _ZERO
    shift = _ZERO if abs(top) <= LARGEST else top
    exponent = rint((top - shift) * _LOG2E)
    total, start = 0.0, 0
    while start < n:
        stop = min(start + BLOCK, n)
        total += sum_block(source, start, stop, shift, exponent, keep)
        start = stop
    return total, exponent, shift


@device
def online(source, n):
    """Return the statistics of a row by one sweep that rescales the sum when a block raises the maximum.

    Milakov and Gimelshein 2018, arXiv 1805.02867, with whole exponents in place of maxima and a block in place of an
    element. The row must be ordinary, see `is_ordinary`.
    """
    total, exponent, start = 0.0, _LOWEST_EXPONENT, 0
    while start < n:
        stop = min(start + BLOCK, n)
        needed = rint(largest(source, start, stop) * _LOG2E)
        if needed > exponent:
            total *= power_of_two_f64(exponent - needed)
            exponent = needed
            if exponent > _LARGEST_EXPONENT:
                return total, exponent
        total += sum_block(source, start, stop, _ZERO, exponent, None)
        start = stop
    return total, exponent


@device
def two_pass_step(a, e, w, x, y, z):
    """Add the exponentials of four vectors of logits to the lanes a 2^e."""
    m, n = extexp(vmax(_LOWEST, w))
    o, p = extexp(vmax(_LOWEST, x))
    q, r = extexp(vmax(_LOWEST, y))
    s, t = extexp(vmax(_LOWEST, z))
    top = vmax(t, vmax(r, vmax(p, vmax(n, e))))
    new = (vscale(m, n - top) + vscale(o, p - top)) + (vscale(q, r - top) + vscale(s, t - top))
    return vscale(a, e - top) + new, top


@device
def two_pass(source, n):
    """Return the statistics of a row by one sweep that adds pairs of mantissa and exponent, lane by lane.

    Dukhan and Ablavatski 2020, arXiv 2001.04438. The row must be ordinary, see `is_ordinary`.
    """
    total, exponent, start = 0.0, _LOWEST_EXPONENT, 0
    while start < n:
        stop = min(start + BLOCK, n)
        a, e, i = splat(_ZERO), splat(_LOWEST_EXPONENT), start
        while i + _STEP <= stop:
            parts = logits(source, i), logits(source, i + 16), logits(source, i + 32), logits(source, i + 48)
            a, e = two_pass_step(a, e, *parts)
            i += _STEP
        while i < stop:
            z = logits(source, i) if i + WIDTH <= stop else logits_some(source, i, stop - i)
            m, p = extexp(vmax(_LOWEST, z))
            top = vmax(p, e)
            a, e = vscale(a, e - top) + vscale(m, p - top), top
            i += WIDTH
        top = max(exponent, lanes_max(e))
        part = lanes_sum(vscale(a, e - top))
        total, exponent = total * power_of_two_f64(exponent - top) + part, top
        start = stop
    return total, exponent


@device
def is_ordinary(total, exponent):
    """Return whether one sweep was enough: largest logit within 2^16 of 0, and no NaN."""
    return abs(exponent) <= _LARGEST_EXPONENT and total == total


@device
def statistics(source, n, algorithm):
    """Return the statistics of any row: by one sweep or, if it turns out not to be ordinary, by two more."""
    if algorithm >= TWO_PASS:
        total, exponent = two_pass(source, n) if algorithm == TWO_PASS else online(source, n)
        if is_ordinary(total, exponent):
            return total, exponent, _ZERO
    return three_pass(source, n, None)


@device
def write_exponentials(source, y, n, shift, exponent, factor, streaming):
    """Write term * factor to y."""
    lowest, start = lowest_of(exponent), 0
    if streaming:
        start = aligned_start(y, n)
        if start > 0:
            m, e = extexp(vmax(lowest, logits_some(source, 0, start) - shift))
            store_some(y, 0, vscale(m * factor, e - exponent), start)
        while start + WIDTH <= n:
            m, e = extexp(vmax(lowest, logits(source, start) - shift))
            stream(y, start, vscale(m * factor, e - exponent))
            start += WIDTH
    while start + WIDTH <= n:
        m, e = extexp(vmax(lowest, logits(source, start) - shift))
        store(y, start, vscale(m * factor, e - exponent))
        start += WIDTH
    if start < n:
        m, e = extexp(vmax(lowest, logits_some(source, start, n - start) - shift))
        store_some(y, start, vscale(m * factor, e - exponent), n - start)


@device
def write_products(terms, y, n, factor, streaming):
    """Write terms * factor to y."""
    start = 0
    if streaming:
        start = aligned_start(y, n)
        if start > 0:
            store_some(y, 0, load_some(terms, 0, start) * factor, start)
        while start + WIDTH <= n:
            stream(y, start, load(terms, start) * factor)
            start += WIDTH
    while start + WIDTH <= n:
        store(y, start, load(terms, start) * factor)
        start += WIDTH
    if start < n:
        store_some(y, start, load_some(terms, start, n - start) * factor, n - start)


@device
def write_logarithms(source, y, n, shift, rest, streaming):
    """Write z - shift - rest to y, for a rest in float64."""
    high = F32(rest)
    low = F32(rest - np.float64(high))
    start = 0
    if streaming:
        start = aligned_start(y, n)
        if start > 0:
            store_some(y, 0, ((logits_some(source, 0, start) - shift) - high) - low, start)
        while start + WIDTH <= n:
            stream(y, start, ((logits(source, start) - shift) - high) - low)
            start += WIDTH
    while start + WIDTH <= n:
        store(y, start, ((logits(source, start) - shift) - high) - low)
        start += WIDTH
    if start < n:
        store_some(y, start, ((logits_some(source, start, n - start) - shift) - high) - low, n - start)


@device
def fill_row(y, n, value):
    """Write value to every element of y."""
    lanes, start = splat(value), 0
    while start + WIDTH <= n:
        store(y, start, lanes)
        start += WIDTH
    if start < n:
        store_some(y, start, lanes, n - start)
