# SPDX-License-Identifier: Apache-2.0
"""Sign descent and signum: steepest descent under the l-infinity norm."""

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
from steepest.optim.momentum import average_gradient_
from steepest.optim.options import Options
from steepest.optim.rule import Entries, Rule, Settings, State, Step, check


def sign_of(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return the sign of each entry: 0 of 0, NaN of NaN (`torch.sign` makes that 0, which would hide it)."""
    return torch.where(x.isnan(), x, x.sign())


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class SignRule(Rule):
    r"""The sign of the averaged gradient: $B \leftarrow \mu B + (1 - \mu) g$, $u = \mathrm{sign}(B)$.

    Args:
        momentum: $\mu$ in [0, 1); 0 keeps no state and takes the sign of the gradient.
        nesterov: Take the sign of $\mu B + (1 - \mu) g$.

    References:
        Bernstein et al. (2018), signSGD: compressed optimisation for non-convex problems, arXiv 1802.04434.
    """

    lr: ClassVar[float] = 1e-4
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    momentum: float = 0.9
    nesterov: bool = False

    def __post_init__(self) -> None:
        check("momentum", self.momentum, 0, 1)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs momentum above 0, got 0")

    def init(self, like: Tensor) -> State:
        """Return a zero average if there is momentum."""
        return {"momentum_buffer": torch.zeros_like(like)} if self.momentum else {}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $u$."""
        if not self.momentum:
            return sign_of(grad)
        if "momentum_buffer" not in state:
            raise ValueError("momentum was 0 when the state was made, so there is no buffer; start with it above 0")
        buffer = state["momentum_buffer"]
        return sign_of(average_gradient_(grad, buffer, momentum=self.momentum, nesterov=self.nesterov))

    def step_(self, entries: Entries, settings: Settings) -> bool:
        """Take the step in one sweep over parameters, gradients and states."""
        method = MomentumHyper(0.0, self.momentum, "ema", self.nesterov, sign=True)
        return fused_momentum_(entries, settings, method, buffer="momentum_buffer" if self.momentum else None)

    def norm(self) -> Norm:
        """Return the l-infinity norm of all entries; its dual is the sum of sizes."""
        return Sign(1)


@final
class SignDescent(Engine):
    r"""Sign descent: every entry moves by the learning rate.

    It is steepest descent under the l-infinity norm, and Adam without its averages. It keeps no state.

    Args:
        params: A model, parameters, named parameters or groups.
        lr: $\eta$ above 0: how far an entry moves in a step.
        weight_decay: Decoupled, times the learning rate.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.0]))
        >>> w.grad = torch.tensor([1e-9, -30.0, 0.0])
        >>> SignDescent([w], lr=0.5).step()
        >>> w.data
        tensor([ 0.5000, -1.5000,  0.0000])

    References:
        Bernstein et al. (2018), signSGD, arXiv 1802.04434.
    """

    def __init__(
        self,
        params: Params,
        lr: float = SignRule.lr,
        *,
        weight_decay: float = 0.0,
        options: Options | None = None,
    ) -> None:
        super().__init__(params, SignRule(momentum=0.0), lr=lr, weight_decay=weight_decay, options=options)


@final
class Signum(Engine):
    r"""Sign descent along an average of gradients.

    $B \leftarrow \mu B + (1 - \mu) g$, $W \leftarrow (1 - \eta \lambda) W - \eta\, \mathrm{sign}(B)$.

    Args:
        params: A model, parameters, named parameters or groups.
        lr: $\eta$ above 0: how far an entry moves in a step.
        momentum: $\mu$ in [0, 1).
        nesterov: Take the sign of $\mu B + (1 - \mu) g$.
        weight_decay: $\lambda$, decoupled, times the learning rate.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or Nesterov's look-ahead has no momentum.

    References:
        Bernstein et al. (2018), signSGD, arXiv 1802.04434.
    """

    def __init__(
        self,
        params: Params,
        lr: float = SignRule.lr,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        options: Options | None = None,
    ) -> None:
        rule = SignRule(momentum=momentum, nesterov=nesterov)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
