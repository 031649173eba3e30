# SPDX-License-Identifier: Apache-2.0
"""One row of softmax: the sums, four ways, and the writes. Device functions on sixteen lanes.

A row's statistics are (total, exponent, shift): its exponentials sum to total * 2^exponent * e^shift, total in float64.
Nothing ever subtracts the maximum *value*, whose rounding costs 1e-6: e^x is m 2^n, and only whole exponents are
subtracted. shift is 0 unless the row's largest logit is beyond `LARGEST`; there x - max is exact where it matters.
A total that is NaN stands for a row with NaN or +inf; a total of 0 for a row in which everything is -inf.

The exponent is that of the largest term less `HEADROOM`, so that every term that can matter is a normal number: its
power of two is then made by one shift, and only the last multiplication, by 1 / total, can round into the subnormals.

Sums run in float32 lanes over a block and in float64 from block to block, so their error does not grow with length:
at most (BLOCK / 64 + 2) 2^-24 however long the row is.
"""

import numpy as np

from steepest.kernels import _coefficients as k
from steepest.kernels._llvm import f64_bits, rint
from steepest.kernels._registry import device
from steepest.kernels._vector import (
    WIDTH,
    first_lanes,
    lanes_max,
    lanes_sum,
    load,
    load_some,
    logits,
    logits_some,
    minus,
    splat,
    vfma,
    vhorner,
    vmax,
    vpower,
    vproduct,
    vrint,
    vscale,
    vsum,
)
from steepest.kernels._vector_stores import misalignment, store, store_some, stream

F32 = np.float32
BLOCK = 1024
#: Codes of the algorithms.
RECOMPUTE, RELOAD, TWO_PASS, ONLINE, ONLINE_RELOAD = 0, 1, 2, 3, 4
_STEP = 2 * WIDTH
_ZERO, _INF = F32(0), F32(np.inf)
_LOG2E, _LN2_HI, _LN2_LO, _EXP = k.LOG2E, k.LN2_HI, k.LN2_LO, k.EXP.coefficients
_LN2, _LN2_F64 = F32(0.6931471805599453), 0.6931471805599453
#: Beyond this the reduction modulo ln 2 is no longer exact, and the row is shifted by its maximum.
LARGEST = F32(2.0**16)
_LARGEST_EXPONENT = F32(2.0**16 * 1.4427)
_LOWEST = F32(-(2.0**20))
_LOWEST_EXPONENT = F32(-(2.0**21))
#: The largest term of a row is about 2^32.
HEADROOM = F32(32)
#: Logits this far below e^x = 2^exponent count as such: a term of 2^-123 is a result below half the least subnormal.
_NEGLIGIBLE = F32(85)
#: 127 powers of two below it: `vpower` makes exactly 0 of such a term, and products with it are not subnormal.
_VANISHING = F32(88.03)
#: Added to a number, rounds it to an integer and leaves that in the low bits.
ROUNDER, _BIAS = F32(1.5 * 2.0**23), F32(127)
_DROPPED = F32(-127)
_HEADROOM_POWER = 2.0**32


@device
def extexp(x):
    """Return (m, n) with e^x = m 2^n, m in [0.70, 1.42], for |x| <= 2^20 or NaN; m within 0.9 ulp for |x| <= 2^16."""
    n = vrint(x * _LOG2E)
    t = vfma(n, -_LN2_HI, x)
    t = vfma(n, -_LN2_LO, t)
    return vhorner(t, _EXP), n


@device
def rounded_extexp(x, rounder):
    """Return (m, n + rounder) with e^x = m 2^n: `rounder` is 1.5 2^23 plus an integer that n shall be raised by."""
    k = vfma(x, _LOG2E, rounder)
    n = k - rounder
    t = vfma(n, -_LN2_HI, x)
    t = vfma(n, -_LN2_LO, t)
    return vhorner(t, _EXP), k


@device
def term(z, shift, lowest, rounder):
    """Return e^(z - shift) 2^-exponent; lowest must be finite (`vanishing_of`), so -inf gives 0 and NaN stays."""
    m, k = rounded_extexp(vmax(lowest, minus(z, shift)), rounder)
    return vproduct(m, vpower(k))


@device
def rounder_of(exponent):
    """Return the rounder with which 2^(n - exponent) has the biased exponent of a float32."""
    return ROUNDER + (_BIAS - exponent)


@device
def result(z, shift, lowest, rounder, factor):
    """Return e^(z - shift) 2^-exponent * factor for a row without NaN; rounder is 1.5 2^23 - exponent."""
    m, k = rounded_extexp(vmax(lowest, z - shift), rounder)
    return vscale(m, k) * factor


