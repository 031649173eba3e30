# SPDX-License-Identifier: Apache-2.0
"""Steepest descent under any norm."""

import dataclasses
import math
from typing import ClassVar, Literal, final

from torch import Tensor

from steepest.geometry.norm import Norm, steepest_direction
from steepest.optim.engine import Engine, Params
from steepest.optim.momentum import average_gradient_
from steepest.optim.options import Options, one_of
from steepest.optim.rule import Directional, State, Step, check


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class SteepestRule(Directional):
    r"""The direction of steepest descent for the averaged gradient, $u = -\mathrm{lmo}(\mu B + (1 - \mu) G)$.

    Args:
        norm: Measures the step of a matrix, or of a convolution's weight if it is a norm of convolutions.
        mode: `"lmo"`: a step of norm one. `"dual-scaled"`: times the dual norm, so that steps shrink with the gradient.
        momentum: $\mu$ in [0, 1).
        nesterov: Look one step ahead.

    References:
        Bernstein and Newhouse (2024), Old optimizer, new norm, arXiv 2409.20325.
    """

    lr: ClassVar[float] = 0.02
    cost: ClassVar[str] = "the norm's lmo: a polar factor for spectral"

    norm_of_step: Norm
    mode: Literal["lmo", "dual-scaled"] = "lmo"
    momentum: float = 0.95
    nesterov: bool = True

    def __post_init__(self) -> None:
        check("momentum", self.momentum, 0, 1)
        one_of("mode", self.mode, ("lmo", "dual-scaled"))

    def accumulate(self, grad: Tensor, state: State) -> Tensor:
        """Average the gradient."""
        return average_gradient_(grad, state["momentum_buffer"], momentum=self.momentum, nesterov=self.nesterov)

    def direct(self, target: Tensor, state: State, step: Step) -> Tensor:
        """Return the direction to subtract."""
        return direction_under(self.norm_of_step, target, step, self.mode)

    def norm(self) -> Norm | None:
        """Return the norm, unless it is one of convolutions."""
        return self.norm_of_step if self.norm_of_step.element_dims <= 2 else None


def direction_under(norm: Norm, target: Tensor, step: Step, mode: Literal["lmo", "dual-scaled"] = "lmo") -> Tensor:
    """Return minus the direction of steepest descent for matrices, or for convolutions that were flattened to them.

    Args:
        norm: Of matrices, vectors (each row) or convolutions.
        target: Shape `(b, m, n)`.
        step: Knows the taps of a convolution.
        mode: See `SteepestRule`.

    Raises:
        ValueError: If a norm of convolutions meets a parameter that is none.
    """
    dims = norm.element_dims
    if dims <= 2:
        return -steepest_direction(target, norm, mode)
    if len(step.taps) != dims - 2:
        raise ValueError(f"{norm} measures weights of {dims} dimensions; give it to groups of such convolutions alone")
    b, m, n = target.shape
    shaped = target.reshape(b, m, n // math.prod(step.taps), *step.taps)
    return -steepest_direction(shaped, norm, mode).reshape(b, m, n)


@final
class Steepest(Engine):
    r"""Steepest descent with momentum under the norm of your choice.

    $W \leftarrow (1 - \eta \lambda) W - \eta s\, u$ with $u = -\mathrm{lmo}(\mu B + (1 - \mu) G)$. The norm decides:
    `Frobenius()` is normalized SGD, `Sign()` sign descent, `Spectral()` Muon with an exact polar factor, `RMSToRMS()`
    the step that transfers over widths, `Schatten(p)` everything between.

    Args:
        params: A model (matrices and convolutions by this rule, the rest by AdamW), matrices, or groups.
        norm: Measures the step.
        lr: Learning rate above 0: the norm of a step.
        mode: `"lmo"` or `"dual-scaled"`, see `SteepestRule`.
        momentum: In [0, 1).
        nesterov: Look one step ahead.
        weight_decay: Decoupled.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range.

    References:
        Bernstein and Newhouse (2024), arXiv 2409.20325.
    """

    def __init__(
        self,
        params: Params,
        norm: Norm,
        lr: float = SteepestRule.lr,
        *,
        mode: Literal["lmo", "dual-scaled"] = "lmo",
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        options: Options | None = None,
    ) -> None:
        rule = SteepestRule(norm_of_step=norm, mode=mode, momentum=momentum, nesterov=nesterov)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
