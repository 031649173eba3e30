# SPDX-License-Identifier: Apache-2.0
"""Muon: steepest descent under the spectral norm, with momentum."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, final

import torch
from torch import Tensor

from steepest.geometry.norm import Norm
from steepest.geometry.polar_iteration import published_iteration
from steepest.geometry.polar_rates import fast_dtype
from steepest.geometry.spectral import Spectral
from steepest.optim.engine import Engine, Params
from steepest.optim.momentum import average_gradient_
from steepest.optim.options import Options
from steepest.optim.rule import Directional, State, Step, check
from steepest.optim.scale import LrScale

Polar = Callable[[Tensor], Tensor]


def default_polar() -> Polar:
    """Return five steps of the list `designed-5`, in bfloat16 where the processor multiplies it, else in float32.

    As many products as Muon's published list, and nearer to the polar factor on every recorded spectrum. The choice is
    made once, when an optimizer is made; a state saved with another one is refused, so that resuming on another
    processor cannot change the method: pass `polar` to keep it.
    """
    dtype = torch.bfloat16 if fast_dtype() == torch.bfloat16 else None
    return published_iteration("designed-5", dtype=dtype)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class MuonRule(Directional):
    r"""The polar factor of the averaged gradient: $u = \mathrm{polar}(\mu B + (1 - \mu) G)$.

    Args:
        momentum: $\mu$ in [0, 1).
        nesterov: Look one step ahead.
        polar: Polar factor of a batch of matrices.

    References:
        Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks.
    """

    lr: ClassVar[float] = 0.02
    lr_scale: ClassVar[LrScale] = "original"
    cost: ClassVar[str] = "15 products of m x m by m x n"

    momentum: float = 0.95
    nesterov: bool = True
    polar: Polar = dataclasses.field(default_factory=default_polar)

    def __post_init__(self) -> None:
        check("momentum", self.momentum, 0, 1)

    def accumulate(self, grad: Tensor, state: State) -> Tensor:
        """Average the gradient."""
        return average_gradient_(grad, state["momentum_buffer"], momentum=self.momentum, nesterov=self.nesterov)

    def direct(self, target: Tensor, state: State, step: Step) -> Tensor:
        """Return the polar factor."""
        return self.polar(target)

    def norm(self) -> Norm:
        """Return the spectral norm."""
        return Spectral()


@final
class Muon(Engine):
    r"""Steepest descent under the spectral norm with momentum, for the matrices of a network.

    $W \leftarrow (1 - \eta \lambda) W - \eta s\, \mathrm{polar}(\mu B + (1 - \mu) G)$ with
    $s = \sqrt{\max(1, m/n)}$ (Jordan), $0.2\sqrt{\max(m, n)}$ (`Options(lr_scale="match_rms")`, Moonlight).

    Args:
        params: A model: its matrices and convolutions are stepped by Muon, the rest by AdamW. Or matrices, or groups.
        lr: Learning rate above 0 of the matrices.
        momentum: $\mu$ in [0, 1).
        nesterov: Look one step ahead.
        weight_decay: $\lambda$, decoupled, times the learning rate.
        polar: Polar factor of a batch of matrices; None takes five designed steps (`default_polar`).
            `published_iteration("muon", dtype=torch.bfloat16)` is the one of the publication.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a real floating-point matrix.

    References:
        Jordan et al. (2024), Muon. Liu et al. (2025), Muon is scalable for LLM training, arXiv 2502.16982.
    """

    def __init__(
        self,
        params: Params,
        lr: float = MuonRule.lr,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        polar: Polar | None = None,
        options: Options | None = None,
    ) -> None:
        rule = MuonRule(momentum=momentum, nesterov=nesterov, polar=polar or default_polar())
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
