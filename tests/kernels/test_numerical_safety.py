# SPDX-License-Identifier: Apache-2.0
"""Elementwise and row functions on numbers, shapes and strides that nobody chose by hand, beside torch in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest import functional as SF


def tail(value):
    """A function whose limit at minus infinity is zero, where torch's formula in float64 says NaN."""
    return lambda x: torch.where(x == -torch.inf, -0.0, value(x))


#: Ours, and what it should be, on float64. Torch's own GELU and `ndtr` lose their tails in float64 too.
ENTRYWISE = {
    "erf": torch.erf,
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "gelu": tail(lambda x: x * torch.erfc(-x / 2**0.5) / 2),
    "log": torch.log,
    "log1p": torch.log1p,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "silu": tail(F.silu),
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "tanh": torch.tanh,
}
ROWS = {
    "log_softmax": lambda x: torch.log_softmax(x, -1),
    "logsumexp": lambda x: torch.logsumexp(x, -1),
    "softmax": lambda x: torch.softmax(x, -1),
}
NORMS = {
    "l2_normalize": lambda x: x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:], eps=1e-5),
    "rms_norm": lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-6),
}
OURS = {
    "log_softmax": lambda x: SF.log_softmax(x, -1),
    "logsumexp": lambda x: SF.logsumexp(x, -1),
    "softmax": lambda x: SF.softmax(x, -1),
    "layer_norm": lambda x: SF.layer_norm(x, eps=1e-5),
    "rms_norm": lambda x: SF.rms_norm(x, eps=1e-6),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SPECIAL = (0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-40, 3e38, -1.0, 1.0)


@st.composite
def arrays(draw, special: bool = True):
    """Any dtype, shape, memory order and size of numbers, some of them special."""
    rows, columns = draw(st.integers(1, 9)), draw(st.integers(1, 70))
    dtype = draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = 10.0 ** draw(st.floats(-30, 30 if dtype != torch.float16 else 3))
    x = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * scale
    if special:
        for value in draw(st.lists(st.sampled_from(SPECIAL), max_size=3)):
            x[draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))] = value
    x = x.to(dtype)
    order = draw(st.sampled_from(("contiguous", "transposed", "every second", "reversed rows", "expanded")))
    if order == "transposed":
        return x.t().contiguous().t()
    if order == "every second":
        wide = torch.full((rows, 2 * columns), float("nan"), dtype=dtype)
        wide[:, ::2] = x
        return wide[:, ::2]
    if order == "reversed rows":
        return x.flip(0)[torch.arange(rows - 1, -1, -1)]
    return x[:1].expand(rows, columns) if order == "expanded" else x


def check(name: str, x: torch.Tensor, theirs, *, slack: float) -> None:
    before = x.clone()
    y = OURS.get(name, getattr(SF, name))(x)
    expected = theirs(x.double())
    assert y.dtype == x.dtype
    assert torch.equal(x.nan_to_num(7.0), before.nan_to_num(7.0))
    assert torch.equal(y.isnan(), expected.isnan()), (name, x, y, expected)
    limits = torch.finfo(x.dtype)
    # What the dtype cannot hold is an infinity or the smallest number; a rounding on the edge may be either.
    near = torch.where(expected.abs() >= limits.max * (1 - 2 * limits.eps), torch.nan, expected)
    inside = ~near.isnan()
    difference = (y.double() - expected).abs()[inside]
    bound = slack * limits.eps * expected.abs()[inside] + 5 * limits.tiny * limits.eps
    finite = expected[inside].isfinite()
    assert (difference[finite] <= bound[finite]).all(), (name, x, y, expected)


@pytest.mark.parametrize("name", ENTRYWISE)
@given(x=arrays())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_entry_by_entry(name, x):
    check(name, x, ENTRYWISE[name], slack=4)


@pytest.mark.parametrize("name", ROWS)
@given(x=arrays())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_rows(name, x):
    # Differences of large numbers: the error of a logarithm is that of its largest argument.
    y, expected = OURS[name](x), ROWS[name](x.double())
    assert torch.equal(y.isnan(), expected.isnan()), (name, x, y)
    eps = torch.finfo(x.dtype).eps
    size = x.double().nan_to_num(0, 0, 0).abs().amax()
    finite = expected.isfinite() & (expected.abs() < torch.finfo(x.dtype).max / 2)
    bound = eps * 8 * (expected.abs() + (size + 5 if name != "softmax" else 1.0))
    assert ((y.double() - expected).abs()[finite] <= bound[finite]).all(), (name, x, y, expected)


@pytest.mark.parametrize("name", NORMS)
@given(x=arrays(special=False))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_norms(name, x):
    """Finite where float64 is, and near it, from 1e-30 to 1e30: squares neither overflow nor vanish."""
    y, expected = OURS.get(name, getattr(SF, name))(x), NORMS[name](x.double())
    assert y.isfinite().all(), (name, x, y)
    bound = 40 * torch.finfo(x.dtype).eps
    torch.testing.assert_close(y.double(), expected, rtol=bound, atol=bound)
