# SPDX-License-Identifier: Apache-2.0
"""Causal attention in blocks of queries, each against the keys it can see, by the matrix multiplication library."""

from typing import Any

import torch
from torch import Tensor

from steepest.kernels.softmax import softmax_

#: Queries of one block: small enough that little of what it computes is masked, large enough for the products.
_BLOCK = 128


def blocked_causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    r"""Return $\mathrm{softmax}(s\, Q K^\top + M) V$ with the causal mask $M$, for a backward pass to come.

    Each block of queries is multiplied with the keys up to its end, so that about half of the scores are never made.
    Nothing quadratic in the length is kept: the backward pass computes each block's probabilities again.

    Args:
        query: Shape (batch, heads, time, size), float32 or bfloat16, on the CPU.
        key: Shape (batch, kv_heads, time, size); `kv_heads` divides `heads`.
        value: Like key.
        scale: $s$.

    Returns:
        Shape and dtype of query.

    Numerics:
        Scores and probabilities have the operands' dtype, as in Hugging Face's eager attention; the softmax itself is
        computed in float32. First derivatives only.

    Example:
        >>> q = torch.eye(2)[None, None]
        >>> blocked_causal_attention(q, q, q, 1.0)[0, 0]
        tensor([[1.0000, 0.0000],
                [0.2689, 0.7311]])

    References:
        Dao et al. (2022), FlashAttention, arXiv 2205.14135, appendix B. Deviation: whole rows of a block at a time,
        which fit a CPU's cache, so nothing is rescaled.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return _Blocked.apply(query, key, value, scale)  # pyright: ignore[reportReturnType] (torch leaves `apply` untyped)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        q, k, v = _flat(query * scale), _flat(key), _flat(value)
        out = torch.empty_like(q)
        for start, stop in _blocks(q.shape[1]):
            torch.bmm(_probabilities(q, k, start, stop), v[:, :stop], out=out[:, start:stop])
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return out.view(query.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v = ctx.saved_tensors
        shape, grad = grad.shape, _flat(grad)
        to_q, to_k, to_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for start, stop in reversed(_blocks(q.shape[1])):
            part, weights = grad[:, start:stop], _probabilities(q, k, start, stop)
            through = torch.bmm(part, v[:, :stop].transpose(1, 2))
            torch.ops.aten._softmax_backward_data.out(through, weights, -1, weights.dtype, grad_input=through)
            torch.bmm(through, k[:, :stop], out=to_q[:, start:stop])
            # The last block, which comes first, sees every key: it writes, the others add.
            last = int(stop != q.shape[1])
            to_v[:, :stop].baddbmm_(weights.transpose(1, 2), part, beta=last)
            to_k[:, :stop].baddbmm_(through.transpose(1, 2), q[:, start:stop], beta=last)
        return to_q.mul_(ctx.scale).view(shape), to_k.view(shape), to_v.view(shape), None


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[2:]).contiguous()


def _blocks(time: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, time)) for start in range(0, time, _BLOCK)]


def _probabilities(q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
    scores = torch.bmm(q[:, start:stop], k[:, :stop].transpose(1, 2))
    future = torch.ones(stop - start, stop - start, dtype=torch.bool).triu_(1)
    scores[:, :, start:].masked_fill_(future, -torch.inf)
    return softmax_(scores)
