# SPDX-License-Identifier: Apache-2.0
"""The kernels as plain functions of tensors, with the names and signatures of torch where torch has them."""

from steepest.kernels.cross_entropy import cross_entropy
from steepest.kernels.elementary import erf, exp, exp2, expm1, log, log1p, sigmoid, softplus, tanh
from steepest.kernels.linear_cross_entropy import linear_cross_entropy

__all__ = [
    "cross_entropy",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "linear_cross_entropy",
    "log",
    "log1p",
    "sigmoid",
    "softplus",
    "tanh",
]
