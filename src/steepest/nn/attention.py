# SPDX-License-Identifier: Apache-2.0
"""Causal attention, by the fastest exact route for the device, the dtype and the length."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from steepest.nn.kv_cache import KVCache

#: Longest sequence for which all scores are kept; beyond it their memory, quadratic in the length, outweighs the time.
_LONGEST_WITH_SCORES = 512


def causal_attention(
    query: Float[Tensor, "batch heads time size"],
    key: Float[Tensor, "batch kv_heads time size"],
    value: Float[Tensor, "batch kv_heads time size"],
) -> Float[Tensor, "batch heads time size"]:
    r"""Return $\mathrm{softmax}(Q K^\top / \sqrt{d} + M) V$ with the causal mask $M$.

    In bfloat16 on a CPU and up to 512 positions the products go through the matrix multiplication library and the
    scores are kept for backward; torch's blockwise attention takes twice as long there
    (`benchmarks/results/attention_*.json`). Everything else is torch's `scaled_dot_product_attention`.

    Args:
        query: Queries.
        key: Keys; `kv_heads` divides `heads`, and each key head serves as many query heads in a row.
        value: Values.

    Returns:
        Shape and dtype of `query`.

    Numerics:
        The bfloat16 route rounds scores and probabilities to bfloat16, as Hugging Face's eager attention does; the
        softmax itself is in float32.

    References:
        Vaswani et al. (2017), Attention is all you need, arXiv 1706.03762. Ainslie et al. (2023), GQA: training
        generalized multi-query transformer models from multi-head checkpoints, arXiv 2305.13245.
    """
    grouped = query.shape[1] != key.shape[1]
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or query.shape[2] > _LONGEST_WITH_SCORES:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
    if grouped:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    return _ScoredAttention.apply(query, key, value)[0]  # pyright: ignore[reportReturnType] (torch leaves `apply` untyped)


def packed_heads(
    x: Float[Tensor, "batch time width"], projections: Sequence[nn.Linear], size: int
) -> Float[Tensor, "batch time heads size"]:
    """Return the heads of several projections of x, one after the other, from one product.

    One product instead of three: at small widths the matrix multiplication is too small to fill the cores.

    Args:
        x: Inputs.
        projections: Linear layers without biases.
        size: Of a head.
    """
    packed = F.linear(x, torch.cat([projection.weight for projection in projections]))
    return packed.unflatten(-1, (-1, size))


def attend(
    query: Float[Tensor, "batch time heads size"],
    key: Float[Tensor, "batch time kv_heads size"],
    value: Float[Tensor, "batch time kv_heads size"],
    cache: KVCache | None,
    layer: int,
) -> Float[Tensor, "batch time width"]:
    """Attend causally, to the positions of a cache too.

    Args:
        query: Queries.
        key: Keys of the same positions.
        value: Their values.
        cache: Keys and values of earlier positions, extended by this call; None during training.
        layer: Which layer of the cache it is.

    Returns:
        What the heads mixed, side by side.
    """
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    fresh = cache is None or cache.length == 0
    if cache is not None:
        key, value = cache.append(layer, key, value)
    if fresh:
        mixed = causal_attention(query, key, value)
    else:
        mask = causal_mask(query.shape[2], key.shape[2], query.device)
        grouped = key.shape[1] != query.shape[1]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=grouped)
    return mixed.transpose(1, 2).flatten(2)


def causal_mask(queries: int, keys: int, device: torch.device) -> Bool[Tensor, "queries keys"]:
    """Return the mask for the last `queries` of `keys` positions: each sees itself and what came before.

    Args:
        queries: How many of the last positions ask.
        keys: How many positions there are.
        device: Where the mask is needed.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)


class _ScoredAttention(torch.autograd.Function):
    """Attention by three batched products each way, the probabilities kept in between."""

    generate_vmap_rule = True

    @staticmethod
    def forward(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        time = scores.shape[-1]
        future = torch.ones(time, time, dtype=torch.bool, device=scores.device).triu_(1)
        probabilities = torch.softmax(scores.masked_fill_(future, -torch.inf), dim=-1)
        return probabilities @ value, probabilities

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, probabilities = ctx.saved_tensors
        gradient = gradients[0]
        assert gradient is not None
        through = gradient @ value.transpose(-2, -1)
        scores = torch.ops.aten._softmax_backward_data(through, probabilities, -1, probabilities.dtype)
        scores = scores * query.shape[-1] ** -0.5
        return scores @ key, scores.transpose(-2, -1) @ query, probabilities.transpose(-2, -1) @ gradient
