# SPDX-License-Identifier: Apache-2.0
"""Softmax, losses, activations, normalization and fused updates at memory speed on CPUs.

The functions are in `steepest.functional`. `warmup` compiles them all ahead of time.
"""

from steepest.kernels._memory import release_memory
from steepest.kernels._registry import kernels, warmup
from steepest.kernels.elementary import erf, exp, exp2, expm1, log, log1p, sigmoid, softplus, tanh

__all__ = [
    "erf",
    "exp",
    "exp2",
    "expm1",
    "kernels",
    "log",
    "log1p",
    "release_memory",
    "sigmoid",
    "softplus",
    "tanh",
    "warmup",
]
