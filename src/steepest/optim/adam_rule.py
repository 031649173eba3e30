# SPDX-License-Identifier: Apache-2.0
"""Adam and its relatives: sign descent smoothed by averages of the gradient and of its square."""

import dataclasses
import math
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.kernels.updates import AdamHyper, adam_step_
from steepest.optim.compression import kernel_noise, kernel_states
from steepest.optim.rule import Entries, Rule, Settings, State, Step, check, check_betas


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamRule(Rule):
    r"""The direction of Adam.

    $m \leftarrow \beta_1 m + (1 - \beta_1) g$, $v \leftarrow \beta_2 v + (1 - \beta_2) g^2$,
    $u = \hat m / (\sqrt{\hat v} + \epsilon)$ with $\hat m = m / (1 - \beta_1^t)$, $\hat v = v / (1 - \beta_2^t)$.

    Args:
        betas: $\beta_1, \beta_2$ in [0, 1).
        eps: $\epsilon$ above 0, outside the root and after the correction.
        amsgrad: Use the largest $v$ so far.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization, arXiv 1412.6980. Reddi et al. (2018), On the
        convergence of Adam and beyond, arXiv 1904.09237.
    """

    lr: ClassVar[float] = 1e-3
    entry_states: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    unsigned_states: ClassVar[tuple[str, ...]] = ("exp_avg_sq", "max_exp_avg_sq")

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False

    def __post_init__(self) -> None:
        check_betas(self.betas)
        check("eps", self.eps, 0, math.inf, closed="()")

    def init(self, like: Tensor) -> State:
        """Return zero averages."""
        names = self.entry_states if self.amsgrad else self.entry_states[:2]
        return {name: torch.zeros_like(like) for name in names}

    def update(self, grad: Tensor, state: State, step: Step) -> Float[Tensor, "*shape"]:
        """Return $u$."""
        (beta1, beta2), t = self.betas, step.count
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(grad, 1 - beta1)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if self.amsgrad:
            square = torch.maximum(state["max_exp_avg_sq"], square, out=state["max_exp_avg_sq"])
        root = (square / (1 - beta2**t)).sqrt_().add_(self.eps)
        return (mean / root).mul_(1 / (1 - beta1**t))

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
            cautious=settings.cautious,
            noise=kernel_noise(entries, "exp_avg"),
        )
        mean, square, largest = (kernel_states(entries, name) for name in self.entry_states)
        adam_step_(entries.params, entries.grads, mean, square, largest or None, hyper, entries.lr_scales)
        return True
