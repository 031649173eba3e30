# SPDX-License-Identifier: Apache-2.0
"""The optimistic step: any rule, with the change of its direction expected to go on."""

import dataclasses
from typing import ClassVar, final

import torch
from torch import Tensor

from steepest.geometry.norm import Norm
from steepest.optim.adam import AdamRule
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options
from steepest.optim.rule import Directional, Rule, State, Step


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimisticRule(Rule):
    r"""The direction $u_t + (u_t - u_{t-1})$ for the directions $u_t$ of another rule, $u_0 = 0$.

    With $u_t = g_t$ and a constant learning rate this is optimistic mirror descent in Euclidean space without a
    constraint: $x_t = \hat x_t - \eta M_t$, $\hat x_{t+1} = \hat x_t - \eta g_t$ with the prediction $M_t = g_{t-1}$,
    which play $x_{t+1} = x_t - \eta (2 g_t - g_{t-1})$.

    Args:
        rule: The other rule. Its learning rate, scale and decay are this rule's; its settings do not stand in the
            parameter groups.

    References:
        Rakhlin and Sridharan (2013), Online learning with predictable sequences, arXiv 1208.3728. Daskalakis et al.
        (2018), Training GANs with optimism, arXiv 1711.00141. Chen et al. (2023), arXiv 2302.04552.
    """

    needs: ClassVar[str] = "one more number for each entry"

    rule: Rule

    def __post_init__(self) -> None:
        inner = self.rule
        for name in ("works_on", "lr", "lr_scale", "weight_decay", "cost"):
            object.__setattr__(self, name, getattr(inner, name))
        object.__setattr__(self, "entry_states", (*inner.entry_states, "last_direction"))

    def for_role(self, role: str) -> Rule | None:
        """Return this around what the other rule is for a role."""
        inner = self.rule.for_role(role)
        return self if inner is self.rule else inner and OptimisticRule(rule=inner)

    def init(self, like: Tensor) -> State:
        """Return the state of the other rule, and a zero last direction."""
        own = {"last_direction": torch.zeros_like(like)}
        more = self.rule.init_matrices(like) if isinstance(self.rule, Directional) else {}
        return {**self.rule.init(like), **more, **own}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor | None:
        """Return $2 u_t - u_{t-1}$; None where the other rule takes no step."""
        direction, last = self.rule.update(grad, state, step), state["last_direction"]
        if direction is None:
            return None
        ahead = (2 * direction).sub_(last)
        last.copy_(direction)
        return ahead

    def norm(self) -> Norm | None:
        """Return the norm of the other rule."""
        return self.rule.norm()

    def admit(self, entries: int, dtype: torch.dtype) -> None:
        """Refuse what the other rule refuses."""
        self.rule.admit(entries, dtype)


@final
class Optimistic(Engine):
    r"""Any rule with an optimistic step: $W \leftarrow W - \eta s\, (2 u_t - u_{t-1})$.

    For games and other problems whose gradient turns as the parameters move: there plain descent circles or diverges,
    and this converges.

    Args:
        params: A model, parameters, named parameters or groups; parameters of a model that the rule is not for get
            AdamW without optimism.
        rule: Gives $u_t$; None takes `AdamRule` with a first beta of 0.5 (optimistic Adam).
        lr: Learning rate above 0; None takes the rule's.
        weight_decay: At least 0; None takes the rule's.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range.

    Example:
        Player x minimizes xy and player y maximizes it; the equilibrium is at zero.

        >>> import torch
        >>> x, y = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
        >>> optimizer = Optimistic([x, y], AdamRule(betas=(0.0, 0.9)), lr=0.02)
        >>> for _ in range(300):
        ...     x.grad, y.grad = y.detach().clone(), -x.detach().clone()
        ...     optimizer.step()
        >>> bool(x.abs() + y.abs() < 0.2)
        True

    References:
        See `OptimisticRule`. Deviation: with a learning rate that changes, the prediction is made with the rate of the
        step before.
    """

    def __init__(
        self,
        params: Params,
        rule: Rule | None = None,
        *,
        lr: float | None = None,
        weight_decay: float | None = None,
        options: Options | None = None,
    ) -> None:
        inner = rule or AdamRule(betas=(0.5, 0.999))
        super().__init__(params, OptimisticRule(rule=inner), lr=lr, weight_decay=weight_decay, options=options)
