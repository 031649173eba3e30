# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy of (N, C) logits in two ways: plain torch, differentiable to any order, and the kernels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from steepest.kernels import _cross_entropy as rows
from steepest.kernels._memory import empty_rows
from steepest.kernels._pool import spread

#: Of a class, and of a row beside its classes: logarithm, division, what is kept.
_FORWARD_NS, _BACKWARD_NS, _ROW_NS = 0.25, 0.35, 25


@dataclass(frozen=True)
class Terms:
    """What the loss is made of, beside tensors: see `cross_entropy`. A softcap of 0 means none."""

    ignore_index: int = -100
    reduction: int = rows.MEAN
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float = 0.0


def plain_rows(x: Tensor, target: Tensor, weight: Tensor | None, terms: Terms) -> tuple[Tensor, Tensor]:
    """Return (row losses, row weights) of (N, C) logits by torch, differentiable to any order.

    Args:
        x: Logits, (N, C); 16-bit ones are computed in float32.
        target: (N,) int64, or (N, C) probabilities.
        weight: (C,) or None.
        terms: The rest.

    Returns:
        Two (N,) tensors.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        x = x.float()
    hard = not target.is_floating_point()
    valid = (target != terms.ignore_index) if hard else None
    if valid is not None:
        x = torch.where(valid.unsqueeze(-1), x, 0)
    if terms.softcap:
        x = terms.softcap * torch.tanh(x / terms.softcap)
    surprise = -torch.log_softmax(x, -1)
    scale = torch.ones_like(surprise) if weight is None else weight.to(x.dtype).expand_as(surprise)
    smoothing = terms.label_smoothing
    if valid is not None:
        index = torch.where(valid, target, 0).unsqueeze(-1)
        row_weight = scale.gather(-1, index).squeeze(-1)
        loss = (1 - smoothing) * row_weight * surprise.gather(-1, index).squeeze(-1)
        if smoothing:
            loss = loss + (smoothing / x.shape[-1]) * _sum_of_products(scale, surprise)
    else:
        row_weight = torch.ones_like(surprise[..., 0])
        mixed = scale * ((1 - smoothing) * target.to(x.dtype) + smoothing / x.shape[-1])
        loss = _sum_of_products(mixed, surprise)
    if terms.z_loss:
        loss = loss + terms.z_loss * row_weight * torch.logsumexp(x, -1) ** 2
    if valid is not None:
        loss, row_weight = torch.where(valid, loss, 0), torch.where(valid, row_weight, 0)
    return loss, row_weight


def _sum_of_products(factor: Tensor, surprise: Tensor) -> Tensor:
    return (factor * torch.where(factor == 0, 0, surprise)).sum(-1)


def plain(x: Tensor, target: Tensor, weight: Tensor | None, terms: Terms) -> Tensor:
    """Return the reduced loss by torch.

    Args:
        x: As for `plain_rows`.
        target: As for `plain_rows`.
        weight: As for `plain_rows`.
        terms: As for `plain_rows`.

    Returns:
        Scalar, or (N,) for reduction "none".
    """
    loss, row_weight = plain_rows(x, target, weight, terms)
    if terms.reduction == rows.NONE:
        return loss
    return loss.sum() / row_weight.sum() if terms.reduction == rows.MEAN else loss.sum()


def plain_gradient(grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, terms: Terms) -> Tensor:
    """Return the gradient to the logits by torch, differentiable in grad and x.

    Args:
        grad: Gradient to the loss.
        x: As for `plain_rows`.
        target: As for `plain_rows`.
        weight: As for `plain_rows`.
        terms: As for `plain_rows`.

    Returns:
        A tensor like x.
    """
    return torch.func.vjp(lambda logits: plain(logits, target, weight, terms), x)[1](grad)[0]


class Operands:
    """The tensors of one call as the kernels want them: unit stride over classes, float32 class vectors."""

    def __init__(self, x: Tensor, target: Tensor, weight: Tensor | None, terms: Terms) -> None:
        self.x = x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()
        self.target, self.terms, self.hard = target.contiguous(), terms, not target.is_floating_point()
        self.weight = None if weight is None else weight.detach().to(torch.float32).contiguous()
        self.vector = self._vector()
        self.step = 0 if self.vector is None or self.hard else self.vector.stride(0)
        self.forward, self.backward = rows.KERNELS[x.dtype, self.vector is not None, bool(terms.softcap)]

    def _vector(self) -> Tensor | None:
        smoothing, classes = self.terms.label_smoothing, self.x.shape[1]
        if self.hard:
            if not smoothing:
                return None
            return torch.ones(classes, dtype=torch.float32, device="cpu") if self.weight is None else self.weight
        mixed = self.target.detach().to(torch.float32)
        if smoothing:
            mixed = mixed * (1 - smoothing) + smoothing / classes
        return mixed if self.weight is None else mixed * self.weight

    def pointers(self) -> tuple[int, ...]:
        """Return addresses and strides of logits, targets, weights and vector, in the kernels' order."""
        u = 0 if self.vector is None else self.vector.data_ptr()
        return (
            self.x.data_ptr(),
            self.x.stride(0),
            self.target.data_ptr() if self.hard else 0,
            self.weight.data_ptr() if self.weight is not None and self.hard else 0,
            u,
            self.step,
        )

    def shape(self) -> tuple[int, int, int, int]:
        """Return rows, classes, the index that does not count, and whether the mean is taken."""
        n, classes = self.x.shape
        return n, classes, self.terms.ignore_index, int(self.terms.reduction == rows.MEAN)

    def numbers(self) -> tuple[float, float, float]:
        """Return the softcap, the label smoothing and the z-loss's factor."""
        return self.terms.softcap, self.terms.label_smoothing, self.terms.z_loss


