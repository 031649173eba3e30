# SPDX-License-Identifier: Apache-2.0
"""Grafting: the direction of one rule with the length of another's."""

import dataclasses
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor, linalg, where

from steepest.geometry.norm import Norm
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options
from steepest.optim.rule import Directional, Rule, State, Step

MAGNITUDE = "magnitude_"


def graft(direction: Float[Tensor, "batch m n"], magnitude: Float[Tensor, "batch m n"]) -> Float[Tensor, "batch m n"]:
    r"""Return each direction with the Frobenius norm of the other: $D\, \|M\| / \|D\|$; zero stays zero.

    Args:
        direction: $D$; not changed.
        magnitude: $M$; not changed.
    """
    own = linalg.matrix_norm(direction, keepdim=True)
    wanted = linalg.matrix_norm(magnitude, keepdim=True)
    return direction * (wanted / where(own == 0, 1.0, own))


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class GraftedRule(Rule):
    r"""The direction of one rule, for each matrix with the Frobenius norm of another's: $u = D\, \|M\| / \|D\|$.

    Learning rate and weight decay are those of the rule that gives the length. Both rules see the same gradients and
    keep their own states.

    Args:
        direction: Gives $D$; works on matrices or entries.
        magnitude: Gives $M$; works on matrices or entries.

    Raises:
        ValueError: If a rule works on all parameters at once.

    References:
        Agarwal et al. (2020), Disentangling adaptive gradient methods from learning rates, arXiv 2002.11803.
    """

    works_on = "matrices"
    cost: ClassVar[str] = "that of both rules"

    direction: Rule
    magnitude: Rule

    def __post_init__(self) -> None:
        for rule in (self.direction, self.magnitude):
            if rule.works_on == "all parameters":
                raise ValueError(f"{rule.name} steps all parameters at once and has no direction of one matrix")

    @property
    def lr(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Default of the rule that gives the length."""
        return self.magnitude.lr

    @property
    def weight_decay(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Default of the rule that gives the length."""
        return self.magnitude.weight_decay

    @property
    def entry_states(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Those of both."""
        return (*self.direction.entry_states, *(MAGNITUDE + name for name in self.magnitude.entry_states))

    def init(self, like: Tensor) -> State:
        """Return the states of both, those of the second under a prefix."""
        second = {MAGNITUDE + name: tensor for name, tensor in _init(self.magnitude, like).items()}
        return _init(self.direction, like) | second

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor | None:
        """Return $u$; None where one of the rules takes no step."""
        own = {name: tensor for name, tensor in state.items() if not name.startswith(MAGNITUDE)}
        other = {name.removeprefix(MAGNITUDE): tensor for name, tensor in state.items() if name.startswith(MAGNITUDE)}
        direction = self.direction.update(grad, own, step)
        magnitude = self.magnitude.update(grad, other, step)
        return None if direction is None or magnitude is None else graft(direction, magnitude)

    def norm(self) -> Norm | None:
        """Return the norm of the rule that gives the direction."""
        return self.direction.norm()


def _init(rule: Rule, like: Tensor) -> State:
    state = rule.init(like)
    return state | rule.init_matrices(like) if isinstance(rule, Directional) else state


@final
class Grafted(Engine):
    """The direction of one rule with the length of another's, for the matrices of a network.

    Args:
        params: A model: its matrices and convolutions are stepped so, the rest by AdamW. Or matrices, or groups.
        direction: Rule that gives the direction of each matrix.
        magnitude: Rule that gives its length.
        lr: Learning rate above 0; None takes that of `magnitude`.
        weight_decay: Decoupled; None takes that of `magnitude`.
        options: What the engine does around the rules.

    Raises:
        ValueError: If a number is out of range, or a rule has no direction of one matrix.

    Example:
        >>> import torch
        >>> from steepest.optim.adam_rule import AdamRule
        >>> from steepest.optim.muon import MuonRule
        >>> weight = torch.nn.Parameter(torch.eye(3))
        >>> optimizer = Grafted([weight], direction=MuonRule(), magnitude=AdamRule())
        >>> optimizer.param_groups[0]["lr"]
        0.001

    References:
        Agarwal et al. (2020), arXiv 2002.11803.
    """

    def __init__(
        self,
        params: Params,
        *,
        direction: Rule,
        magnitude: Rule,
        lr: float | None = None,
        weight_decay: float | None = None,
        options: Options | None = None,
    ) -> None:
        rule = GraftedRule(direction=direction, magnitude=magnitude)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
