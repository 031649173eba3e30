# SPDX-License-Identifier: Apache-2.0
"""The Chebyshev iteration: the best that a method of first order can do on quadratics of known curvature."""

import dataclasses
import math
from typing import ClassVar, final

import torch
from torch import Tensor

from steepest.optim.engine import Engine, Params
from steepest.optim.optimal_momentum import chebyshev_weight, check_curvature
from steepest.optim.options import Options
from steepest.optim.rule import Rule, State, Step, check


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class ChebyshevRule(Rule):
    r"""The direction $u_t = w_t g_t + (w_t - 1)\, u_{t-1}$, $u_0 = 0$, with the weights of `chebyshev_weight`.

    With the learning rate $2/(L + \mu)$ it is the Chebyshev semi-iteration
    $x_{t+1} = w_t (x_t - \eta g_t - x_{t-1}) + x_{t-1}$, written in differences: $x_t - x_{t-1} = -\eta u_{t-1}$.

    Args:
        condition: $\kappa = L/\mu$, at least 1.
    """

    lr: ClassVar[float] = 1e-3
    entry_states: ClassVar[tuple[str, ...]] = ("last_direction",)
    needs: ClassVar[str] = "the largest and smallest curvature"

    condition: float

    def __post_init__(self) -> None:
        check("condition", self.condition, 1, math.inf)

    def init(self, like: Tensor) -> State:
        """Return a zero direction."""
        return {"last_direction": torch.zeros_like(like)}

    def numbers(self, count: int) -> tuple[float, ...]:
        """Return $w_t$."""
        return (chebyshev_weight(self.condition, count),)

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $u_t$."""
        (weight,) = step.numbers or self.numbers(step.count)
        return state["last_direction"].mul_(weight - 1).add_(grad, alpha=weight)


@final
class Chebyshev(Engine):
    r"""The Chebyshev iteration for quadratics with curvatures in $[\mu, L]$.

    $x_{t+1} = w_t (x_t - \eta \nabla f(x_t) - x_{t-1}) + x_{t-1}$ with $\eta = 2/(L + \mu)$ and weights that depend on
    the step. After $t$ steps the error is at most $1 / T_t\big(\frac{\kappa + 1}{\kappa - 1}\big)$ of that of the
    start, $\kappa = L/\mu$ and $T_t$ the Chebyshev polynomial; no method that knows only the interval can promise
    less. It tends to the heavy ball of `optimal_momentum`, without the hump at its start.

    For exact gradients of quadratics, or near a minimum. Curvature below $\mu$ slows it down, curvature above $L$ makes
    it diverge; `steepest.curvature.extreme_eigenvalues` finds both.

    Args:
        params: A model, parameters, named parameters or groups.
        L: Largest curvature, above 0.
        mu: Smallest curvature, in (0, L].
        lr: $\eta$ above 0; None takes $2/(L + \mu)$. Another one moves the interval, so that $1/\eta$ is its middle.
        weight_decay: $\lambda$, added to the gradient; it belongs to both curvatures.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, $\mu = 0$ among them.

    Numerics:
        The last direction is kept, in units of the gradient. When the learning rate changes, the memory does too.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
        >>> curvatures = torch.tensor([1.0, 4.0, 9.0])
        >>> optimizer = Chebyshev([w], L=9.0, mu=1.0)
        >>> for _ in range(20):
        ...     w.grad = curvatures * w.detach()
        ...     optimizer.step()
        >>> bool(w.abs().max() <= 1.001 / math.cosh(20 * math.acosh(10 / 8)))
        True

    References:
        Golub and Varga (1961), Chebyshev semi-iterative methods, successive overrelaxation iterative methods, and
        second order Richardson iterative methods.
    """

    default_decay = "l2"

    def __init__(
        self,
        params: Params,
        L: float,
        mu: float,
        *,
        lr: float | None = None,
        weight_decay: float = 0.0,
        options: Options | None = None,
    ) -> None:
        check_curvature(L, mu)
        lr = 2 / (L + mu) if lr is None else lr
        rule = ChebyshevRule(condition=L / mu)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
