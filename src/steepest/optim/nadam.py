# SPDX-License-Identifier: Apache-2.0
"""NAdam: Adam with Nesterov's look-ahead and a rising momentum."""

import dataclasses
import functools
import math
from typing import ClassVar, final

import torch
from torch import Tensor

from steepest.kernels.updates import AdamHyper, adam_step_
from steepest.optim.compression import kernel_noise, kernel_states
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options
from steepest.optim.rule import Entries, Rule, Settings, State, Step, check, check_betas


def nadam_momentum(beta1: float, momentum_decay: float, step: int) -> float:
    r"""Return $\mu_t = \beta_1 (1 - 0.96^{t \psi} / 2)$: half of $\beta_1$ at first, all of it in the end.

    Args:
        beta1: $\beta_1$.
        momentum_decay: $\psi$.
        step: $t$ from 1.
    """
    return beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay))


@functools.lru_cache(maxsize=256)
def _momentum_product(beta1: float, momentum_decay: float, step: int) -> float:
    product = 1.0
    for i in range(1, step + 1):
        product *= nadam_momentum(beta1, momentum_decay, i)
        if product < 2.0**-60:  # 1 - product is 1, now and later.
            return 0.0
    return product


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class NAdamRule(Rule):
    r"""The direction of NAdam.

    $m$ and $v$ as Adam's; with $\Pi_t = \mu_1 \cdots \mu_t$ (see `nadam_momentum`):
    $u = \left(\frac{\mu_{t+1}}{1 - \Pi_{t+1}} m + \frac{1 - \mu_t}{1 - \Pi_t} g\right) / (\sqrt{\hat v} + \epsilon)$.

    Args:
        betas: $\beta_1, \beta_2$ in [0, 1).
        eps: $\epsilon$ above 0, outside the root and after the correction.
        momentum_decay: $\psi$ of at least 0.

    References:
        Dozat (2016), Incorporating Nesterov momentum into Adam.
    """

    lr: ClassVar[float] = 2e-3
    entry_states: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    unsigned_states: ClassVar[tuple[str, ...]] = ("exp_avg_sq",)

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum_decay: float = 4e-3

    def __post_init__(self) -> None:
        check_betas(self.betas)
        check("eps", self.eps, 0, math.inf, closed="()")
        check("momentum_decay", self.momentum_decay, 0, math.inf)

    def init(self, like: Tensor) -> State:
        """Return zero averages."""
        return {name: torch.zeros_like(like) for name in self.entry_states}

    def numbers(self, count: int) -> tuple[float, float]:
        """Return the factors of $m$ and of the gradient."""
        beta1, decay = self.betas[0], self.momentum_decay
        now, after = nadam_momentum(beta1, decay, count), nadam_momentum(beta1, decay, count + 1)
        product = _momentum_product(beta1, decay, count)
        return after / (1 - product * after), (1 - now) / (1 - product)

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $u$."""
        beta1, beta2 = self.betas
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        root = (square / (1 - beta2**step.count)).sqrt_().add_(self.eps)
        of_mean, of_grad = step.numbers or self.numbers(step.count)
        return (mean * of_mean).add_(grad * of_grad).div_(root)

    def step_(self, entries: Entries, settings: Settings) -> bool:
        """Take the step in one sweep over parameters, gradients and states."""
        hyper = AdamHyper(
            lr=settings.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            eps=self.eps,
            step=entries.step.count,
            weight_decay=settings.weight_decay,
            decay=settings.decay,
            nadam=True,
            momentum_decay=self.momentum_decay,
            cautious=settings.cautious,
            noise=kernel_noise(entries, "exp_avg"),
        )
        mean, square = (kernel_states(entries, name) for name in self.entry_states)
        adam_step_(entries.params, entries.grads, mean, square, None, hyper, entries.lr_scales)
        return True


@final
class NAdam(Engine):
    r"""Adam that looks one step ahead, as Nesterov's gradient does, with a momentum that rises from half to all.

    The formula of `NAdamRule`; weight decay is added to the gradient, as in `torch.optim.NAdam`
    (`Options(decay="decoupled")` for that of AdamW).

    Args:
        params: A model, parameters, named parameters or groups.
        lr: Learning rate above 0.
        betas: $\beta_1, \beta_2$ in [0, 1).
        eps: $\epsilon$ above 0.
        weight_decay: Coefficient of at least 0.
        momentum_decay: $\psi$ of at least 0: how fast the momentum rises; 0 stays at half of $\beta_1$.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range.

    Numerics:
        $\Pi_t$ is computed from the step count in float64. `torch.optim.NAdam` keeps it as a float32 state: a
        relative difference of about 1e-7 in the early steps.

    References:
        Dozat (2016), Incorporating Nesterov momentum into Adam.
    """

    default_decay = "l2"

    def __init__(
        self,
        params: Params,
        lr: float = NAdamRule.lr,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        momentum_decay: float = 4e-3,
        options: Options | None = None,
    ) -> None:
        rule = NAdamRule(betas=betas, eps=eps, momentum_decay=momentum_decay)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
