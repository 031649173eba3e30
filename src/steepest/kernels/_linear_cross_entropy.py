# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy of a linear layer in chunks of rows: logits of one chunk exist at a time, and become its gradient."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from steepest.kernels import _cross_entropy as rows
from steepest.kernels._cross_entropy_rows import Terms, plain, plain_gradient, plain_rows, run, run_gradient
from steepest.kernels._memory import empty
from steepest.kernels._op import DTYPES

#: Bytes of logits held at a time, and the fewest rows a matrix product is worth making of. A product reads all of the
#: classifier for each chunk: of 32,000 classes and 512 features, 260 rows at a time run at 4/5 of the speed of 1,000.
#: Twice as much would hold all of 1,024 x 32,000 logits, which is what this function is there to avoid.
CHUNK_BYTES, FEWEST_ROWS = 64 << 20, 64
_TILE = 4096


@dataclass(frozen=True)
class Problem:
    """One call: hidden (N, H), weight (V, H), targets (N,), optional bias (V,) and class weights (V,).

    The products are made in `dtype`; gradients have the dtypes of their tensors.
    """

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    bias: Tensor | None
    class_weight: Tensor | None
    dtype: torch.dtype
    terms: Terms


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


def whole(p: Problem) -> Tensor:
    """Return the loss by way of all logits at once, differentiable to any order.

    Args:
        p: The problem.

    Returns:
        The loss.
    """
    bias = None if p.bias is None else p.bias.to(p.dtype)
    logits = F.linear(p.hidden.to(p.dtype), p.weight.to(p.dtype), bias)
    return plain(logits, p.targets, p.class_weight, p.terms)


def divisor(p: Problem) -> Tensor:
    """Return what the mean divides by: the class weights of the rows that count, float64.

    Args:
        p: The problem.

    Returns:
        A scalar.
    """
    valid = p.targets != p.terms.ignore_index
    if p.class_weight is None:
        return valid.sum().to(torch.float64)
    return torch.where(valid, p.class_weight[torch.where(valid, p.targets, 0)], 0).sum(dtype=torch.float64)


class Sweep:
    """One pass over the chunks: row losses, and gradients where asked for.

    Args:
        p: The problem.
        grad: Gradient to each row's loss, (N,) or a scalar; None for losses only.
        needs: Whether the gradients of hidden, weight and bias are wanted.

    Attributes:
        losses: Row losses, (N,).
        gradients: Those wanted; the weight's is summed in float32 or better.
    """

    def __init__(self, p: Problem, grad: Tensor | None, needs: tuple[bool, bool, bool]) -> None:
        needs = needs if grad is not None else (False, False, False)
        self.p, self.grad = p, grad
        self.terms = replace(p.terms, reduction=rows.NONE)
        wide = torch.promote_types(p.dtype, torch.float32)
        self.losses = p.hidden.new_zeros(p.hidden.shape[0], dtype=wide)
        self.weight = p.weight.detach().to(p.dtype)
        self.bias = None if p.bias is None else p.bias.detach().to(p.dtype)
        self.to_hidden = torch.zeros_like(p.hidden, memory_format=torch.contiguous_format) if needs[0] else None
        self.to_weight = self._new(p.weight.shape, wide) if needs[1] else None
        self.to_bias = torch.zeros(p.weight.shape[0], dtype=wide, device=p.weight.device) if needs[2] else None
        with torch.no_grad(), torch.autocast(p.hidden.device.type, enabled=False):
            self._walk()
        self.gradients = self._narrowed()

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self.p.hidden.is_cpu:
            return empty(shape, dtype)
        return torch.empty(shape, dtype=dtype, device=self.p.hidden.device)

    def _walk(self) -> None:
        p = self.p
        counted = (p.targets != p.terms.ignore_index).nonzero().squeeze(1)
        everything = counted.numel() == p.targets.numel()
        size = max(FEWEST_ROWS, CHUNK_BYTES // max(1, p.weight.shape[0] * p.dtype.itemsize))
        size = min(size, max(1, counted.numel()))
        buffer = self._new((size, p.weight.shape[0]), p.dtype)
        if self.to_weight is not None and not counted.numel():
            self.to_weight.zero_()
        for start in range(0, counted.numel(), size):
            stop = min(start + size, counted.numel())
            index = slice(start, stop) if everything else counted[start:stop]
            self._chunk(index, buffer[: stop - start], first=start == 0)

    def _chunk(self, index: slice | Tensor, logits: Tensor, *, first: bool) -> None:
        p = self.p
        hidden, targets = p.hidden.detach()[index].to(p.dtype), p.targets[index]
        if self.bias is None:
            torch.mm(hidden, self.weight.T, out=logits)
        else:
            torch.addmm(self.bias, hidden, self.weight.T, out=logits)
        grad = self.grad if self.grad is None or self.grad.ndim == 0 else self.grad[index]
        self.losses[index], d = self._loss(logits, targets, grad)
        if d is None:
            return
        if self.to_hidden is not None:
            self.to_hidden[index] = torch.mm(d, self.weight).to(self.to_hidden.dtype)
        if self.to_bias is not None:
            self.to_bias += d.sum(0, dtype=self.to_bias.dtype)
        self._add_to_weight(d, hidden, first)

    def _loss(self, logits: Tensor, targets: Tensor, grad: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return row losses and the gradient to the logits, by the kernels written over them."""
        class_weight, terms = self.p.class_weight, self.terms
        if logits.dtype not in DTYPES or logits.device.type != "cpu":
            if grad is None:
                return plain_rows(logits, targets, class_weight, terms)[0], None
            loss = plain_rows(logits, targets, class_weight, terms)[0]
            return loss, plain_gradient(grad.to(loss.dtype).expand(loss.shape), logits, targets, class_weight, terms)
        loss, state = run(logits, targets, class_weight, terms)
        if grad is None:
            return loss, None
        return loss, run_gradient(grad, logits, targets, class_weight, state, terms, inplace=True)

    def _add_to_weight(self, d: Tensor, hidden: Tensor, first: bool) -> None:
        """Add a chunk's share of the weight's gradient; the first one writes, so nothing was set to zero for it."""
        if self.to_weight is None:
            return
        if self.to_weight.dtype == d.dtype:
            torch.addmm(self.to_weight, d.T, hidden, beta=0 if first else 1, out=self.to_weight)
            return
        # 16-bit products are rounded once a chunk and summed in float32, tile by tile to need no (V, H) temporary.
        for start in range(0, d.shape[1], _TILE):
            part, product = self.to_weight[start : start + _TILE], torch.mm(d[:, start : start + _TILE].T, hidden)
            part.copy_(product) if first else part.add_(product)

    def _narrowed(self) -> Gradients:
        p, bias_dtype = self.p, torch.float32 if self.p.bias is None else self.p.bias.dtype
        return (
            self.to_hidden,
            None if self.to_weight is None else self.to_weight.to(p.weight.dtype),
            None if self.to_bias is None else self.to_bias.to(bias_dtype),
        )


def reduced(p: Problem, losses: Tensor, total: Tensor | None) -> Tensor:
    """Return the loss from the rows' losses.

    Args:
        p: The problem.
        losses: (N,).
        total: The divisor, for the mean.

    Returns:
        A scalar, or the losses themselves.
    """
    if p.terms.reduction == rows.NONE:
        return losses
    summed = losses.sum(dtype=torch.float64)
    return (summed if total is None else summed / total).to(losses.dtype)