def _refuse_invalid(invalid: int, target: Tensor, classes: int, terms: Terms) -> None:
    if invalid:
        got = target[invalid - 1].item()
        raise ValueError(
            f"cross_entropy expects targets from 0 to {classes - 1} or ignore_index={terms.ignore_index}, got {got} in "
            f"row {invalid - 1}; map it to ignore_index or give the logits more classes"
        )


def run_small(x: Tensor, target: Tensor, terms: Terms, gradient: Tensor | None = None) -> Tensor:
    """Return the loss of a few contiguous float32 rows with class indices and nothing else, with the least overhead.

    Args:
        x: (N, C), float32, contiguous, not empty.
        target: (N,) int64, contiguous.
        terms: Only `ignore_index` and `reduction` are used.
        gradient: Like x; takes the gradient to x for a gradient of 1 to (every row of) the loss.

    Returns:
        The loss.

    Raises:
        ValueError: If a target is out of range.
    """
    n, classes = x.shape
    reduction = terms.reduction
    loss = torch.empty(n if reduction == rows.NONE else (), dtype=torch.float32, device="cpu")
    operands = (x.data_ptr(), classes, target.data_ptr(), 0, 0, 0)
    results = (loss.data_ptr(), 0 if gradient is None else gradient.data_ptr())
    invalid = rows.SMALL.run(operands, results, (n, classes, terms.ignore_index, reduction == rows.MEAN), reduction)
    if invalid:
        _refuse_invalid(invalid, target, classes, terms)
    return loss


def run(x: Tensor, target: Tensor, weight: Tensor | None, terms: Terms) -> tuple[Tensor, Tensor]:
    """Return (loss, state) by the kernels, without autograd.

    Args:
        x: (N, C) logits of a dtype with kernels.
        target: (N,) int64 or (N, C) floating.
        weight: (C,) or None.
        terms: The rest.

    Returns:
        The float32 loss and what the gradient needs: float64, seven numbers a row.

    Raises:
        ValueError: If a target is out of range.
    """
    n, classes = x.shape
    state = torch.zeros((n + 1) * rows.COLUMNS, dtype=torch.float64, device="cpu")
    loss = torch.empty(n if terms.reduction == rows.NONE else (), dtype=torch.float32, device="cpu")
    o = Operands(x, target, weight, terms)
    cost = classes * _FORWARD_NS + _ROW_NS
    spread(o.forward.run, n, cost, o.pointers(), state.data_ptr(), o.shape(), o.numbers())
    invalid = rows.cross_entropy_reduce.run(state.data_ptr(), loss.data_ptr(), n, terms.reduction)
    _refuse_invalid(invalid, target, classes, terms)
    return loss, state


def run_gradient(
    grad: Tensor,
    x: Tensor,
    target: Tensor,
    weight: Tensor | None,
    state: Tensor,
    terms: Terms,
    *,
    inplace: bool = False,
) -> Tensor:
    """Return the gradient to the logits by the kernels, without autograd.

    Args:
        grad: Gradient to the loss, float32.
        x: As for `run`.
        target: As for `run`.
        weight: As for `run`.
        state: From `run`.
        terms: As for `run`.
        inplace: Write it over x, if classes have unit stride there, and return x.

    Returns:
        A tensor like x.
    """
    n, classes = x.shape
    o = Operands(x, target, weight, terms)
    inplace = inplace and o.x is x
    out = x if inplace else empty_rows(o.x)
    grad = grad if grad.dtype == torch.float32 else grad.to(torch.float32)
    step = grad.stride(0) if grad.ndim else 0
    upstream, results = (grad.data_ptr(), step), (state.data_ptr(), out.data_ptr())
    cost = classes * _BACKWARD_NS + _ROW_NS
    spread(o.backward.run, n, cost, upstream, o.pointers(), results, o.shape(), o.numbers())
    if inplace:
        torch.autograd.graph.increment_version(x)
    return out
