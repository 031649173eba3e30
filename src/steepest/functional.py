# SPDX-License-Identifier: Apache-2.0
"""The kernels as plain functions of tensors, with the names and signatures of torch where torch has them."""

from steepest.kernels.elementary import erf, exp, exp2, expm1, log, log1p, sigmoid, softplus, tanh

__all__ = ["erf", "exp", "exp2", "expm1", "log", "log1p", "sigmoid", "softplus", "tanh"]
