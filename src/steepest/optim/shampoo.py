# SPDX-License-Identifier: Apache-2.0
"""Shampoo: gradients preconditioned by roots of their second moments, rows and columns apart."""

import dataclasses
import math
from typing import ClassVar, Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.optim.engine import Engine, Params
from steepest.optim.grafting import graft
from steepest.optim.kronecker import add_gram_, inverse_root_
from steepest.optim.options import Options, one_of
from steepest.optim.rule import Rule, State, Step, check, check_betas

Accumulation = Literal["ema", "sum"]
Grafting = Literal["adam", "sgd", "none"]
Matrices = Float[Tensor, "batch m n"]
#: Of each side of a matrix: the factor, its inverse root.
SIDES = (("left", "root_left"), ("right", "root_right"))


def precondition(x: Matrices, left: Tensor | None, right: Tensor | None) -> Matrices:
    r"""Return $P_L X P_R$; a side without a matrix is left alone.

    Args:
        x: $X$.
        left: $P_L$, (batch, m, m).
        right: $P_R$, (batch, n, n).
    """
    x = x if left is None else left @ x
    return x if right is None else x @ right


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class ShampooRule(Rule):
    r"""The averaged gradient between two inverse roots: $u = L^{-p} \hat M R^{-p}$.

    $M \leftarrow \beta_1 M + (1 - \beta_1) G$, $\hat M = M / (1 - \beta_1^t)$. With `accumulation="ema"` $L \leftarrow
    \beta_2 L + (1 - \beta_2) G G^\top$, $R \leftarrow \beta_2 R + (1 - \beta_2) G^\top G$, both divided by $1 -
    \beta_2^t$ before the root; with `"sum"` $L \leftarrow L + G G^\top$, $R \leftarrow R + G^\top G$. The root of $L =
    V \lambda V^\top$ is $V (\lambda + \epsilon \lambda_1)^{-p} V^\top$, made in the first of every f steps, the
    gradient of that step included.

    A side longer than `max_preconditioner_dim` has no factor; the other side's exponent is then $2p$, so that the
    direction scales with the gradient as before. Where both are longer, entries are divided by $(s + \epsilon \max
    s)^{2p}$ with the squares $s$ accumulated like L: a diagonal preconditioner.

    Args:
        betas: $\beta_1, \beta_2$ in [0, 1).
        exponent: $p$ above 0: 1/4 as first published, 1/2 for two sides of power 1/2.
        accumulation: `"ema"` or `"sum"`.
        eps: $\epsilon$ in [0, 1), relative to the largest eigenvalue; at least n units of rounding are taken.
        precondition_frequency: f, at least 1.
        max_preconditioner_dim: Longest side that is preconditioned.
        grafting: What gives each matrix its length: `"adam"` the norm of $\hat M / (\sqrt{\hat v} + \epsilon_g)$ with
            $v$ the average of squares under $\beta_2$; `"sgd"` that of $\hat M$; `"none"` leaves $u$ as it is.
        grafting_eps: $\epsilon_g$ above 0.

    References:
        Gupta, Koren and Singer (2018), Shampoo: preconditioned stochastic tensor optimization, arXiv 1802.09568. Anil
        et al. (2020), Scalable second order optimization for deep learning, arXiv 2002.09018 (grafting). Shi et al.
        (2023), A distributed data-parallel PyTorch implementation of the distributed Shampoo optimizer for training
        neural networks at-scale, arXiv 2309.06497. Morwani et al. (2024), A new perspective on Shampoo's
        preconditioner, arXiv 2406.17748 (the power 1/2).
    """

    works_on = "matrices"
    lr: ClassVar[float] = 1e-3
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer", "exp_avg_sq", "squares")
    batch_entries: ClassVar[int | None] = 1 << 14
    cost: ClassVar[str] = "4 products, eigh of both sides every f steps"

    betas: tuple[float, float] = (0.9, 0.999)
    exponent: float = 0.25
    accumulation: Accumulation = "ema"
    eps: float = 1e-6
    precondition_frequency: int = 10
    max_preconditioner_dim: int = 8192
    grafting: Grafting = "adam"
    grafting_eps: float = 1e-8

    def __post_init__(self) -> None:
        check_betas(self.betas)
        check("exponent", self.exponent, 0, math.inf, closed="()")
        check("eps", self.eps, 0, 1)
        check("grafting_eps", self.grafting_eps, 0, math.inf, closed="()")
        check("precondition_frequency", self.precondition_frequency, 1, math.inf)
        check("max_preconditioner_dim", self.max_preconditioner_dim, 0, math.inf)
        one_of("accumulation", self.accumulation, get_args(Accumulation))
        one_of("grafting", self.grafting, get_args(Grafting))

    def init(self, like: Tensor) -> State:
        """Return zero averages and factors, and identities for roots."""
        state = {"momentum_buffer": torch.zeros_like(like)}
        if self.grafting == "adam":
            state["exp_avg_sq"] = torch.zeros_like(like)
        for size, (factor, root) in zip(like.shape[-2:], SIDES, strict=True):
            if size <= self.max_preconditioner_dim:
                state[factor] = like.new_zeros(len(like), size, size)
                state[root] = torch.eye(size, dtype=like.dtype, device=like.device).repeat(len(like), 1, 1)
        if "left" not in state and "right" not in state:
            state["squares"] = torch.zeros_like(like)
        return state

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $u$, with the length that grafting gives it."""
        beta1, t = self.betas[0], step.count
        mean = state["momentum_buffer"].lerp_(grad, 1 - beta1) / (1 - beta1**t)
        self._learn(grad, state, t)
        if "squares" in state:
            direction = self._entrywise(mean, state["squares"])
        else:
            direction = precondition(mean, state.get("root_left"), state.get("root_right"))
        if self.grafting == "none":
            return direction
        return graft(direction, self._magnitude(grad, mean, state, t))

    def _learn(self, grad: Tensor, state: State, t: int) -> None:
        beta2 = self.betas[1]
        decay, weight = (beta2, 1 - beta2) if self.accumulation == "ema" else (1.0, 1.0)
        if "squares" in state:
            state["squares"].mul_(decay).addcmul_(grad, grad, value=weight)
            return
        sides = [side for side in SIDES if side[0] in state]
        exponent = self.exponent * (2 if len(sides) == 1 else 1)
        for factor, root in sides:
            add_gram_(state[factor], grad if factor == "left" else grad.mT, decay=decay, weight=weight)
            if (t - 1) % self.precondition_frequency == 0:
                scale = 1 - beta2**t if self.accumulation == "ema" else 1.0
                inverse_root_(state[root], state[factor] / scale, exponent, self.eps)

    def _entrywise(self, mean: Tensor, squares: Tensor) -> Tensor:
        # The bias of `squares` is left: grafting removes it, and it is a factor of the whole matrix.
        least = max(self.eps, torch.finfo(squares.dtype).eps) * squares.amax((-2, -1), keepdim=True)
        damped = squares + torch.where(least > 0, least, 1.0)
        return mean * damped.pow(-2 * self.exponent)

    def _magnitude(self, grad: Tensor, mean: Tensor, state: State, t: int) -> Tensor:
        if self.grafting == "sgd":
            return mean
        beta2, square = self.betas[1], state["exp_avg_sq"]
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        return mean / (square / (1 - beta2**t)).sqrt_().add_(self.grafting_eps)


@final
class Shampoo(Engine):
    r"""Gradients preconditioned by roots of their second moments: see `ShampooRule` for the formula.

    Args:
        params: A model: its matrices and convolutions are stepped by Shampoo, the rest by AdamW. Or matrices, or
            groups.
        lr: Learning rate above 0 of the matrices; with grafting onto Adam, that of Adam.
        betas: Of the gradient and of the factors, in [0, 1).
        exponent: $p$ of both roots above 0: 1/4 as first published, or 1/2.
        accumulation: Factors are averages (`"ema"`) or sums (`"sum"`).
        eps: Damping relative to the largest eigenvalue, in [0, 1).
        weight_decay: Decoupled, times the learning rate.
        precondition_frequency: Steps for which a root is used.
        max_preconditioner_dim: Longer sides are not preconditioned.
        grafting: `"adam"`, `"sgd"` or `"none"`.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a real floating-point matrix.

    Numerics:
        Roots come from an eigendecomposition in the dtype of the state, in float64 where that gives up; a factor that
        is not finite keeps its last root.

    References:
        Gupta, Koren and Singer (2018), arXiv 1802.09568; Shi et al. (2023), arXiv 2309.06497. Deviations: damping is
        relative instead of a number of the gradient's own unit; roots are used from the first step on.
    """

    def __init__(
        self,
        params: Params,
        lr: float = ShampooRule.lr,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        exponent: float = 0.25,
        accumulation: Accumulation = "ema",
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        precondition_frequency: int = 10,
        max_preconditioner_dim: int = 8192,
        grafting: Grafting = "adam",
        options: Options | None = None,
    ) -> None:
        rule = ShampooRule(
            betas=betas,
            exponent=exponent,
            accumulation=accumulation,
            eps=eps,
            precondition_frequency=precondition_frequency,
            max_preconditioner_dim=max_preconditioner_dim,
            grafting=grafting,
        )
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
