# SPDX-License-Identifier: Apache-2.0
"""Sixteen entries of four rows at a time: each step of the sweep is one call, for each call takes time to compile."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from steepest.kernels import _vector
from steepest.kernels._llvm import intrinsic
from steepest.kernels._vector import LANES

ROWS = 4
_FOUR, _SUMS = types.UniTuple(LANES, ROWS), types.UniTuple(types.float64, ROWS)


def _parts(builder: Any, values: Any) -> list[Any]:
    return [builder.extract_value(values, k) for k in range(ROWS)]


def _scaled(builder: Any, rows: Any, scales: Any) -> list[Any]:
    pairs = zip(_parts(builder, rows), _parts(builder, scales), strict=True)
    return [builder.fmul(row, _vector._splat(builder, scale, row.type)) for row, scale in pairs]


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _vector._call("fma")(builder, a, b, c)


@intrinsic
def no_lanes(typingctx):
    """Return zeros for four rows."""

    def generate(context, builder, sig, args):
        return context.make_tuple(builder, sig.return_type, [_vector._constant(0.0)] * ROWS)

    return _FOUR(), generate


@intrinsic
def load_rows(typingctx, x, places, i):
    """Return entries i to i + 15 of the rows that begin at four places."""

    def generate(context, builder, sig, args):
        at = [builder.add(place, args[2]) for place in _parts(builder, args[1])]
        rows = [_vector._read(builder, sig.args[0], args[0], one) for one in at]
        return context.make_tuple(builder, sig.return_type, rows)

    return _FOUR(x, places, types.intp), generate


@intrinsic
def load_rows_some(typingctx, x, places, i, count):
    """Return entries i to i + count - 1, count < 16, of four rows, and 0 in the other lanes."""

    def generate(context, builder, sig, args):
        at = [builder.add(place, args[2]) for place in _parts(builder, args[1])]
        rows = [_vector._read_some(builder, sig.args[0], args[0], one, args[3]) for one in at]
        return context.make_tuple(builder, sig.return_type, rows)

    return _FOUR(x, places, types.intp, types.intp), generate


@intrinsic
def weighted_squares(typingctx, totals, rows, scales, weight):
    """Return total + weight (scale x)^2 of each of four rows."""

    def generate(context, builder, sig, args):
        values = zip(_scaled(builder, args[1], args[2]), _parts(builder, args[0]), strict=True)
        found = [_fma(builder, builder.fmul(v, v), args[3], total) for v, total in values]
        return context.make_tuple(builder, sig.return_type, found)

    return _FOUR(_FOUR, _FOUR, scales, LANES), generate


@intrinsic
def sum_of_squares(typingctx, total, rows, scales):
    """Return the total plus (scale x)^2 of four rows, one after the other."""

    def generate(context, builder, sig, args):
        total = args[0]
        for v in _scaled(builder, args[1], args[2]):
            total = _fma(builder, v, v, total)
        return total

    return LANES(LANES, _FOUR, scales), generate


@intrinsic
def add_lanes(typingctx, sums, totals):
    """Return the four float64 sums, each with the lanes of its row added."""

    def generate(context, builder, sig, args):
        pairs = zip(_parts(builder, args[0]), _parts(builder, args[1]), strict=True)
        found = [builder.fadd(total, _vector.sum_of_lanes(builder, lanes)) for total, lanes in pairs]
        return context.make_tuple(builder, sig.return_type, found)

    return _SUMS(_SUMS, _FOUR), generate


def _times_if_any(read: Any) -> Any:
    def generate(context, builder, sig, args):
        beta = args[2]
        # Minus zero is what a fused multiplication can add without a trace.
        result = cgutils.alloca_once_value(builder, _vector._constant(-0.0))
        with builder.if_then(builder.fcmp_unordered("!=", beta, ir.Constant(beta.type, 0.0))):
            value = read(builder, sig.args[0], args[0], args[1], *args[3:])
            builder.store(builder.fmul(value, _vector._splat(builder, beta, value.type)), result)
        return builder.load(result)

    return generate


@intrinsic
def share_of(typingctx, y, i, beta):
    """Return beta times elements i to i + 15, which are not read if beta is 0."""
    return LANES(y, types.intp, types.float32), _times_if_any(_vector._read)


@intrinsic
def share_of_some(typingctx, y, i, beta, count):
    """Return beta times elements i to i + count - 1, count < 16."""
    return LANES(y, types.intp, types.float32, types.intp), _times_if_any(_vector._read_some)
