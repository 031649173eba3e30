# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy of a row of few classes. Device functions on sixteen lanes, whose masks take the target out of the sum.

The loops of longer rows stop before the target and go on behind it; each half ends with numbers that fill no vector.
"""

import numpy as np

from steepest.kernels._coefficients import LOG2E
from steepest.kernels._llvm import fabs, rint
from steepest.kernels._registry import device
from steepest.kernels._softmax_rows import (
    HEADROOM,
    ROUNDER,
    largest,
    last_result,
    lowest_of,
    result,
    rounder_of,
    term,
    vanishing_of,
)
from steepest.kernels._vector import WIDTH, lanes_sum, logits, logits_some, splat, vsum, without_lane
from steepest.kernels._vector_stores import store, store_some

F32 = np.float32
#: Longest row: its sum in float32 lanes is as good as that of a block.
LONGEST = 1024
_ZERO = F32(0)
# |x| up to here keeps the reduction by multiples of ln 2 exact; above it x - max is (nearly) exact itself.
_REDUCIBLE = F32(65536)
_HEADROOM_POWER = 2.0**-32


@device
def reference(top):
    """Return (shift, exponent) with x - shift reducible for x near top and e^top near e^shift 2^exponent."""
    shift = top if fabs(top) >= _REDUCIBLE else _ZERO
    return shift, rint((top - shift) * LOG2E)


@device
def sum_of_others(source, n, target, shift, exponent):
    """Return the sum of e^(x - shift) 2^-exponent in float64 over all classes but the target."""
    exponent -= HEADROOM
    lowest, rounder, i = vanishing_of(exponent), rounder_of(exponent), 0
    a = splat(_ZERO)
    b = a
    while i + WIDTH < n:
        a, b = b, vsum(a, without_lane(term(logits(source, i), shift, lowest, rounder), target - i))
        i += WIDTH
    last = term(logits_some(source, i, n - i), shift, lowest, rounder)
    return lanes_sum(vsum(a, without_lane(last, target - i)) + b) * _HEADROOM_POWER


@device
def write_probabilities(source, y, n, origin, inverse, factor):
    """Write e^(x - shift) 2^-exponent * inverse, the probabilities, times factor to y, which may be the logits."""
    shift, exponent = origin
    exponent -= HEADROOM
    lowest, rounder, i = lowest_of(exponent), ROUNDER - exponent, 0
    share = F32(inverse * _HEADROOM_POWER)
    while i + WIDTH <= n:
        store(y, i, result(logits(source, i), shift, lowest, rounder, share) * factor)
        i += WIDTH
    if i < n:
        rest = n - i
        value = last_result(logits_some(source, i, rest), rest, shift, lowest, rounder, share)
        store_some(y, i, value * factor, rest)


@device
def row_of_few(source, classes, t):
    """Return the largest logit of a row and the sum of the others' exponentials, which are relative to it."""
    top = largest(source, 0, classes)
    shift, exponent = reference(top)
    return top, sum_of_others(source, classes, t, shift, exponent)
