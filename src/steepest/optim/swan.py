# SPDX-License-Identifier: Apache-2.0
"""SWAN: descent along the gradient with normalized rows, whitened; no state on matrices."""

import dataclasses
import math
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.geometry.polar import polar_factor
from steepest.geometry.whitening import whiten
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options, one_of
from steepest.optim.rule import Rule, State, Step, Works, check


def normalize_rows(x: Float[Tensor, "batch m n"], *, center: bool) -> Float[Tensor, "batch m n"]:
    r"""Return rows of root mean square one, after taking off their mean if `center`; zero rows stay zero."""
    if center:
        x = x - x.mean(-1, keepdim=True)
    peak = x.abs().amax(-1, keepdim=True)
    x = x / torch.where(peak == 0, 1.0, peak)
    size = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * (math.sqrt(x.shape[-1]) / torch.where(size == 0, 1.0, size))


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class SwanRule(Rule):
    r"""Rows normalized, then whitened: $u = \alpha \sqrt{mn / r}\, (\tilde G \tilde G^\top)^{-1/2} \tilde G$.

    With $r = \min(m, n)$ the direction of a full-rank gradient has root mean square $\alpha$.

    Args:
        whitening: `"exact"`: the polar factor, to which the iteration converges. `"iteration"`: ten coupled
            Newton-Schulz steps with $b = 1/2$, as the method was published; small singular values stay small.
        center: Take off the mean of each row first.
        alpha: Factor of the direction, above 0.

    References:
        Ma et al. (2024), SWAN, arXiv 2412.13148. Deviation: the scale is that of a full-rank matrix instead of the
        length of the normalized gradient, which is the same number.
    """

    works_on: ClassVar[Works] = "matrices"
    lr: ClassVar[float] = 0.02
    cost: ClassVar[str] = "a polar factor"

    whitening: Literal["exact", "iteration"] = "exact"
    center: bool = False
    alpha: float = 0.05

    def __post_init__(self) -> None:
        one_of("whitening", self.whitening, ("exact", "iteration"))
        check("alpha", self.alpha, 0, math.inf, closed="()")

    def init(self, like: Tensor) -> State:
        """Return nothing: the method keeps no state."""
        return {}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return the direction."""
        rows = normalize_rows(grad, center=self.center)
        white = polar_factor(rows, method="svd") if self.whitening == "exact" else whiten(rows, steps=10).x
        m, n = grad.shape[-2:]
        return white * (self.alpha * math.sqrt(max(m, n)))


@final
class Swan(Engine):
    r"""SWAN: stateless descent along the whitened gradient with normalized rows.

    $W \leftarrow (1 - \eta\lambda) W - \eta u$, $u$ from `SwanRule`: one pass of the alternation of row normalization
    and whitening. No state on the matrices.

    Args:
        params: A model (matrices and convolutions by this rule, the rest by AdamW), matrices, or groups.
        lr: Learning rate above 0.
        whitening: `"exact"` or `"iteration"`.
        center: Take off the mean of each row first.
        alpha: Factor of the direction.
        weight_decay: Decoupled.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a matrix.

    References:
        Ma et al. (2024), SWAN: SGD with normalization and whitening enables stateless LLM training, arXiv 2412.13148.
    """

    def __init__(
        self,
        params: Params,
        lr: float = SwanRule.lr,
        *,
        whitening: Literal["exact", "iteration"] = "exact",
        center: bool = False,
        alpha: float = 0.05,
        weight_decay: float = 0.0,
        options: Options | None = None,
    ) -> None:
        rule = SwanRule(whitening=whitening, center=center, alpha=alpha)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
