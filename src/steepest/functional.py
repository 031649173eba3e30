# SPDX-License-Identifier: Apache-2.0
"""The kernels as plain functions of tensors, with the names and signatures of torch where torch has them."""

from steepest.kernels.activations import gelu, relu, silu
from steepest.kernels.cross_entropy import cross_entropy
from steepest.kernels.elementary import erf, exp, exp2, expm1, log, log1p, sigmoid, softplus, tanh
from steepest.kernels.gated import bilinear, geglu, glu, reglu, swiglu
from steepest.kernels.heaviside import heaviside
from steepest.kernels.jumprelu import jumprelu
from steepest.kernels.l2_normalize import l2_normalize
from steepest.kernels.layer_norm import layer_norm
from steepest.kernels.linear_cross_entropy import linear_cross_entropy
from steepest.kernels.polynorm import polynorm
from steepest.kernels.polyrelu import polyrelu
from steepest.kernels.rms_norm import rms_norm
from steepest.kernels.rotary import rotary
from steepest.kernels.softmax import log_softmax, logsumexp, softmax, softmax_
from steepest.kernels.swish import swish

__all__ = [
    "bilinear",
    "cross_entropy",
    "erf",
    "exp",
    "exp2",
    "expm1",
    "geglu",
    "gelu",
    "glu",
    "heaviside",
    "jumprelu",
    "l2_normalize",
    "layer_norm",
    "linear_cross_entropy",
    "log",
    "log1p",
    "log_softmax",
    "logsumexp",
    "polynorm",
    "polyrelu",
    "reglu",
    "relu",
    "rms_norm",
    "rotary",
    "sigmoid",
    "silu",
    "softmax",
    "softmax_",
    "softplus",
    "swiglu",
    "swish",
    "tanh",
]
