# SPDX-License-Identifier: Apache-2.0
"""Multi-normalized descent: the gradient normalized under several norms in turn, with no state at all."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, final

from torch import Tensor

from steepest.geometry.multinorm import alternate
from steepest.geometry.norm import Norm
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options
from steepest.optim.rule import Rule, State, Step, Works, check


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiNormalizedRule(Rule):
    """The gradient after `steps` passes of normalization under each norm.

    Args:
        norms: At least one, of matrices.
        steps: Passes, at least 1.

    References:
        Scetbon et al. (2025), arXiv 2502.06742.
    """

    works_on: ClassVar[Works] = "matrices"
    lr: ClassVar[float] = 1e-3
    cost: ClassVar[str] = "steps times the norms' lmo"

    norms: tuple[Norm, ...]
    steps: int = 5

    def __post_init__(self) -> None:
        check("steps", self.steps, 1, 1000, closed="[]")
        if not self.norms or any(norm.element_dims != 2 for norm in self.norms):
            raise ValueError(f"norms: expected at least one norm, all of matrices, got {self.norms}")

    def init(self, like: Tensor) -> State:
        """Return nothing: the method keeps no state."""
        return {}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return the normalized gradient."""
        return alternate(self.norms, grad, self.steps).x


@final
class MultiNormalized(Engine):
    r"""Descent along the gradient normalized under several norms in turn, towards a common fixed point.

    $W \leftarrow (1 - \eta\lambda) W - \eta X$, $X = (P_K \cdots P_1)^L(G)$ with $P_k(x) = -\mathrm{lmo}_k(x)$.
    No state on the matrices.

    Args:
        params: A model (matrices and convolutions by this rule, the rest by AdamW), matrices, or groups.
        norms: In their order; `[RowNorm(rms=True), ColumnNorm(rms=True)]` is SinkGD.
        lr: Learning rate above 0.
        steps: Passes L.
        weight_decay: Decoupled.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, there are no norms, or one is not of matrices.

    References:
        Scetbon et al. (2025), Gradient multi-normalization for stateless and scalable LLM training, arXiv 2502.06742.
    """

    def __init__(
        self,
        params: Params,
        norms: Sequence[Norm],
        lr: float = MultiNormalizedRule.lr,
        *,
        steps: int = 5,
        weight_decay: float = 0.0,
        options: Options | None = None,
    ) -> None:
        rule = MultiNormalizedRule(norms=tuple(norms), steps=steps)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
