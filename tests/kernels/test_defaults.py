# SPDX-License-Identifier: Apache-2.0
"""A user's default dtype and device are for the user's tensors: what a kernel allocates does not follow them."""

import pytest
import torch

from steepest import functional as SF
from steepest.kernels import sinkhorn
from tests.defaults import DEFAULTS

ROWS, COLUMNS = 1100, 1000  # 4.4 MB: outputs of this size lie in memory of our own


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu")


X, GATE, POSITIVE = normal(ROWS, COLUMNS), normal(ROWS, COLUMNS, seed=1), normal(ROWS, COLUMNS).abs() + 0.1
WEIGHT, TARGET, SOFT = normal(COLUMNS, seed=2), torch.arange(ROWS) % COLUMNS, normal(ROWS, COLUMNS).softmax(-1)
HIDDEN, CLASSIFIER, COEFFICIENTS = normal(ROWS, 16), normal(COLUMNS, 16, seed=3), normal(4, seed=4)
MASK, THRESHOLD = normal(ROWS, COLUMNS) > 3, WEIGHT.abs()
ONE = ["erf", "exp", "exp2", "expm1", "gelu", "relu", "sigmoid", "silu", "softplus", "tanh"]
ONE += ["softmax", "log_softmax", "logsumexp", "l2_normalize"]
CASES = {
    **{name: (getattr(SF, name), X) for name in ONE},
    **{name: (getattr(SF, name), POSITIVE) for name in ("log", "log1p")},
    **{name: (getattr(SF, name), X, GATE) for name in ("bilinear", "geglu", "glu", "reglu", "swiglu")},
    "masked softmax": (lambda x: SF.softmax(x, mask=torch.where(MASK, -torch.inf, 0.0 * X)), X),
    "rows of 20": (SF.softmax, X.view(-1, 20)),
    "logsumexp of nothing": (lambda x: SF.logsumexp(x[:, :0], -1) + x[:, 0], X),
    "l2_normalize, dim 0": (lambda x: SF.l2_normalize(x, 0), X),
    "cross_entropy": (lambda x: SF.cross_entropy(x, TARGET), X),
    "cross_entropy, one by one": (lambda x: SF.cross_entropy(x, TARGET, reduction="none"), X),
    "cross_entropy, weights": (lambda x: SF.cross_entropy(x, TARGET, THRESHOLD, label_smoothing=0.1), X),
    "cross_entropy, soft": (lambda x: SF.cross_entropy(x, SOFT), X),
    "cross_entropy, few rows": (lambda x: SF.cross_entropy(x[:4, :10], TARGET[:4]), X),
    "linear_cross_entropy": (lambda h, w: SF.linear_cross_entropy(h, w, TARGET), HIDDEN, CLASSIFIER),
    "heaviside": (lambda x, t: SF.heaviside(x, t, 0.1), X, THRESHOLD),
    "jumprelu": (lambda x, t: SF.jumprelu(x, t, 0.1), X, THRESHOLD),
    "swish": (lambda x: SF.swish(x, 1.5), X),
    "swish, beta learned": (SF.swish, X, WEIGHT),
    "polyrelu": (SF.polyrelu, X, COEFFICIENTS),
    "polynorm": (SF.polynorm, X, COEFFICIENTS),
    "layer_norm": (lambda x, w: SF.layer_norm(x, w, w, 1e-5), X, WEIGHT),
    "rms_norm": (lambda x, w: SF.rms_norm(x, w, 1e-6), X, WEIGHT),
    "rotary": (lambda x: SF.rotary(x.view(1, 110, 10, 1000), GATE[:110, :500], GATE[:110, 500:]), X),
    "softmax_": (lambda x: SF.softmax_(x.detach().clone()) + 0.0 * x, X),
    "sinkhorn": (lambda x: sinkhorn.scale_rows_and_columns_(x.detach().clone(), x.detach(), steps=2) + 0.0 * x, X),
}


def results(call, *inputs):
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = call(*leaves)
    return y.detach(), *torch.autograd.grad(y, leaves, torch.ones_like(y), allow_unused=True)


def test_every_public_function_is_here():
    assert {name.split(",")[0] for name in CASES} >= set(SF.__all__)


@pytest.mark.parametrize("default", DEFAULTS)
@pytest.mark.parametrize("name", CASES)
def test_same_bits_whatever_the_defaults_are(name, default):
    expected = results(*CASES[name])
    with DEFAULTS[default]():
        found = results(*CASES[name])
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or (a.dtype, a.device) == (b.dtype, b.device)
        assert a is None or torch.equal(a, b)
