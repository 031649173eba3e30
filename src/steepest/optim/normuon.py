# SPDX-License-Identifier: Apache-2.0
"""NorMuon: Muon whose neurons (rows) are brought to a common size by a running second moment."""

import dataclasses
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.geometry.norm import Norm
from steepest.geometry.spectral import Spectral
from steepest.optim.engine import Engine, Params
from steepest.optim.momentum import average_gradient_
from steepest.optim.muon import Polar, default_polar
from steepest.optim.options import Options
from steepest.optim.rule import Directional, State, Step, check
from steepest.optim.scale import LrScale


def even_rows(
    polar: Float[Tensor, "batch m n"], row_moment: Float[Tensor, "batch m 1"], *, beta: float, eps: float
) -> Float[Tensor, "batch m n"]:
    r"""Update the second moments of the rows in place and return the matrices with rows divided by their roots.

    $v_i \leftarrow \beta v_i + (1 - \beta) \frac1n \sum_j O_{ij}^2$; the rows $O_i / (\sqrt{v_i} + \epsilon)$ are
    scaled together so that the length (Frobenius norm) of $O$ stays.

    Args:
        polar: $O$.
        row_moment: $v$, changed in place.
        beta: $\beta$ in [0, 1).
        eps: $\epsilon$, outside the root.
    """
    row_moment.lerp_(polar.square().mean(-1, keepdim=True), 1 - beta)
    even = polar / (row_moment.sqrt() + eps)
    before = torch.linalg.vector_norm(polar, dim=(-2, -1), keepdim=True)
    after = torch.linalg.vector_norm(even, dim=(-2, -1), keepdim=True)
    return even.mul_(before / torch.where(after == 0, 1.0, after))


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class NorMuonRule(Directional):
    r"""The polar factor of the averaged gradient with even rows, see `even_rows`.

    Args:
        momentum: $\mu$ in [0, 1).
        beta: Of the rows' second moment.
        eps: Outside the root.
        nesterov: Look one step ahead.
        polar: Polar factor of a batch of matrices.

    References:
        Li et al. (2025), NorMuon: making Muon more efficient and scalable, arXiv 2510.05491.
    """

    lr: ClassVar[float] = 0.02
    lr_scale: ClassVar[LrScale] = "original"
    cost: ClassVar[str] = "Muon's, and two sweeps"

    momentum: float = 0.95
    beta: float = 0.95
    eps: float = 1e-10
    nesterov: bool = True
    polar: Polar = dataclasses.field(default_factory=default_polar)

    def __post_init__(self) -> None:
        check("momentum", self.momentum, 0, 1)
        check("beta", self.beta, 0, 1)
        check("eps", self.eps, 0, 1, closed="()")

    def init_matrices(self, like: Tensor) -> State:
        """Return zero second moments of the rows."""
        return {"row_moment": like.new_zeros((*like.shape[:-1], 1))}

    def accumulate(self, grad: Tensor, state: State) -> Tensor:
        """Average the gradient."""
        return average_gradient_(grad, state["momentum_buffer"], momentum=self.momentum, nesterov=self.nesterov)

    def direct(self, target: Tensor, state: State, step: Step) -> Tensor:
        """Return the polar factor with even rows."""
        return even_rows(self.polar(target), state["row_moment"], beta=self.beta, eps=self.eps)

    def norm(self) -> Norm:
        """Return the spectral norm."""
        return Spectral()


@final
class NorMuon(Engine):
    r"""Muon with rows (neurons) of even size.

    $W \leftarrow (1 - \eta\lambda) W - \eta s\, \hat O$ with $\hat O$ from `even_rows` and $s = \sqrt{\max(1, m/n)}$.

    Args:
        params: A model (matrices and convolutions by this rule, the rest by AdamW), matrices, or groups.
        lr: Learning rate above 0 of the matrices.
        momentum: In [0, 1).
        beta: Of the rows' second moment, in [0, 1).
        nesterov: Look one step ahead.
        weight_decay: Decoupled.
        polar: Polar factor of a batch of matrices; None takes Muon's default.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a matrix.

    References:
        Li et al. (2025), arXiv 2510.05491; defaults of its code.
    """

    def __init__(
        self,
        params: Params,
        lr: float = NorMuonRule.lr,
        *,
        momentum: float = 0.95,
        beta: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        polar: Polar | None = None,
        options: Options | None = None,
    ) -> None:
        rule = NorMuonRule(momentum=momentum, beta=beta, nesterov=nesterov, polar=polar or default_polar())
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
