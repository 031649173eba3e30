# SPDX-License-Identifier: Apache-2.0
"""Nesterov's accelerated gradient, with a constant momentum or the sequence for convex functions."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, final

import torch
from torch import Tensor

from steepest.kernels.updates import MomentumHyper
from steepest.optim.engine import Engine, Params
from steepest.optim.fused import fused_momentum_
from steepest.optim.options import Options
from steepest.optim.rule import Entries, Rule, Settings, State, Step, check
from steepest.optim.sharding import local


@functools.lru_cache(maxsize=64)
def convex_momentum(step: int) -> float:
    r"""Return the momentum after a step for a convex function that need not be strongly convex.

    $b_t = (s_t - 1) / s_{t+1}$ with $s_1 = 1$, $s_{t+1} = (1 + \sqrt{1 + 4 s_t^2}) / 2$; it rises as $1 - 3/t$.

    Args:
        step: $t$ from 1.

    Example:
        >>> [round(convex_momentum(t), 4) for t in (1, 2, 100)]
        [0.0, 0.2818, 0.9711]

    References:
        Nesterov (1983), A method of solving a convex programming problem with convergence rate O(1/k^2). Beck and
        Teboulle (2009), A fast iterative shrinkage-thresholding algorithm for linear inverse problems.
    """
    now = 1.0
    for _ in range(step - 1):
        now = (1 + math.sqrt(1 + 4 * now * now)) / 2
    return (now - 1) / ((1 + math.sqrt(1 + 4 * now * now)) / 2)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class NesterovRule(Rule):
    r"""The step from one point of evaluation to the next.

    The parameter is $y$. With $d_t = (x_{t-1} - x_t) / \eta$, so that $d_t = b_{t-1} d_{t-1} + g_t$, the
    accelerated gradient $x_t = y_{t-1} - \eta g_t$, $y_t = x_t + b_t (x_t - x_{t-1})$ is
    $y_t = y_{t-1} - \eta (g_t + b_t d_t)$.

    Args:
        momentum: $b$ in [0, 1), or None for `convex_momentum`.
    """

    lr: ClassVar[float] = 1e-3
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    momentum: float | None = 0.9

    def __post_init__(self) -> None:
        if self.momentum is not None:
            check("momentum", self.momentum, 0, 1)

    def init(self, like: Tensor) -> State:
        """Return a zero displacement."""
        return {"momentum_buffer": torch.zeros_like(like)}

    def momentum_after(self, step: int) -> float:
        """Return $b_t$ after step $t$; 0 before the first.

        Args:
            step: $t$ from 0.
        """
        if step == 0:
            return 0.0
        return convex_momentum(step) if self.momentum is None else self.momentum

    def numbers(self, count: int) -> tuple[float, float]:
        """Return $b_{t-1}$ and $b_t$."""
        return self.momentum_after(count - 1), self.momentum_after(count)

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $g_t + b_t d_t$."""
        before, after = step.numbers or self.numbers(step.count)
        moved = state["momentum_buffer"]
        moved.mul_(before).add_(grad)
        return (moved * after).add_(grad)

    def step_(self, entries: Entries, settings: Settings) -> bool:
        """Take the step in one sweep over parameters, gradients and states, where the momentum is constant."""
        if self.momentum is None:
            return False
        method = MomentumHyper(0.0, self.momentum, "sgd", nesterov=True)
        return fused_momentum_(entries, settings, method, buffer="momentum_buffer")


@final
class Nesterov(Engine):
    r"""Nesterov's accelerated gradient: the gradient is taken where momentum will have carried the iterate.

    $x_{t+1} = y_t - \eta \nabla f(y_t)$, $y_{t+1} = x_{t+1} + b_{t+1} (x_{t+1} - x_t)$. The parameters hold $y$, where
    the next gradient belongs; `at_iterates` gives $x$, of which the guarantees speak. For an L-smooth convex function,
    $\eta = 1/L$ and `momentum=None`: $f(x_t) - f^* \le 2 L \|x_0 - x^*\|^2 / (t + 1)^2$. For one that is also
    $\mu$-strongly convex take both numbers from `optimal_momentum(L, mu, "nesterov")`.

    With a constant learning rate and momentum this is `SGD(nesterov=True)`, step by step.

    Args:
        params: A model, parameters, named parameters or groups.
        lr: $\eta$ above 0.
        momentum: $b$ in [0, 1), or None for the rising sequence of `convex_momentum`.
        weight_decay: Added to the gradient (`Options(decay=...)` for another way).
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range.

    Numerics:
        The displacement is kept in units of the gradient. When the learning rate changes, the memory does too, as
        in `torch.optim.SGD`.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([4.0]))
        >>> optimizer = Nesterov([w], lr=0.5, momentum=None)
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     (w.square() / 2).sum().backward()
        ...     optimizer.step()
        >>> with optimizer.at_iterates():
        ...     print(w.item() < 0.5)
        True

    References:
        Nesterov (1983). Beck and Teboulle (2009). Sutskever et al. (2013) for the change of variables.
    """

    default_decay = "l2"

    def __init__(
        self,
        params: Params,
        lr: float = NesterovRule.lr,
        momentum: float | None = 0.9,
        weight_decay: float = 0.0,
        *,
        options: Options | None = None,
    ) -> None:
        super().__init__(params, NesterovRule(momentum=momentum), lr=lr, weight_decay=weight_decay, options=options)

    @contextmanager
    @torch.no_grad()
    def at_iterates(self) -> Iterator[None]:
        """Hold the iterates $x$ in the parameters inside the block, and the same $y$ as before after it.

        The learning rate must be that of the last step. Do not step inside.

        Raises:
            ValueError: If the states are kept in fewer bits or a group has hyperball: $x$ cannot be found then.
        """
        kept: list[tuple[Tensor, Tensor]] = []
        for index, group in enumerate(self.param_groups):
            rule = self.rule_of(index)
            if not isinstance(rule, NesterovRule):
                continue
            if group["hyperball"] or group["state_dtype"] != "float32":
                raise ValueError("the iterates need states in float32 and no hyperball")
            for p in group["params"]:
                state = self.state.get(p)
                if state:
                    param, moved = local(p.detach()), local(state["momentum_buffer"])
                    kept.append((param, param.clone()))
                    ahead = float(group["lr"]) * rule.momentum_after(int(state["step"]))
                    param.copy_(param.to(moved.dtype).add(moved, alpha=ahead))
        try:
            yield
        finally:
            with torch.no_grad():
                for param, values in kept:
                    param.copy_(values)
