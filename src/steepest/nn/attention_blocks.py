# SPDX-License-Identifier: Apache-2.0
"""Causal attention in blocks of queries, each against the keys it can see, by the matrix multiplication library."""

from typing import Any

import torch
from torch import Tensor

from steepest.kernels.products import compute_dtype
from steepest.kernels.softmax import softmax_

#: Queries of one block: small enough that little of what it computes is masked, large enough for the products.
_BLOCK = 128
#: Longest sequence whose probabilities are kept for the backward pass. Up to here they are a fifth of what else a layer
#: keeps, and computing them again would take a fifth of the attention's time.
_LONGEST_KEPT = 512


def blocked_causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    r"""Return $\mathrm{softmax}(s\, Q K^\top + M) V$ with the causal mask $M$, for a backward pass to come.

    Each block of queries is multiplied with the keys up to its end, so that about half of the scores are never made.
    Beyond 512 positions nothing quadratic in the length is kept: the backward pass computes each block's probabilities
    again.

    Args:
        query: Shape (batch, heads, time, size), float32 or bfloat16, on the CPU.
        key: Shape (batch, kv_heads, time, size); `kv_heads` divides `heads`.
        value: Like key.
        scale: $s$.

    Returns:
        Shape and dtype of query.

    Numerics:
        Scores and probabilities have the operands' dtype, as in Hugging Face's eager attention, or float32 where the
        processor has no products of 16-bit numbers; the softmax itself is computed in float32. First derivatives only.

    Example:
        >>> q = torch.eye(2)[None, None]
        >>> blocked_causal_attention(q, q, q, 1.0)[0, 0]
        tensor([[1.0000, 0.0000],
                [0.2689, 0.7311]])

    References:
        Dao et al. (2022), FlashAttention: fast and memory-efficient exact attention with IO-awareness, arXiv
        2205.14135, appendix B. Deviation: whole rows of a block at a time, which fit a CPU's cache, so nothing is
        rescaled.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return _Blocked.apply(query, key, value, scale)  # pyright: ignore[reportReturnType] (torch leaves `apply` untyped)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        narrow = _flat(query * scale), _flat(key), _flat(value)
        dtype = compute_dtype(query.dtype, query.device)
        q, k, v = (x.to(dtype) for x in narrow)
        out, kept = torch.empty_like(q), list[Tensor]()
        with torch.autocast("cpu", enabled=False):
            for start, stop in _blocks(q.shape[1]):
                weights = _probabilities(q, k, start, stop)
                torch.bmm(weights, v[:, :stop], out=out[:, start:stop])
                if q.shape[1] <= _LONGEST_KEPT:
                    kept.append(weights)
        ctx.save_for_backward(*narrow, *kept)
        ctx.scale = scale
        return out.to(query.dtype).view(query.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors  # asked for once: checkpointing allows no more
        kept = saved[3:]
        dtype = compute_dtype(grad.dtype, grad.device)
        q, k, v, out = (x.to(dtype) for x in (*saved[:3], _flat(grad)))
        to_q, to_k, to_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        with torch.autocast("cpu", enabled=False):
            for i, (start, stop) in reversed(list(enumerate(_blocks(q.shape[1])))):
                part, weights = out[:, start:stop], kept[i] if kept else _probabilities(q, k, start, stop)
                through = torch.bmm(part, v[:, :stop].transpose(1, 2))
                torch.ops.aten._softmax_backward_data.out(through, weights, -1, weights.dtype, grad_input=through)
                torch.bmm(through, k[:, :stop], out=to_q[:, start:stop])
                # The last block, which comes first, sees every key: it writes, the others add.
                last = int(stop != q.shape[1])
                to_v[:, :stop].baddbmm_(weights.transpose(1, 2), part, beta=last)
                to_k[:, :stop].baddbmm_(through.transpose(1, 2), q[:, start:stop], beta=last)
        return *(g.to(grad.dtype).view(grad.shape) for g in (to_q.mul_(ctx.scale), to_k, to_v)), None


def _flat(x: Tensor) -> Tensor:
    return x.reshape(-1, *x.shape[2:]).contiguous()


def _blocks(time: int) -> list[tuple[int, int]]:
    return [(start, min(start + _BLOCK, time)) for start in range(0, time, _BLOCK)]


def _probabilities(q: Tensor, k: Tensor, start: int, stop: int) -> Tensor:
    scores = torch.bmm(q[:, start:stop], k[:, :stop].transpose(1, 2))
    future = torch.ones(stop - start, stop - start, dtype=torch.bool, device=q.device).triu_(1)
    scores[:, :, start:].masked_fill_(future, -torch.inf)
    return softmax_(scores)
