# SPDX-License-Identifier: Apache-2.0
"""Scion: every parameter by the norm of its layer, constrained to a ball or not."""

import dataclasses
import math
from typing import ClassVar, final

from torch import Tensor

from steepest.geometry.entrywise import BiasRMS, MaxEntry
from steepest.geometry.lines import L1ToRMS
from steepest.geometry.norm import Norm
from steepest.geometry.spectral import RMSToRMS
from steepest.optim.engine import Engine, Params
from steepest.optim.momentum import average_gradient_
from steepest.optim.muon import Polar, default_polar
from steepest.optim.options import Options
from steepest.optim.rule import Directional, Rule, State, Step, check
from steepest.optim.steepest import direction_under

#: Radii of the published language model: hidden matrices 50, tied embedding and head 3000.
_HIDDEN, _VOCABULARY = 50.0, 3000.0


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class ScionRule(Directional):
    r"""The direction $u = -\rho\, \mathrm{lmo}(d)$ with $d \leftarrow \mu d + (1 - \mu) G$.

    | role | norm | direction |
    |---|---|---|
    | matrix, expert | RMS to RMS | $\sqrt{m/n}\, UV^\top$ |
    | convolution of K taps | RMS to RMS of the flattened weight | $\sqrt{m/n}\, UV^\top / K$, n without the taps |
    | embedding | l1 to RMS | each token's vector divided by its root mean square |
    | head, tied embedding | largest entry, times the inputs | $\mathrm{sign}(d) / n$ |
    | bias, gain | root mean square | $d / \mathrm{RMS}(d)$ |

    Args:
        norm_of_step: For the parameters of a role.
        radius: $\rho$ above 0.
        momentum: $\mu = 1 - \alpha$ in [0, 1).
        vocabulary_radius: $\rho$ of heads and tied embeddings.

    References:
        Pethick et al. (2025), arXiv 2502.07529.
    """

    lr: ClassVar[float] = 2.0**-12
    cost: ClassVar[str] = "a polar factor for each hidden matrix"

    norm_of_step: Norm
    radius: float = _HIDDEN
    momentum: float = 0.9
    vocabulary_radius: float = _VOCABULARY

    def __post_init__(self) -> None:
        check("radius", self.radius, 0, math.inf, closed="()")
        check("vocabulary_radius", self.vocabulary_radius, 0, math.inf, closed="()")
        check("momentum", self.momentum, 0, 1)

    def for_role(self, role: str) -> Rule:
        """Return the rule with the norm of a role."""
        if role == "embedding":
            return dataclasses.replace(self, norm_of_step=L1ToRMS())
        if role in ("tied", "head"):
            return dataclasses.replace(self, norm_of_step=MaxEntry(), radius=self.vocabulary_radius)
        if role in ("gain", "bias", "vector"):
            return dataclasses.replace(self, norm_of_step=BiasRMS(), radius=1.0)
        return self

    def accumulate(self, grad: Tensor, state: State) -> Tensor:
        """Average the gradient."""
        return average_gradient_(grad, state["momentum_buffer"], momentum=self.momentum, nesterov=False)

    def direct(self, target: Tensor, state: State, step: Step) -> Tensor:
        """Return the direction to subtract."""
        factor = self.radius / math.sqrt(math.prod(step.taps))
        return direction_under(self.norm_of_step, target, step).mul_(factor)

    def norm(self) -> Norm:
        """Return the norm."""
        return self.norm_of_step


@final
class Scion(Engine):
    r"""Steepest descent with each layer under its own norm; no other method is needed for any parameter.

    Constrained: $W \leftarrow (1 - \eta) W - \eta \rho\, \mathrm{dir}(d)$, which keeps a weight that starts in the ball
    of radius $\rho$ there (Frank-Wolfe). Unconstrained: without the shrinking. Directions and roles: see `ScionRule`.

    Args:
        params: A model, or matrices, or groups with their roles.
        lr: Learning rate in (0, 1) if constrained.
        radius: Of matrices and convolutions.
        vocabulary_radius: Of heads and tied embeddings.
        momentum: $\mu = 1 - \alpha$ in [0, 1); the published code calls $\alpha = 0.1$ its momentum.
        constrained: Whether weights shrink by `1 - lr`. Weights are not put into the ball at the start.
        polar: Polar factor of a batch of matrices; None takes Muon's default.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range.

    References:
        Pethick et al. (2025), Training deep learning models with norm-constrained LMOs, arXiv 2502.07529. Deviations: a
        bias or gain is in an RMS ball of radius 1.
    """

    def __init__(
        self,
        params: Params,
        lr: float = ScionRule.lr,
        *,
        radius: float = _HIDDEN,
        vocabulary_radius: float = _VOCABULARY,
        momentum: float = 0.9,
        constrained: bool = False,
        polar: Polar | None = None,
        options: Options | None = None,
    ) -> None:
        rule = ScionRule(
            norm_of_step=RMSToRMS(polar=polar or default_polar()),
            radius=radius,
            momentum=momentum,
            vocabulary_radius=vocabulary_radius,
        )
        if constrained:
            check("lr", lr, 0, 1, closed="()")
        super().__init__(params, rule, lr=lr, weight_decay=1.0 if constrained else 0.0, options=options)
