# SPDX-License-Identifier: Apache-2.0
"""The kernels as plain functions of tensors, with the names and signatures of torch where torch has them."""

from steepest.kernels.elementary import erf, exp, exp2, expm1, log, log1p, sigmoid, softplus, tanh
<<<<<<< HEAD
from steepest.kernels.gated import bilinear, geglu, glu, reglu, swiglu
from steepest.kernels.normalization import rms_norm

__all__ = [
    "bilinear",
=======
from steepest.kernels.linear_cross_entropy import linear_cross_entropy

__all__ = [
    "cross_entropy",
>>>>>>> k-loss
    "erf",
    "exp",
    "exp2",
    "expm1",
<<<<<<< HEAD
    "geglu",
    "glu",
    "log",
    "log1p",
    "reglu",
    "rms_norm",
    "sigmoid",
    "softplus",
    "swiglu",
=======
    "linear_cross_entropy",
    "log",
    "log1p",
    "sigmoid",
    "softplus",
>>>>>>> k-loss
    "tanh",
]
