# SPDX-License-Identifier: Apache-2.0
"""Blocked causal attention against the formula in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.kernels import products
from steepest.nn import attention_blocks
from steepest.nn.attention_blocks import blocked_causal_attention


def operands(time: int, heads: int = 4, kv_heads: int = 2, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(time)
    return [torch.randn(2, n, time, 8, generator=g).to(dtype) for n in (heads, kv_heads, kv_heads, heads)]


def exact(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    time, groups = query.shape[2], query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.mT * scale).masked_fill(torch.ones(time, time).triu(1).bool(), -torch.inf)
    return scores.softmax(-1) @ value


def by_torch(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale, enable_gqa=True)


def with_gradients(function, operands: list[Tensor], scale: float = 0.3) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in operands[:3]]
    out = function(*leaves, scale)
    return [out.detach(), *torch.autograd.grad(out, leaves, operands[3])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("longest_kept", [0, 512])
@pytest.mark.parametrize("time", [1, 2, 7, 16, 40])
def test_values_and_gradients_are_those_of_the_formula(time, longest_kept, dtype, monkeypatch):
    monkeypatch.setattr(attention_blocks, "_BLOCK", 16)  # 40 positions: two whole blocks and a half
    monkeypatch.setattr(attention_blocks, "_LONGEST_KEPT", longest_kept)
    given = operands(time, dtype=dtype)
    right = with_gradients(exact, [x.double() for x in given])
    usual = with_gradients(by_torch, given)
    for mine, other, truth in zip(with_gradients(blocked_causal_attention, given), usual, right, strict=True):
        assert mine.dtype == dtype
        assert mine.shape == other.shape
        # With one key the gradients of query and key are 0, as differences of numbers near 1.
        floor = torch.finfo(dtype).eps * truth.abs().max().clamp(min=1.0 if time == 1 else 1e-3)
        assert (mine - truth).abs().max() <= 2 * (other - truth).abs().max() + floor


def test_kept_and_recomputed_probabilities_give_the_same_bits(monkeypatch):
    given = operands(200)
    kept = with_gradients(blocked_causal_attention, given)
    monkeypatch.setattr(attention_blocks, "_LONGEST_KEPT", 100)
    assert all(torch.equal(a, b) for a, b in zip(kept, with_gradients(blocked_causal_attention, given), strict=True))


@pytest.mark.parametrize("own_products", [False, True])
def test_bfloat16_products_in_either_dtype(own_products, monkeypatch):
    monkeypatch.setitem(products.HAS_OWN, torch.bfloat16, own_products)
    given = operands(150, dtype=torch.bfloat16)
    right = with_gradients(exact, [x.double() for x in given])
    with torch.autocast("cpu", torch.bfloat16):
        found = with_gradients(blocked_causal_attention, given)
    for mine, truth in zip(found, right, strict=True):
        assert mine.dtype == torch.bfloat16
        assert (mine - truth).norm() <= (0.004 if not own_products else 0.02) * truth.norm()


def test_later_positions_are_not_seen():
    query, key, value, _ = operands(150)
    out = blocked_causal_attention(query, key, value, 0.3)
    key[:, :, 140:], value[:, :, 140:] = torch.nan, torch.nan
    assert torch.equal(blocked_causal_attention(query, key, value, 0.3)[:, :, :128], out[:, :, :128])


def test_a_transposed_layout_gives_the_same():
    given = operands(33)
    moved = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in given]
    pairs = zip(*(with_gradients(blocked_causal_attention, x) for x in (given, moved)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_is_kept_is_linear_in_the_length_beyond_the_limit(monkeypatch):
    monkeypatch.setattr(attention_blocks, "_LONGEST_KEPT", 64)

    def kept(time: int) -> int:
        sizes: list[int] = []
        leaves = [x.requires_grad_() for x in operands(time)[:3]]
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()), lambda x: x):
            blocked_causal_attention(*leaves, 0.3)
        return sum(sizes)

    assert kept(200) == 2 * kept(100)
    assert kept(64) == kept(128) // 2 + 2 * 4 * 64 * 64
