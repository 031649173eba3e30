# SPDX-License-Identifier: Apache-2.0
"""Dion: orthonormal updates of low rank by one step of power iteration on the momentum."""

import dataclasses
import math
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options
from steepest.optim.rule import Rule, State, Step, Works, check
from steepest.optim.scale import LrScale


def dion_direction_(
    momentum_buffer: Float[Tensor, "batch m n"], basis: Float[Tensor, "batch n r"], *, momentum: float
) -> Float[Tensor, "batch m n"]:
    r"""Change the momentum and the basis in place and return the direction.

    $P = \mathrm{qr}(M Q)$, $R = M^\top P$, $M \leftarrow M - (1 - \mu) P R^\top$, $Q \leftarrow R$ with columns of
    length one; the direction is $P Q^\top$.

    Args:
        momentum_buffer: $M$, the gradient already added.
        basis: $Q$.
        momentum: $\mu$ in [0, 1).

    Numerics:
        Where $M Q$ lacks rank, the columns of $P$ beyond it are arbitrary and those of $R$ rounding errors. Columns of
        $R$ below max(m, n) eps of the longest do not enter the direction and leave their column of $Q$ as it was; a
        published code divides by the length plus 1e-8 and steps along the noise.
    """
    left = torch.linalg.qr(momentum_buffer @ basis).Q
    right = momentum_buffer.mT @ left
    momentum_buffer.baddbmm_(left, right.mT, alpha=-(1 - momentum))
    largest = right.abs().amax((-2, -1), keepdim=True)
    right /= torch.where(largest > 0, largest, 1.0)
    size = torch.linalg.vector_norm(right, dim=-2, keepdim=True)
    cut_off = size.amax(-1, keepdim=True) * (max(momentum_buffer.shape[-2:]) * torch.finfo(size.dtype).eps)
    # Written so that NaN counts as alive and reaches the parameter.
    dead = size <= cut_off
    right /= torch.where(dead, 1.0, size)
    basis.copy_(torch.where(dead, basis, right))
    return left @ right.masked_fill_(dead, 0.0).mT


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class DionRule(Rule):
    r"""An orthonormal direction of low rank: $M \leftarrow M + G$, then `dion_direction_`.

    The error of the approximation stays in $M$. The first $Q$ is Gaussian, drawn from the seed of the step.

    Args:
        momentum: $\mu$ in [0, 1).
        rank_fraction: In (0, 1]; the rank is this share of the short side, rounded up.

    References:
        Ahn et al. (2025), Dion: distributed orthonormalized updates, arXiv 2504.05295.
    """

    works_on: ClassVar[Works] = "matrices"
    lr: ClassVar[float] = 0.01
    lr_scale: ClassVar[LrScale] = "spectral"
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer",)
    cost: ClassVar[str] = "four products of m x n by n x r, and a QR of m x r"

    momentum: float = 0.95
    rank_fraction: float = 1.0

    def __post_init__(self) -> None:
        check("momentum", self.momentum, 0, 1)
        check("rank_fraction", self.rank_fraction, 0, 1, closed="(]")

    def init(self, like: Tensor) -> State:
        """Return zero momentum and an empty basis, which the first step fills."""
        batch, m, n = like.shape
        rank = math.ceil(self.rank_fraction * min(m, n))
        return {"momentum_buffer": torch.zeros_like(like), "basis": like.new_zeros(batch, n, rank)}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        r"""Return $P Q^\top$."""
        basis = state["basis"]
        rank = math.ceil(self.rank_fraction * min(grad.shape[-2:]))
        if rank != basis.shape[-1]:
            raise ValueError(
                f"the rank cannot change during a run: the state has {basis.shape[-1]} columns, "
                f"rank_fraction={self.rank_fraction} wants {rank}"
            )
        if step.count == 1:
            shape, generator = basis.shape[1:], step.generator(basis.device)
            basis.copy_(torch.randn(shape, generator=generator, dtype=basis.dtype, device=basis.device))
        return dion_direction_(state["momentum_buffer"].add_(grad), basis, momentum=self.momentum)


@final
class Dion(Engine):
    r"""Orthonormal updates of low rank with error feedback.

    $W \leftarrow (1 - \eta\lambda) W - \eta \sqrt{m/n}\, P Q^\top$ with $P, Q$ from `dion_direction_`. At full rank
    and for a momentum that keeps its direction, $P Q^\top$ approaches the polar factor that Muon steps along.

    Args:
        params: A model (matrices and convolutions by this rule, the rest by AdamW), matrices, or groups.
        lr: Learning rate above 0 of the matrices.
        momentum: $\mu$ in [0, 1).
        rank_fraction: In (0, 1]; the rank as a share of the short side.
        weight_decay: $\lambda$, decoupled.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, a parameter is not a matrix, or the rank changes during a run.

    References:
        Ahn et al. (2025), arXiv 2504.05295; defaults of its code. Deviations: Householder QR in place of a randomized
        Cholesky QR (faster on a CPU, and safe where rank is lost), and the treatment of columns without content.
    """

    def __init__(
        self,
        params: Params,
        lr: float = DionRule.lr,
        *,
        momentum: float = 0.95,
        rank_fraction: float = 1.0,
        weight_decay: float = 0.01,
        options: Options | None = None,
    ) -> None:
        rule = DionRule(momentum=momentum, rank_fraction=rank_fraction)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
