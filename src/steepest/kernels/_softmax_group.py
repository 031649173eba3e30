# SPDX-License-Identifier: Apache-2.0
"""Softmax of four short rows at once. Device functions on sixteen lanes; what belongs to each row is a tuple of four.

A row's largest logit, its sum and the division by it wait for each other: 20 ns for a row of 16, most of it waiting.
Four rows side by side share that time. Each is computed as `three_pass` would, to the same bits.
"""

import numpy as np

from steepest.kernels._registry import device
from steepest.kernels._softmax_rows import (
    LARGEST,
    WIDTH,
    exponent_of,
    last_terms,
    rounder_of,
    term,
    vanishing_of,
    write_logarithms,
)
from steepest.kernels._vector import lanes_max, lanes_sum, load, logits, logits_some, splat, vmax, vsum
from steepest.kernels._vector_stores import store, store_some

F32 = np.float32
ROWS = 4
#: Longer rows are computed one by one.
LONGEST = 512
LN2_F64 = 0.6931471805599453
_ZERO, _INF = F32(0), F32(np.inf)


@device
def max_step(source, i, top):
    """Return the larger of top and the logits from i on."""
    return vmax(logits(source, i), top)


@device
def max_rest(source, i, rest, top):
    """Return the largest logit among top and the last ones of a row."""
    return lanes_max(vmax(logits_some(source, i, rest), top))


@device
def largest_of_four(s, n):
    """Return the largest logit of each row that is not NaN."""
    a = splat(-_INF)
    b, c, d, i = a, a, a, 0
    while i + WIDTH < n:
        a, b, c, d = max_step(s[0], i, a), max_step(s[1], i, b), max_step(s[2], i, c), max_step(s[3], i, d)
        i += WIDTH
    r = n - i
    return max_rest(s[0], i, r, a), max_rest(s[1], i, r, b), max_rest(s[2], i, r, c), max_rest(s[3], i, r, d)


@device
def exponents_of_four(s, n):
    """Return the exponents of four rows, and whether all are ordinary: the largest logit is within 2^16 of 0.

    An ordinary row may have NaN, which its sum will be then.
    """
    a, b, c, d = largest_of_four(s, n)
    ordinary = max(max(abs(a), abs(b)), max(abs(c), abs(d))) <= LARGEST
    return exponent_of(a), exponent_of(b), exponent_of(c), exponent_of(d), ordinary


@device
def plain_term(source, i, exponent):
    """Return the terms of the logits from i on."""
    return term(logits(source, i), None, vanishing_of(exponent), rounder_of(exponent))


@device
def totals_of_four(s, n, exponents):
    """Return the sums of the terms of four rows in float64."""
    e, f, g, h = exponents
    a = splat(_ZERO)
    b, c, d, i = a, a, a, 0
    aa, bb, cc, dd = a, a, a, a
    while i + WIDTH < n:
        a, aa = aa, vsum(a, plain_term(s[0], i, e))
        b, bb = bb, vsum(b, plain_term(s[1], i, f))
        c, cc = cc, vsum(c, plain_term(s[2], i, g))
        d, dd = dd, vsum(d, plain_term(s[3], i, h))
        i += WIDTH
    r = n - i
    a, b = vsum(a, last_terms(s[0], i, r, None, e)), vsum(b, last_terms(s[1], i, r, None, f))
    c, d = vsum(c, last_terms(s[2], i, r, None, g)), vsum(d, last_terms(s[3], i, r, None, h))
    return lanes_sum(a + aa), lanes_sum(b + bb), lanes_sum(c + cc), lanes_sum(d + dd)


@device
def log_softmax_of_four(s, y, n):
    """Write the log-softmax of four rows of at most 512 logits, unless one is not ordinary: then write nothing.

    Args:
        s: Their sources.
        y: Pointers to the results.
        n: Their length.

    Returns:
        Whether all are ordinary.
    """
    e, f, g, h, ordinary = exponents_of_four(s, n)
    if not ordinary:
        return False
    a, b, c, d = totals_of_four(s, n, (e, f, g, h))
    write_logarithms(s[0], y[0], n, _ZERO, np.float64(e) * LN2_F64 + np.log(a), False)
    write_logarithms(s[1], y[1], n, _ZERO, np.float64(f) * LN2_F64 + np.log(b), False)
    write_logarithms(s[2], y[2], n, _ZERO, np.float64(g) * LN2_F64 + np.log(c), False)
    write_logarithms(s[3], y[3], n, _ZERO, np.float64(h) * LN2_F64 + np.log(d), False)
    return True


@device
def kept_term(source, i, exponent, keep):
    """Return the terms of the logits from i on, which keep gets too."""
    p = plain_term(source, i, exponent)
    store(keep, i, p)
    return p


@device
def write_row(keep, y, n, last, total):
    """Write the terms that a row has kept, and the last ones, which it has not, divided by their sum."""
    factor, i = F32(1.0 / total), 0
    while i + WIDTH < n:
        store(y, i, load(keep, i) * factor)
        i += WIDTH
    store_some(y, i, last * factor, n - i)


@device
def softmax_of_four(s, y, keep, n):
    """Write the softmax of four rows of at most 512 logits, unless one is not ordinary: then write nothing.

    Args:
        s: Their sources.
        y: Pointers to the results.
        keep: Pointers to n float32 each for terms, which may be y.
        n: Their length.

    Returns:
        Whether all are ordinary.
    """
    e, f, g, h, ordinary = exponents_of_four(s, n)
    if not ordinary:
        return False
    a = splat(_ZERO)
    b, c, d, i = a, a, a, 0
    aa, bb, cc, dd = a, a, a, a
    while i + WIDTH < n:
        # The next vector goes to the other lanes, as in `sum_block`.
        a, aa = aa, vsum(a, kept_term(s[0], i, e, keep[0]))
        b, bb = bb, vsum(b, kept_term(s[1], i, f, keep[1]))
        c, cc = cc, vsum(c, kept_term(s[2], i, g, keep[2]))
        d, dd = dd, vsum(d, kept_term(s[3], i, h, keep[3]))
        i += WIDTH
    r = n - i
    p, q = last_terms(s[0], i, r, None, e), last_terms(s[1], i, r, None, f)
    u, v = last_terms(s[2], i, r, None, g), last_terms(s[3], i, r, None, h)
    write_row(keep[0], y[0], n, p, lanes_sum(vsum(a, p) + aa))
    write_row(keep[1], y[1], n, q, lanes_sum(vsum(b, q) + bb))
    write_row(keep[2], y[2], n, u, lanes_sum(vsum(c, u) + cc))
    write_row(keep[3], y[3], n, v, lanes_sum(vsum(d, v) + dd))
    return True
