# SPDX-License-Identifier: Apache-2.0
"""Lion: the sign of one average, remembered by another."""

import dataclasses
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.geometry.entrywise import Sign
from steepest.geometry.norm import Norm
from steepest.kernels.updates import MomentumHyper
from steepest.optim.engine import Engine, Params
from steepest.optim.fused import fused_momentum_
from steepest.optim.options import Options
from steepest.optim.rule import Entries, Rule, Settings, State, Step, check_betas
from steepest.optim.sign import sign_of


def lion_direction_(
    grad: Float[Tensor, "*shape"], momentum_buffer: Float[Tensor, "*shape"], *, betas: tuple[float, float]
) -> Float[Tensor, "*shape"]:
    r"""Return $\mathrm{sign}(\beta_1 B + (1 - \beta_1) g)$, then $B \leftarrow \beta_2 B + (1 - \beta_2) g$ in place.

    Args:
        grad: $g$; not changed.
        momentum_buffer: $B$; changed in place after it was read.
        betas: $\beta_1, \beta_2$.
    """
    direction = sign_of(grad.lerp(momentum_buffer, betas[0]))
    momentum_buffer.lerp_(grad, 1 - betas[1])
    return direction


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class LionRule(Rule):
    r"""The direction of Lion, see `lion_direction_`.

    Args:
        betas: $\beta_1$ of the step and $\beta_2$ of the memory, in [0, 1).
    """

    lr: ClassVar[float] = 1e-4
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    betas: tuple[float, float] = (0.9, 0.99)

    def __post_init__(self) -> None:
        check_betas(self.betas)

    def init(self, like: Tensor) -> State:
        """Return a zero average."""
        return {"momentum_buffer": torch.zeros_like(like)}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return the signs."""
        return lion_direction_(grad, state["momentum_buffer"], betas=self.betas)

    def step_(self, entries: Entries, settings: Settings) -> bool:
        """Take the step in one sweep over parameters, gradients and states."""
        method = MomentumHyper(0.0, self.betas[1], "lion", beta1=self.betas[0])
        return fused_momentum_(entries, settings, method, buffer="momentum_buffer")

    def norm(self) -> Norm:
        """Return the l-infinity norm of all entries; its dual is the sum of sizes."""
        return Sign(1)


@final
class Lion(Engine):
    r"""Lion: sign descent whose step looks at the newest gradient more than its memory does.

    $u = \mathrm{sign}(\beta_1 B + (1 - \beta_1) g)$, $W \leftarrow (1 - \eta \lambda) W - \eta u$, then
    $B \leftarrow \beta_2 B + (1 - \beta_2) g$. With $\beta_1 = \beta_2$ it is `Signum`. One state per entry.

    Every entry moves by $\eta$, several times further than with AdamW at the same number: the authors take a learning
    rate three to ten times smaller than AdamW's and a weight decay as much larger.

    Args:
        params: A model, parameters, named parameters or groups.
        lr: $\eta$ above 0.
        betas: $\beta_1, \beta_2$ in [0, 1).
        weight_decay: $\lambda$, decoupled, times the learning rate.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, -0.1])
        >>> Lion([w], lr=0.25).step()
        >>> w.data
        tensor([-0.2500,  0.2500])

    References:
        Chen et al. (2023), Symbolic discovery of optimization algorithms, arXiv 2302.06675, algorithm 2.
    """

    def __init__(
        self,
        params: Params,
        lr: float = LionRule.lr,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        options: Options | None = None,
    ) -> None:
        super().__init__(params, LionRule(betas=betas), lr=lr, weight_decay=weight_decay, options=options)