@device
def last_result(z, count, shift, lowest, rounder, factor):
    """Return `result` in the first lanes and 0 in the others, where it would be subnormal: a hundred cycles more."""
    m, k = rounded_extexp(vmax(lowest, z - shift), rounder)
    return first_lanes(vscale(m, k), count) * factor


@device
def power_of_two_f64(n):
    """Return 2^n in float64 for an integral float32 n <= 0; 0 below -1000."""
    return f64_bits((np.int64(n) + np.int64(1023)) << np.int64(52)) if n > F32(-1000) else 0.0


@device
def lowest_of(exponent):
    """Return the logit below which e^x 2^-exponent makes no difference."""
    return exponent * _LN2 - _NEGLIGIBLE


@device
def vanishing_of(exponent):
    """Return a logit for which `term` gives 0."""
    return exponent * _LN2 - _VANISHING


@device
def exponent_of(top):
    """Return the exponent of a row whose largest logit this is."""
    return rint(top * _LOG2E) - HEADROOM


@device
def aligned_start(y, n):
    """Return how many elements come before the first whose address allows a streaming store; less than 16."""
    return min(misalignment(y), n)


@device
def largest(source, start, stop):
    """Return the largest logit that is not NaN; -inf if there is none."""
    a = splat(-_INF)
    b, i = a, start
    while i + _STEP <= stop:
        a = vmax(logits(source, i), a)
        b = vmax(logits(source, i + WIDTH), b)
        i += _STEP
    if i + WIDTH <= stop:
        a = vmax(logits(source, i), a)
        i += WIDTH
    if i < stop:
        b = vmax(logits_some(source, i, stop - i), b)
    return lanes_max(vmax(a, b))


@device
def last_terms(source, i, rest, shift, exponent):
    """Return the terms of 1 to 16 last logits, 0 in the other lanes."""
    return term(logits_some(source, i, rest), shift, vanishing_of(exponent), rounder_of(exponent))


@device
def sum_block(source, start, stop, shift, exponent, keep):
    """Return the sum of the terms of one block in float64; write them to keep, unless that is None."""
    lowest, rounder = vanishing_of(exponent), rounder_of(exponent)
    a = splat(_ZERO)
    b, i = a, start
    while i + _STEP <= stop:
        p = term(logits(source, i), shift, lowest, rounder)
        store(keep, i, p)
        a = vsum(a, p)
        q = term(logits(source, i + WIDTH), shift, lowest, rounder)
        store(keep, i + WIDTH, q)
        b = vsum(b, q)
        i += _STEP
    if i + WIDTH <= stop:
        p = term(logits(source, i), shift, lowest, rounder)
        store(keep, i, p)
        a, b = b, vsum(a, p)  # the next vector goes to the other lanes
        i += WIDTH
    if i < stop:
        p = last_terms(source, i, stop - i, shift, exponent)
        store_some(keep, i, p, stop - i)
        a = vsum(a, p)
    return lanes_sum(a + b)


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
    exponent = exponent_of(top - shift)
    total, start = 0.0, 0
    while start < n:
        stop = min(start + BLOCK, n)
        total += sum_block(source, start, stop, shift, exponent, keep)
        start = stop
    return total, exponent, shift


