# SPDX-License-Identifier: Apache-2.0
"""Everything between a direction and the parameter: caution, learning rate, decay, the sphere."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Factors(NamedTuple):
    """Numbers of one step of a group.

    Args:
        step: Learning rate times the scale of the shape.
        keep: What decoupled decay multiplies the weights by.
        decay: Name of the way of decaying.
    """

    step: float
    keep: float
    decay: str


def keep_factor(group: dict[str, Any]) -> float:
    """Return what decay by itself multiplies the weights by, 1 where decay acts through the gradient."""
    if group["decay"] == "l2" or not group["weight_decay"] or group["hyperball"]:
        return 1.0
    if group["decay"] == "independent":
        return 1 - group["weight_decay"] * group["lr"] / group["base_lr"]
    return 1 - group["lr"] * group["weight_decay"]


def cautious(direction: Tensor, grad: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the direction without the entries that would climb, the rest scaled up by total / kept.

    Args:
        direction: To be subtracted.
        grad: Same shape.
        dims: What counts as one parameter.
    """
    # Signs, not the product: that of two small numbers is zero. NaN is kept, so that it shows.
    agrees = torch.where(direction.isnan(), 1, direction.sign() * grad.sign() > 0).to(direction.dtype)
    kept = agrees.sum(dims, keepdim=True)
    total = math.prod(direction.shape[d] for d in dims)
    return direction * agrees * (total / kept.clamp_min(1))


def subtract_(params: Sequence[Tensor], directions: Sequence[Tensor], factors: Factors) -> None:
    r"""Apply $W \leftarrow \text{keep} \cdot W - \text{step} \cdot u$ to each parameter, in place.

    Args:
        params: Views of the parameters.
        directions: $u$, in the same order, of the dtype of the arithmetic.
        factors: The numbers.
    """
    if factors.decay == "cautious" and factors.keep != 1:
        directions = [
            torch.where(u * p >= 0, u + p * ((1 - factors.keep) / factors.step), u)
            for p, u in zip(params, directions, strict=True)
        ]
    elif factors.keep != 1 and params[0].dtype == directions[0].dtype:
        torch._foreach_mul_(list(params), factors.keep)  # pyright: ignore[reportPrivateImportUsage]
    if params[0].dtype == directions[0].dtype:
        torch._foreach_add_(list(params), list(directions), alpha=-factors.step)  # pyright: ignore[reportPrivateImportUsage]
        return
    keep = 1.0 if factors.decay == "cautious" else factors.keep
    for p, u in zip(params, directions, strict=True):
        p.copy_(p.to(u.dtype).mul_(keep).add_(u, alpha=-factors.step))


def move_on_sphere_(param: Tensor, direction: Tensor, radius: Tensor, step: float, dims: tuple[int, ...]) -> None:
    r"""Apply $W \leftarrow R\, (W - \eta R\, u / \|u\|) / \|\cdot\|$ in place: the length stays R.

    A direction that is zero, or a step that ends in the origin, leaves the parameter where it is.

    Args:
        param: Changed; any shape.
        direction: $u$, same shape.
        radius: R of each element, to be broadcast with the parameter.
        step: $\eta$.
        dims: What counts as one element.
    """
    old = param.to(direction.dtype)
    size = length_of(direction, dims)
    moved = old - direction * (step * radius / torch.where(size == 0, 1.0, size))
    length = length_of(moved, dims)
    param.copy_(torch.where((length == 0) | (size == 0), old, moved * (radius / length)))


def length_of(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return the l2 norm along some dimensions, kept with size one; safe from overflow and underflow of squares."""
    if not dims:
        return x.abs()
    peak = torch.linalg.vector_norm(x, math.inf, dim=dims, keepdim=True)
    unit = torch.where((peak > 0) & peak.isfinite(), peak, 1.0)
    return torch.linalg.vector_norm(x / unit, dim=dims, keepdim=True) * unit
