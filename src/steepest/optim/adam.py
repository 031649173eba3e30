# SPDX-License-Identifier: Apache-2.0
"""Adam and AdamW."""

from typing import final

from steepest.optim.adam_rule import AdamRule
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options


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

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization, arXiv 1412.6980.
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

    References:
        Loshchilov and Hutter (2019), Decoupled weight decay regularization, arXiv 1711.05101. Kingma and Ba (2015),
        arXiv 1412.6980.
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