@device
def online(source, n, keep, exponents):
    """Return total and exponent of a row by one sweep that rescales the sum when a block raises the maximum.

    Milakov and Gimelshein 2018, arXiv 1805.02867, with whole exponents in place of maxima and a block in place of an
    element. The row must be ordinary, see `is_ordinary`. Terms are written to keep, unless that is None, each block's
    relative to its own exponent, which goes to exponents.
    """
    total, exponent, start = 0.0, _LOWEST_EXPONENT, 0
    while start < n:
        stop = min(start + BLOCK, n)
        needed = exponent_of(largest(source, start, stop))
        if needed > exponent:
            total *= power_of_two_f64(exponent - needed)
            exponent = needed
            if exponent > _LARGEST_EXPONENT:
                return total, exponent
        total += sum_block(source, start, stop, None, exponent, keep)
        if keep is not None:
            exponents[start // BLOCK] = exponent
        start = stop
    return total, exponent


@device
def power_below(n):
    """Return 2^n for integral n <= 0, and 0 below 2^-126: such a term is lost beside the largest."""
    return vpower(vmax(_DROPPED, n) + (ROUNDER + _BIAS))


@device
def two_pass_step(a, e, source, i):
    """Add the exponentials of four vectors of logits from i on to the lanes a 2^e.

    Four, because the lanes wait for the largest exponent, its power of two and a product in every step.
    """
    m, n = extexp(vmax(_LOWEST, logits(source, i)))
    o, p = extexp(vmax(_LOWEST, logits(source, i + WIDTH)))
    q, r = extexp(vmax(_LOWEST, logits(source, i + 2 * WIDTH)))
    s, t = extexp(vmax(_LOWEST, logits(source, i + 3 * WIDTH)))
    top = vmax(vmax(vmax(n, p), vmax(r, t)), e)
    first = vsum(vproduct(m, power_below(n - top)), vproduct(o, power_below(p - top)))
    second = vsum(vproduct(q, power_below(r - top)), vproduct(s, power_below(t - top)))
    return vsum(vproduct(a, power_below(e - top)), first + second), top


@device
def two_pass(source, n):
    """Return the statistics of a row by one sweep that adds pairs of mantissa and exponent, lane by lane.

    Dukhan and Ablavatski 2020, arXiv 2001.04438. The row must be ordinary, see `is_ordinary`.
    """
    total, exponent, start = 0.0, _LOWEST_EXPONENT, 0
    while start < n:
        stop = min(start + BLOCK, n)
        a, e, i = splat(_ZERO), splat(_LOWEST_EXPONENT), start
        while i + 2 * _STEP <= stop:
            a, e = two_pass_step(a, e, source, i)
            i += 2 * _STEP
        while i < stop:
            z = logits(source, i) if i + WIDTH <= stop else logits_some(source, i, stop - i)
            m, p = extexp(vmax(_LOWEST, z))
            top = vmax(p, e)
            a, e = vsum(a * power_below(e - top), vproduct(m, power_below(p - top))), top
            i += WIDTH
        top = max(exponent, lanes_max(e))
        part = lanes_sum(a * power_below(e - top))
        total, exponent = total * power_of_two_f64(exponent - top) + part, top
        start = stop
    return total * _HEADROOM_POWER, exponent - HEADROOM


@device
def is_ordinary(total, exponent):
    """Return whether one sweep was enough: largest logit within 2^16 of 0, and no NaN."""
    return abs(exponent) <= _LARGEST_EXPONENT and total == total


@device
def statistics(source, n, algorithm):
    """Return the statistics of any row: by one sweep or, if it turns out not to be ordinary, by two more."""
    if algorithm >= TWO_PASS:
        total, exponent = two_pass(source, n) if algorithm == TWO_PASS else online(source, n, None, None)
        if is_ordinary(total, exponent):
            return total, exponent, _ZERO
    return three_pass(source, n, None)


@device
def write_exponentials(source, y, n, shift, exponent, factor, streaming):
    """Write e^(z - shift) 2^-exponent * factor to y."""
    lowest, rounder, start = lowest_of(exponent), ROUNDER - exponent, 0
    if streaming:
        start = aligned_start(y, n)
        if start > 0:
            store_some(y, 0, last_result(logits_some(source, 0, start), start, shift, lowest, rounder, factor), start)
        while start + WIDTH <= n:
            stream(y, start, result(logits(source, start), shift, lowest, rounder, factor))
            start += WIDTH
    while start + WIDTH <= n:
        store(y, start, result(logits(source, start), shift, lowest, rounder, factor))
        start += WIDTH
    if start < n:
        rest = n - start
        store_some(y, start, last_result(logits_some(source, start, rest), rest, shift, lowest, rounder, factor), rest)


@device
def write_online(terms, y, n, factor, exponents, exponent):
    """Write the terms that `online` kept to y, those of each block brought to the row's exponent, times factor."""
    start = 0
    while start < n:
        stop = min(start + BLOCK, n)
        below = max(exponents[start // BLOCK] - exponent, F32(-250))
        if below == _ZERO:
            scale_block(terms, y, start, stop, factor)
        else:  # in two steps: 2^-180 times a term of 2^33 is a result, but no float32
            first = rint(below * F32(0.5))
            near, far = F32(power_of_two_f64(first)), F32(power_of_two_f64(below - first)) * factor
            scale_block_twice(terms, y, start, stop, near, far)
        start = stop


@device
def scale_block(terms, y, start, stop, factor):
    """Write terms * factor to y."""
    i = start
    while i + WIDTH <= stop:
        store(y, i, load(terms, i) * factor)
        i += WIDTH
    if i < stop:
        store_some(y, i, load_some(terms, i, stop - i) * factor, stop - i)


@device
def scale_block_twice(terms, y, start, stop, near, far):
    """Write (terms * near) * far to y."""
    i = start
    while i + WIDTH <= stop:
        store(y, i, (load(terms, i) * near) * far)
        i += WIDTH
    if i < stop:
        store_some(y, i, (load_some(terms, i, stop - i) * near) * far, stop - i)


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
