# SPDX-License-Identifier: Apache-2.0
"""SinkGD: descent along the gradient with rows and columns of equal length, with no state on matrices."""

import dataclasses
from typing import ClassVar, final

from torch import Tensor

from steepest.geometry.sinkhorn import sinkhorn, sinkhorn_part, sinkhorn_step_
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options
from steepest.optim.rule import Rule, State, Step, Works, check
from steepest.optim.sharding import Part


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class SinkGDRule(Rule):
    r"""The gradient after `steps` passes of row and column scaling, times $\alpha$.

    Args:
        steps: Passes, at least 1.
        alpha: Factor of the direction, above 0: with it the learning rate also suits AdamW on the other parameters.

    References:
        Scetbon et al. (2025), arXiv 2502.06742 (SR-Sinkhorn, 5 passes). $\alpha = 0.05$ is that of three independent
        implementations; the paper's table was not at hand.
    """

    works_on: ClassVar[Works] = "matrices"
    lr: ClassVar[float] = 0.02
    cost: ClassVar[str] = "steps sweeps"

    steps: int = 5
    alpha: float = 0.05

    def __post_init__(self) -> None:
        check("steps", self.steps, 1, 1000, closed="[]")
        check("alpha", self.alpha, 0, 1e6, closed="()")

    def init(self, like: Tensor) -> State:
        """Return nothing: the method keeps no state."""
        return {}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return the scaled gradient."""
        return sinkhorn(grad, steps=self.steps).mul_(self.alpha)

    def update_part(self, grad: Tensor, part: Part) -> Tensor:
        """Return the scaled part: sums along the cut are all that the processes tell each other."""
        scaled = sinkhorn_part(grad, (part.rows, part.columns), part.dim, part.total, part.largest, steps=self.steps)
        return scaled.mul_(self.alpha)

    def step_matrices_(self, params: Tensor, grads: Tensor, *, keep: float, step: float) -> bool:
        """Scale the gradient and add it to the parameters in the last sweep over it; no direction is stored."""
        sinkhorn_step_(params, grads, alpha=-step * self.alpha, beta=keep, steps=self.steps)
        return True


@final
class SinkGD(Engine):
    r"""Descent along the gradient with rows and columns of equal length, by Sinkhorn scaling.

    $W \leftarrow (1 - \eta\lambda) W - \eta \alpha X$, X from `sinkhorn`. No state on the matrices, no momentum.

    Args:
        params: A model (matrices and convolutions by this rule, the rest by AdamW), matrices, or groups.
        lr: Learning rate above 0.
        steps: Passes of row and column scaling.
        alpha: Factor of the direction.
        weight_decay: Decoupled.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a matrix.

    References:
        Scetbon et al. (2025), Gradient multi-normalization for stateless and scalable LLM training, arXiv 2502.06742.
    """

    def __init__(
        self,
        params: Params,
        lr: float = SinkGDRule.lr,
        *,
        steps: int = 5,
        alpha: float = 0.05,
        weight_decay: float = 0.0,
        options: Options | None = None,
    ) -> None:
        rule = SinkGDRule(steps=steps, alpha=alpha)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
