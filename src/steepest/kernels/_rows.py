# SPDX-License-Identifier: Apache-2.0
"""Rows of a tensor in memory, and sums that a vectorizer may split into lanes."""

from typing import Any

from torch import Tensor

from steepest.kernels._llvm import intrinsic

#: Longest run of terms added in float32 lanes; runs are added in float64.
RUN = 4096


@intrinsic
def accumulate(typingctx: Any, total: Any, a: Any, b: Any) -> Any:
    """Return total + a * b, fused, in an order of additions that the compiler chooses: a sum in vector lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        product = builder.fmul(args[1], args[2], flags=("contract",))
        return builder.fadd(args[0], product, flags=("reassoc", "contract"))

    return total(total, a, b), generate


@intrinsic
def lane_add(typingctx, a, b):
    """Return a + b, in any order of a loop's terms: what lets LLVM keep the sum in lanes."""

    def generate(context, builder, signature, args):
        return builder.fadd(*args, flags=("reassoc",))

    return a(a, a), generate


def as_rows(x: Tensor) -> tuple[Tensor, int]:
    """Return x, copied only if it must be, and the distance between its rows along the last dimension, in elements.

    Args:
        x: At least one-dimensional.

    Returns:
        A tensor whose row r begins r * distance elements after its start and is dense, and that distance.
    """
    if x.is_contiguous():
        return x, x.shape[-1]
    distance = span = None
    if x.stride(-1) == 1:
        for size, stride in zip(reversed(x.shape[:-1]), reversed(x.stride()[:-1]), strict=True):
            if size != 1:
                if distance is None:
                    distance = stride
                elif stride != span:
                    break
                span = stride * size
        else:
            return x, x.shape[-1] if distance is None else distance
    return x.contiguous(), x.shape[-1]
