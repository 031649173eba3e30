# SPDX-License-Identifier: Apache-2.0
"""Adam and its relatives: sign descent smoothed by averages of the gradient and of its square."""

import dataclasses
import math
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options
from steepest.optim.rule import Entries, Rule, Settings, State, Step, check


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
        Kingma and Ba (2015), arXiv 1412.6980. Reddi et al. (2018), arXiv 1904.09237.
    """

    lr: ClassVar[float] = 1e-3
    entry_states: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")

    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False

    def __post_init__(self) -> None:
        for i in (0, 1):
            check(f"betas[{i}]", self.betas[i], 0, 1)
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
        """Take the step with torch's fused kernel where the states are plain."""
        if settings.decay not in ("decoupled", "independent", "l2") or settings.state_dtype != "float32":
            return False
        params = entries.params
        # The kernel walks through memory: it would pair the wrong entries of tensors stored in other orders.
        stored = (*params, *entries.grads)
        if any(not x.is_contiguous() for x in stored) or params[0].dtype not in (torch.float32, torch.float64):
            return False
        states = entries.states
        if settings.decay == "l2":
            fused, decay = torch._fused_adam_, settings.weight_decay  # pyright: ignore[reportPrivateImportUsage]
        else:
            fused, decay = torch._fused_adamw_, (1 - settings.decay_factor) / (settings.lr or 1.0)  # pyright: ignore[reportPrivateImportUsage]
        count = torch.tensor(float(entries.step.count))
        fused(
            params,
            entries.grads,
            [s["exp_avg"] for s in states],
            [s["exp_avg_sq"] for s in states],
            [s["max_exp_avg_sq"] for s in states] if self.amsgrad else [],
            [count] * len(params),
            lr=settings.lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=decay,
            eps=self.eps,
            amsgrad=self.amsgrad,
            maximize=False,
        )
        return True


@final
class Adam(Engine):
    """Adam with L2 regularization added to the gradient.

    Args:
        params: A model, parameters, named parameters or groups.
        lr: Learning rate above 0.
        betas: See `AdamRule`.
        eps: See `AdamRule`.
        weight_decay: Coefficient of the regularization; not applied to gains and biases of a model.
        amsgrad: See `AdamRule`.
        options: What the engine does around the rule.
    """

    default_decay = "l2"

    def __init__(
        self,
        params: Params,
        lr: float = AdamRule.lr,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        amsgrad: bool = False,
        options: Options | None = None,
    ) -> None:
        rule = AdamRule(betas=betas, eps=eps, amsgrad=amsgrad)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)


@final
class AdamW(Engine):
    """Adam with decoupled weight decay.

    Args:
        params: A model, parameters, named parameters or groups.
        lr: Learning rate above 0.
        betas: See `AdamRule`.
        eps: See `AdamRule`.
        weight_decay: Decoupled; not applied to gains and biases of a model.
        amsgrad: See `AdamRule`.
        options: What the engine does around the rule.
    """

    def __init__(
        self,
        params: Params,
        lr: float = AdamRule.lr,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        amsgrad: bool = False,
        options: Options | None = None,
    ) -> None:
        rule = AdamRule(betas=betas, eps=eps, amsgrad=amsgrad)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
