# SPDX-License-Identifier: Apache-2.0
"""Dion2: Muon on a share of the rows or columns of the momentum, those that are largest."""

import dataclasses
import math
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from steepest.geometry.subspace import select_top
from steepest.optim.engine import Engine, Params
from steepest.optim.low_rank import short_last
from steepest.optim.muon import Polar, default_polar
from steepest.optim.options import Options, one_of
from steepest.optim.rule import Rule, State, Step, Works, check
from steepest.optim.scale import LrScale


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Dion2Rule(Rule):
    r"""The polar factor of the largest rows or columns of the momentum.

    $M \leftarrow M + G$; $K$ the share of the columns of $M$ (of the rows, if it is wide) with the largest norm;
    $u_{:,K} = \mathrm{polar}(M_{:,K})$, zero elsewhere; $M_{:,K} \leftarrow \mu M_{:,K}$.

    Args:
        fraction: Share of the short side that steps, in (0, 1], rounded up.
        momentum: $\mu$ in [0, 1).
        order: Columns are compared by their l1 (1) or l2 (2) norm.
        polar: Polar factor of a batch of matrices.

    References:
        Ahn et al. (2025), Dion2: a simple method to shrink matrix in Muon, arXiv 2512.16928.
    """

    works_on: ClassVar[Works] = "matrices"
    lr: ClassVar[float] = 0.02
    lr_scale: ClassVar[LrScale] = "original"
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer",)
    cost: ClassVar[str] = "Muon's for a share of the short side"

    fraction: float = 0.25
    momentum: float = 0.95
    order: Literal[1, 2] = 1
    polar: Polar = dataclasses.field(default_factory=default_polar)

    def __post_init__(self) -> None:
        check("fraction", self.fraction, 0, 1, closed="(]")
        check("momentum", self.momentum, 0, 1)
        one_of("order", self.order, (1, 2))

    def init(self, like: Tensor) -> State:
        """Return zero momentum."""
        return {"momentum_buffer": torch.zeros_like(like)}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $u$."""
        momentum = short_last(state["momentum_buffer"].add_(grad))
        indices = select_top(momentum, math.ceil(self.fraction * momentum.shape[-1]), order=self.order)
        places = indices.unsqueeze(-2).expand(*momentum.shape[:-1], indices.shape[-1])
        part = momentum.gather(-1, places)
        momentum.scatter_(-1, places, part * self.momentum)
        direction = torch.zeros_like(grad)
        short_last(direction).scatter_(-1, places, self.polar(part))
        return direction


@final
class Dion2(Engine):
    r"""Muon on those rows or columns of the momentum that are largest.

    $W \leftarrow (1 - \eta\lambda) W - \eta s u$ with $u$ from `Dion2Rule` and $s = \sqrt{\max(1, m/n)}$. At
    `fraction=1` this is Muon with the momentum $M \leftarrow \mu M + G$ and no look-ahead.

    Args:
        params: A model (matrices and convolutions by this rule, the rest by AdamW), matrices, or groups.
        lr: Learning rate above 0 of the matrices.
        fraction: Share of the short side that steps, in (0, 1].
        momentum: $\mu$ in [0, 1).
        order: Norm by which columns are chosen, 1 or 2.
        weight_decay: $\lambda$, decoupled.
        polar: Polar factor of a batch of matrices; None takes Muon's five Newton-Schulz steps in bfloat16.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a matrix.

    References:
        Ahn et al. (2025), arXiv 2512.16928.
    """

    def __init__(
        self,
        params: Params,
        lr: float = Dion2Rule.lr,
        *,
        fraction: float = 0.25,
        momentum: float = 0.95,
        order: Literal[1, 2] = 1,
        weight_decay: float = 0.01,
        polar: Polar | None = None,
        options: Options | None = None,
    ) -> None:
        rule = Dion2Rule(fraction=fraction, momentum=momentum, order=order, polar=polar or default_polar())
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
