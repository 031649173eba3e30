# SPDX-License-Identifier: Apache-2.0
"""KL-SOAP: Adam in the eigenbasis of KL-Shampoo's factors."""

import dataclasses
from typing import final

import torch
from torch import Tensor

from steepest.optim.engine import Engine, Params
from steepest.optim.kl_shampoo import KLRule, fill_, first_state, learn_
from steepest.optim.options import Options
from steepest.optim.rule import State, Step
from steepest.optim.soap import adam_, refresh_bases_, rotate, rotate_back


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class KLSOAPRule(KLRule):
    r"""Adam in the eigenbasis of KL-Shampoo's factors.

    As `SOAPRule`, with the factors of `learn_`, columns of the bases in the order they have, and averages that are not
    corrected for bias.

    Args:
        betas: $\beta_1, \beta_2$ of Adam, in [0, 1); the second is that of the factors too.
        eps: Outside the root, above 0.
        precondition_frequency: f, at least 1.

    References:
        Lin et al. (2025), arXiv 2509.03378.
    """

    def init(self, like: Tensor) -> State:
        """Return zero averages, zero factors, identities and small eigenvalues."""
        return first_state(like) | {"exp_avg_sq": torch.zeros_like(like)}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor | None:
        """Return $u$; None at the first step."""
        if step.count == 1:
            fill_(grad, state, self.betas[1])
            return None
        left, right = state["basis_left"], state["basis_right"]
        turned = rotate(grad, left, right)
        adam = adam_(turned, state["exp_avg"], state["exp_avg_sq"], betas=self.betas, eps=self.eps)
        direction = rotate_back(adam, left, right)
        learn_(grad, turned, state, self.betas[1])
        if (step.count - 1) % self.precondition_frequency == 0:
            refresh_bases_(state, sort=False)
        return direction


@final
class KLSOAP(Engine):
    r"""Adam in the eigenbasis of KL-Shampoo's factors: see `KLSOAPRule` for the formula.

    Args:
        params: A model: its matrices and convolutions are stepped by KL-SOAP, the rest by AdamW. Or matrices, or
            groups.
        lr: Learning rate above 0 of the matrices.
        betas: Of Adam, the second of the factors too, in [0, 1).
        eps: Outside the root, above 0.
        weight_decay: Decoupled, times the learning rate.
        precondition_frequency: Steps between two refreshments of the bases.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a real floating-point matrix.

    References:
        Lin et al. (2025), arXiv 2509.03378.
    """

    def __init__(
        self,
        params: Params,
        lr: float = KLSOAPRule.lr,
        betas: tuple[float, float] = (0.95, 0.95),
        *,
        eps: float = 1e-8,
        weight_decay: float = KLSOAPRule.weight_decay,
        precondition_frequency: int = 10,
        options: Options | None = None,
    ) -> None:
        rule = KLSOAPRule(betas=betas, eps=eps, precondition_frequency=precondition_frequency)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
