# SPDX-License-Identifier: Apache-2.0
"""Stochastic gradient descent: plain, with the heavy ball, or with Nesterov's look-ahead."""

import dataclasses
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.geometry.entrywise import Frobenius
from steepest.geometry.norm import Norm
from steepest.kernels.updates import MomentumHyper
from steepest.optim.engine import Engine, Params
from steepest.optim.fused import fused_momentum_
from steepest.optim.options import Options
from steepest.optim.rule import Entries, Rule, Settings, State, Step, check


def accumulate_gradient_(
    grad: Float[Tensor, "*shape"],
    momentum_buffer: Float[Tensor, "*shape"],
    *,
    momentum: float,
    weight: float,
    nesterov: bool,
) -> Float[Tensor, "*shape"]:
    r"""Update the buffer in place and return the step.

    $v \leftarrow \mu v + w g$; the step is $v$, or $g + \mu v$ with Nesterov's look-ahead.

    Args:
        grad: $g$; not changed.
        momentum_buffer: $v$; changed in place.
        momentum: $\mu$.
        weight: $w$ of the new gradient.
        nesterov: Look one step ahead.

    Returns:
        A tensor that the caller may read but not write.
    """
    momentum_buffer.mul_(momentum).add_(grad, alpha=weight)
    return grad.add(momentum_buffer, alpha=momentum) if nesterov else momentum_buffer


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class SGDRule(Rule):
    r"""The gradient, or a decaying sum of gradients.

    $v \leftarrow \mu v + (1 - \tau) g$ (the first gradient counts in full); $u = g$ without momentum, $v$ with the
    heavy ball, $g + \mu v$ with Nesterov's look-ahead.

    Args:
        momentum: $\mu$ in [0, 1); 0 keeps no state.
        dampening: $\tau$ in [0, 1].
        nesterov: Look one step ahead; needs momentum and no dampening.

    References:
        Polyak (1964). Nesterov (1983). Sutskever et al. (2013), On the importance of initialization and momentum.
    """

    lr: ClassVar[float] = 1e-3
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check("momentum", self.momentum, 0, 1)
        check("dampening", self.dampening, 0, 1, closed="[]")
        if self.nesterov and (not self.momentum or self.dampening):
            raise ValueError(
                f"nesterov needs momentum above 0 and no dampening, got {self.momentum} and {self.dampening}"
            )

    def init(self, like: Tensor) -> State:
        """Return a zero buffer if there is momentum."""
        return {"momentum_buffer": torch.zeros_like(like)} if self.momentum else {}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $u$."""
        if not self.momentum:
            return grad
        if "momentum_buffer" not in state:
            raise ValueError("momentum was 0 when the state was made, so there is no buffer; start with it above 0")
        weight = 1 - self.dampening if step.count > 1 else 1.0
        buffer, nesterov = state["momentum_buffer"], self.nesterov
        return accumulate_gradient_(grad, buffer, momentum=self.momentum, weight=weight, nesterov=nesterov)

    def step_(self, entries: Entries, settings: Settings) -> bool:
        """Take the step in one sweep over parameters, gradients and states."""
        method = MomentumHyper(0.0, self.momentum, "sgd", self.nesterov, self.dampening)
        return fused_momentum_(entries, settings, method, buffer="momentum_buffer" if self.momentum else None)

    def norm(self) -> Norm:
        """Return the l2 norm of all entries."""
        return Frobenius(1)


@final
class SGD(Engine):
    r"""Stochastic gradient descent with momentum: steepest descent under the l2 norm.

    $v \leftarrow \mu v + (1 - \tau) g$, $W \leftarrow W - \eta v$ (heavy ball) or $W \leftarrow W - \eta (g + \mu v)$
    (Nesterov), with $g$ the gradient plus $\lambda W$. The formulas are those of `torch.optim.SGD`.

    `optimal_momentum` gives $\eta$ and $\mu$ for a quadratic of known curvature. The look-ahead is the right one: the
    parameter is the point $y$ where the gradient is taken, and by a change of variables
    $x_{t+1} = y_t - \eta \nabla f(y_t)$, $y_{t+1} = x_{t+1} + \mu (x_{t+1} - x_t)$ (see `Nesterov`).

    Args:
        params: A model, parameters, named parameters or groups.
        lr: $\eta$ above 0.
        momentum: $\mu$ in [0, 1).
        dampening: $\tau$ in [0, 1]; the first gradient counts in full.
        weight_decay: $\lambda$, added to the gradient (`Options(decay=...)` for another way).
        nesterov: Look one step ahead; needs momentum and no dampening.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or Nesterov's look-ahead has no momentum or a dampening.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([4.0]))
        >>> optimizer = SGD([w], lr=0.5)
        >>> (w.square() / 2).sum().backward()
        >>> optimizer.step()
        >>> w.data
        tensor([2.])

    References:
        Polyak (1964). Nesterov (1983). Sutskever et al. (2013).
    """

    default_decay = "l2"

    def __init__(
        self,
        params: Params,
        lr: float = SGDRule.lr,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = False,
        options: Options | None = None,
    ) -> None:
        rule = SGDRule(momentum=momentum, dampening=dampening, nesterov=nesterov)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
