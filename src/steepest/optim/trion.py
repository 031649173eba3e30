# SPDX-License-Identifier: Apache-2.0
"""Trion: Muon on the largest cosine coefficients of the momentum."""

import dataclasses
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from steepest.geometry.subspace import DCTSubspace
from steepest.optim.dct_adamw import check_count
from steepest.optim.engine import Engine, Params
from steepest.optim.low_rank import lift, short_last, take_off_
from steepest.optim.muon import Polar, default_polar
from steepest.optim.options import Options, one_of
from steepest.optim.rule import Rule, State, Step, Works, check
from steepest.optim.scale import LrScale


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrionRule(Rule):
    r"""The polar factor of the momentum's largest cosine coefficients, for matrices with n columns, the short side.

    With $Q$ the orthogonal matrix of cosines: $M \leftarrow M + G$; $I$ the `rank` columns of $M Q$ of largest norm;
    $B = Q_{:,I}$, $a = M B$; $M \leftarrow M - (1 - \mu)\, a B^\top$; $u = \mathrm{polar}(a) B^\top$. What the
    subspace leaves out stays in $M$ undiminished. A wide matrix is transposed first. At full rank this is Muon with
    the momentum $M \leftarrow \mu M + G$ and no look-ahead.

    Args:
        rank: Columns kept, at least 1; a matrix whose short side is smaller is stepped whole.
        momentum: $\mu$ in [0, 1).
        order: Columns are compared by their l1 (1) or l2 (2) norm.
        polar: Polar factor of a batch of matrices.

    References:
        Modoranu et al. (2025), arXiv 2505.17967.
    """

    works_on: ClassVar[Works] = "matrices"
    lr: ClassVar[float] = 0.02
    lr_scale: ClassVar[LrScale] = "original"
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer",)
    cost: ClassVar[str] = "a product of m x n by n x n, and Muon's for m x rank"

    rank: int = 128
    momentum: float = 0.95
    order: Literal[1, 2] = 1
    polar: Polar = dataclasses.field(default_factory=default_polar)

    def __post_init__(self) -> None:
        check_count("rank", self.rank)
        check("momentum", self.momentum, 0, 1)
        one_of("order", self.order, (1, 2))

    def init(self, like: Tensor) -> State:
        """Return zero momentum."""
        return {"momentum_buffer": torch.zeros_like(like)}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $u$."""
        momentum = state["momentum_buffer"].add_(grad)
        rank, wide = min(self.rank, *grad.shape[-2:]), grad.shape[-2] < grad.shape[-1]
        chosen = DCTSubspace(order=self.order).project(short_last(momentum), rank)
        take_off_(momentum, chosen.coefficients, chosen.basis, 1 - self.momentum)
        return lift(self.polar(chosen.coefficients), chosen.basis, wide=wide)


@final
class Trion(Engine):
    r"""Muon in the cosines on which the momentum is largest: polar factors of `rank` columns in place of n.

    $W \leftarrow (1 - \eta\lambda) W - \eta s u$ with $u$ from `TrionRule` and $s = \sqrt{\max(1, m/n)}$; the other
    scales are `Options(lr_scale="match_rms")`, `"spectral"` and `"none"`.

    Args:
        params: A model (matrices and convolutions by this rule, the rest by AdamW), matrices, or groups.
        lr: Learning rate above 0 of the matrices.
        rank: Columns kept; 128 is our choice, the others are the published defaults.
        momentum: $\mu$ in [0, 1).
        order: Norm by which columns are chosen, 1 or 2.
        weight_decay: $\lambda$, decoupled.
        polar: Polar factor of a batch of matrices; None takes Muon's five Newton-Schulz steps in bfloat16.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a matrix.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(64, 32, bias=False)
        >>> before = layer.weight.detach().clone()
        >>> optimizer = Trion([layer.weight], rank=4)
        >>> layer(torch.randn(8, 64)).square().sum().backward()
        >>> optimizer.step()
        >>> int(torch.linalg.matrix_rank(layer.weight.detach() - before, rtol=1e-3))
        4

    References:
        Modoranu et al. (2025), arXiv 2505.17967. Deviation: every shape is stepped, with a basis of its own size.
    """

    def __init__(
        self,
        params: Params,
        lr: float = TrionRule.lr,
        *,
        rank: int = 128,
        momentum: float = 0.95,
        order: Literal[1, 2] = 1,
        weight_decay: float = 0.0,
        polar: Polar | None = None,
        options: Options | None = None,
    ) -> None:
        rule = TrionRule(rank=rank, momentum=momentum, order=order, polar=polar or default_polar())
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
