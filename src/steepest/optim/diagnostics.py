# SPDX-License-Identifier: Apache-2.0
"""What a step did to each parameter: sizes, ratios, spectra."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from steepest.geometry.norm import Norm
from steepest.optim.engine import Engine
from steepest.optim.sharding import whole
from steepest.optim.stepping import Member, work_dtype

#: Matrices with a longer short side have no spectra taken, for they cost its cube.
LARGEST_SPECTRUM = 4096


@final
@dataclass(frozen=True)
class ParameterStep:
    r"""What one step did to one parameter (to one block of a fused projection).

    Args:
        name: Of the parameter.
        dual_norm: Of the gradient, under the rule's norm; its length where the rule has none.
        gradient_rms: Root mean square of the gradient.
        update_rms: Root mean square of what the step subtracted, without decay.
        update_to_weight: Length of that over the length of the weight.
        spectral_norm: Largest singular value of the weight after the step; NaN for what is no matrix.
        effective_rank: Of the gradient, $\exp(-\sum p_i \log p_i)$ with $p_i = \sigma_i^2 / \sum \sigma^2$.
        update_effective_rank: The same of the direction.
        polar_error: Root mean square of $\sigma_i - 1$ over the singular values of the direction; NaN unless the rule
            steps under the spectral norm.
    """

    name: str
    dual_norm: float
    gradient_rms: float
    update_rms: float
    update_to_weight: float
    spectral_norm: float
    effective_rank: float
    update_effective_rank: float
    polar_error: float


@contextmanager
def diagnosed(optimizer: Engine) -> Iterator[list[ParameterStep]]:
    """Record what the steps within do to each parameter.

    Costs about a singular value decomposition of each matrix, so take it for a step now and then.

    Args:
        optimizer: Of this library.

    Yields:
        A list that the steps fill.

    Example:
        >>> from torch import nn
        >>> from steepest.optim import AdamW
        >>> model = nn.Linear(4, 2, bias=False)
        >>> optimizer = AdamW(model, lr=0.1)
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> with diagnosed(optimizer) as rows:
        ...     optimizer.step()
        >>> rows[0].name, round(rows[0].update_rms, 3), round(rows[0].effective_rank, 3)
        ('weight', 0.1, 1.0)
    """
    rows: list[ParameterStep] = []
    names = [
        name
        for group in optimizer.param_groups
        for name in group.get("param_names") or [f"parameter {i}" for i in range(len(group["params"]))]
    ]

    def observe(member: Member, grad: Tensor, direction: Tensor, factor: float, norm: Norm | None) -> None:
        rows.append(_measure(names[member.number], member, grad, direction, factor, norm))

    with optimizer.observed(observe):
        yield rows


def _measure(
    name: str, member: Member, grad: Tensor, direction: Tensor, factor: float, norm: Norm | None
) -> ParameterStep:
    weight = whole(member.param.detach()).to(work_dtype(member.param.dtype))
    length = torch.linalg.vector_norm
    moved = factor * length(direction).item()
    spectral = norm is not None and "Spectral" in type(norm).__name__
    gradient_values, direction_values = _singular_values(grad), _singular_values(direction)
    return ParameterStep(
        name=name,
        dual_norm=norm.dual(grad).sum().item() if norm is not None else length(grad).item(),
        gradient_rms=length(grad).item() / math.sqrt(max(1, grad.numel())),
        update_rms=moved / math.sqrt(max(1, direction.numel())),
        update_to_weight=moved / max(length(weight).item(), torch.finfo(weight.dtype).tiny),
        spectral_norm=_largest(weight),
        effective_rank=_effective_rank(gradient_values),
        update_effective_rank=_effective_rank(direction_values),
        polar_error=(direction_values - 1).square().mean().sqrt().item()
        if spectral and direction_values.numel()
        else math.nan,
    )


def _singular_values(x: Tensor) -> Tensor:
    """All singular values of a batch of matrices; none of what is too large or not finite."""
    matrix = x if x.ndim > 1 else x.reshape(1, -1)
    matrix = matrix.flatten(1) if matrix.ndim == 4 else matrix
    if min(matrix.shape[-2:]) > LARGEST_SPECTRUM or not matrix.isfinite().all():
        return x.new_empty(0)
    return torch.linalg.svdvals(matrix)


def _largest(weight: Tensor) -> float:
    values = (
        _singular_values(weight.flatten(1) if weight.ndim > 2 else weight) if weight.ndim > 1 else weight.new_empty(0)
    )
    return values.max().item() if values.numel() else math.nan


def _effective_rank(values: Tensor) -> float:
    if not values.numel():
        return math.nan
    energy = values.double().square()
    total = energy.sum(-1, keepdim=True)
    share = energy / torch.where(total == 0, 1.0, total)
    entropy = -(share * torch.where(share > 0, share, 1.0).log()).sum(-1)
    return torch.where(total.squeeze(-1) > 0, entropy.exp(), 0.0).mean().item()
