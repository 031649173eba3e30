# SPDX-License-Identifier: Apache-2.0
"""KL-Shampoo: Shampoo whose Kronecker factors are the nearest in the sense of the Kullback-Leibler divergence."""

import dataclasses
import math
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.optim.engine import Engine, Params
from steepest.optim.kronecker import add_gram_, eigh, power_step
from steepest.optim.options import Options
from steepest.optim.rule import Rule, State, Step, check, check_betas
from steepest.optim.soap import SIDES, rotate, rotate_back

Matrices = Float[Tensor, "batch m n"]
#: Eigenvalues of both factors before the first estimate.
FIRST_EIGENVALUE = 0.1


def largest_scale(size: int) -> float:
    r"""Return the largest $1 / \sqrt\lambda$ for a side: its length, between 10 and 4000.

    Args:
        size: Length of the side.
    """
    return float(max(10, min(size, 4000)))


def learn_(grad: Matrices, turned: Matrices, state: State, beta: float) -> None:
    r"""Update factors and eigenvalues in place.

    $L \leftarrow \beta L + \frac{1 - \beta}{n} G R^{-1} G^\top$, $R \leftarrow \beta R + \frac{1 - \beta}{m} G^\top
    L^{-1} G$, where the inverses are $Q \lambda^{-1} Q^\top$ of the eigenvalues before this call, and $\lambda_L
    \leftarrow \beta \lambda_L + (1 - \beta)\, \mathrm{diag}(Q_L^\top \frac{1}{n} G R^{-1} G^\top Q_L)$, $\lambda_R$
    likewise.

    Args:
        grad: $G$, (batch, m, n).
        turned: $Q_L^\top G Q_R$.
        state: `left`, `right`, their `basis_` and `scale_` ($1 / \sqrt\lambda$).
        beta: $\beta$.
    """
    (m, n), left, right = grad.shape[-2:], state["scale_left"], state["scale_right"]
    rows = (grad @ state["basis_right"]) * right[:, None, :]
    columns = (grad.mT @ state["basis_left"]) * left[:, None, :]
    add_gram_(state["left"], rows, decay=beta, weight=(1 - beta) / n)
    add_gram_(state["right"], columns, decay=beta, weight=(1 - beta) / m)
    seen_left = (turned * right[:, None, :]).square().mean(-1)
    seen_right = (turned * left[:, :, None]).square().mean(-2)
    for scale, seen in ((left, seen_left), (right, seen_right)):
        eigenvalues = scale.pow(-2).lerp(seen, 1 - beta)
        scale.copy_(eigenvalues.rsqrt().clamp_max(largest_scale(scale.shape[-1])))


def fill_(grad: Tensor, state: State, beta: float) -> None:
    """Take the first step: factors of the plain gradient and their eigenvectors.

    Args:
        grad: $G$, (batch, m, n).
        state: As `first_state` made it; changed.
        beta: Of the factors.
    """
    (m, n) = grad.shape[-2:]
    add_gram_(state["left"], grad, decay=beta, weight=(1 - beta) / n)
    add_gram_(state["right"], grad.mT, decay=beta, weight=(1 - beta) / m)
    for factor, basis in SIDES:
        state[basis].copy_(eigh(state[factor])[1])


def first_state(like: Tensor) -> State:
    """Return a zero average, zero factors, identities for bases and small eigenvalues.

    Args:
        like: A batch of matrices.
    """
    state = {"exp_avg": torch.zeros_like(like)}
    for size, (factor, basis) in zip(like.shape[-2:], SIDES, strict=True):
        state[factor] = like.new_zeros(len(like), size, size)
        state[basis] = torch.eye(size, dtype=like.dtype, device=like.device).repeat(len(like), 1, 1)
        state["scale_" + factor] = like.new_full((len(like), size), FIRST_EIGENVALUE**-0.5)
    return state


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLRule(Rule):
    """What KL-Shampoo and KL-SOAP have in common: their settings."""

    works_on = "matrices"
    lr: ClassVar[float] = 3e-3
    weight_decay: ClassVar[float] = 0.01
    entry_states: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    batch_entries: ClassVar[int | None] = 1 << 14
    cost: ClassVar[str] = "8 products, QR of both sides every f steps"

    betas: tuple[float, float] = (0.95, 0.95)
    eps: float = 1e-8
    precondition_frequency: int = 10

    def __post_init__(self) -> None:
        check_betas(self.betas)
        check("eps", self.eps, 0, math.inf, closed="()")
        check("precondition_frequency", self.precondition_frequency, 1, math.inf)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class KLShampooRule(KLRule):
    r"""The averaged gradient between two inverse square roots: $u = L^{-1/2} M R^{-1/2}$.

    $M \leftarrow \beta_1 M + (1 - \beta_1) G$. The factors are those of the Gaussian with covariance $R \otimes L$ that
    is nearest to the gradients' (`learn_`); the roots are $Q \lambda^{-1/2} Q^\top$, with $\epsilon$ added to
    $\sqrt{\lambda_L \lambda_R}$, and $1 / \sqrt\lambda$ no larger than `largest_scale`. $Q \leftarrow \mathrm{qr}(L Q)$
    every f steps. The first step finds Q and leaves the weights alone.

    Args:
        betas: $\beta_1$, and $\beta$ of the factors, in [0, 1).
        eps: $\epsilon$ above 0.
        precondition_frequency: f, at least 1.

    References:
        Lin et al. (2025), Understanding and improving Shampoo and SOAP via Kullback-Leibler minimization, arXiv
        2509.03378. Limits of the eigenvalues and first values as in implementations of it.
    """

    def init(self, like: Tensor) -> State:
        """Return a zero average, zero factors, identities and small eigenvalues."""
        return first_state(like)

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor | None:
        """Return $u$; None at the first step."""
        if step.count == 1:
            fill_(grad, state, self.betas[1])
            return None
        left, right = state["basis_left"], state["basis_right"]
        mean = state["exp_avg"].lerp_(grad, 1 - self.betas[0])
        scales = state["scale_left"][:, :, None] * state["scale_right"][:, None, :]
        direction = rotate_back(rotate(mean, left, right) * (scales / (1 + scales * self.eps)), left, right)
        learn_(grad, rotate(grad, left, right), state, self.betas[1])
        if (step.count - 1) % self.precondition_frequency == 0:
            for factor, basis in SIDES:
                state[basis].copy_(power_step(state[factor], state[basis], sort=False)[0])
        return direction


@final
class KLShampoo(Engine):
    r"""Shampoo whose factors minimize the Kullback-Leibler divergence: see `KLShampooRule` for the formula.

    Args:
        params: A model: its matrices and convolutions are stepped by KL-Shampoo, the rest by AdamW. Or matrices, or
            groups.
        lr: Learning rate above 0 of the matrices.
        betas: Of the gradient and of the factors, in [0, 1).
        eps: Added to the root of the eigenvalues, above 0.
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
        lr: float = KLShampooRule.lr,
        betas: tuple[float, float] = (0.95, 0.95),
        *,
        eps: float = 1e-8,
        weight_decay: float = KLShampooRule.weight_decay,
        precondition_frequency: int = 10,
        options: Options | None = None,
    ) -> None:
        rule = KLShampooRule(betas=betas, eps=eps, precondition_frequency=precondition_frequency)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
