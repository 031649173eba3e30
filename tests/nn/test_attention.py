import pytest
import torch
import torch.nn.functional as F

from steepest.nn.attention import causal_attention


def inputs(dtype, heads=4, kv_heads=2, time=37, size=16):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, time, size), (2, kv_heads, time, size), (2, kv_heads, time, size)]
    return [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in shapes]


def reference(query, key, value):
    """Output and gradients of the formula in float64, for fixed weights of the output's elements."""
    q, k, v = (t.detach().double().requires_grad_() for t in (query, key, value))
    out = out_of(q, k, v)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return out.detach(), weights, torch.autograd.grad((weights * out).sum(), (q, k, v))


def out_of(q, k, v):
    repeats = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(repeats, 1).mT / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1) @ v.repeat_interleave(repeats, 1)


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_error_against_float64_is_that_of_the_formula_in_the_same_dtype(dtype, heads, kv_heads):
    query, key, value = inputs(dtype, heads, kv_heads)
    exact, weights, gradients = reference(query, key, value)
    ours = causal_attention(query, key, value)
    assert ours.dtype == dtype
    our_gradients = torch.autograd.grad((weights.to(dtype) * ours).sum(), (query, key, value))
    plain = out_of(query, key, value)
    plain_gradients = torch.autograd.grad((weights.to(dtype) * plain).sum(), (query, key, value))
    for mine, theirs, true in zip((ours, *our_gradients), (plain, *plain_gradients), (exact, *gradients), strict=True):
        assert (mine.double() - true).norm() <= 2 * (theirs.double() - true).norm() + 1e-6 * true.norm()


def test_long_sequences_take_torchs_route():
    query, key, value = (t.detach() for t in inputs(torch.bfloat16, 1, 1, time=513))
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    assert torch.equal(causal_attention(query, key, value), expected)


def test_the_future_does_not_reach_back():
    query, key, value = (t.detach() for t in inputs(torch.bfloat16))
    before = causal_attention(query, key, value)
    key[:, :, 20:], value[:, :, 20:] = 9, -9
    after = causal_attention(query, key, value)
    assert torch.equal(before[:, :, :20], after[:, :, :20])
    assert not torch.equal(before[:, :, 20:], after[:, :, 20:])
