# SPDX-License-Identifier: Apache-2.0
"""SOAP: Adam in the eigenbasis of Shampoo's factors."""

import dataclasses
import math
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.optim.engine import Engine, Params
from steepest.optim.kronecker import add_gram_, eigh, permuted, power_step
from steepest.optim.options import Options
from steepest.optim.rule import Rule, State, Step, check

Matrices = Float[Tensor, "batch m n"]
#: Of each side of a matrix: the factor, its eigenvectors.
SIDES = (("left", "basis_left"), ("right", "basis_right"))


def rotate(x: Matrices, left: Tensor | None, right: Tensor | None) -> Matrices:
    r"""Return $Q_L^\top X Q_R$; a side without a basis is left alone.

    Args:
        x: $X$.
        left: $Q_L$, (batch, m, m).
        right: $Q_R$, (batch, n, n).
    """
    x = x if left is None else left.mT @ x
    return x if right is None else x @ right


def rotate_back(x: Matrices, left: Tensor | None, right: Tensor | None) -> Matrices:
    r"""Return $Q_L X Q_R^\top$; a side without a basis is left alone.

    Args:
        x: $X$.
        left: $Q_L$, (batch, m, m).
        right: $Q_R$, (batch, n, n).
    """
    x = x if left is None else left @ x
    return x if right is None else x @ right.mT


def adam_(
    grad: Matrices, exp_avg: Matrices, exp_avg_sq: Matrices, *, betas: tuple[float, float], eps: float
) -> Matrices:
    r"""Update both averages in place and return $m / (\sqrt v + \epsilon)$, without any correction of bias.

    Args:
        grad: $g$; not changed.
        exp_avg: $m \leftarrow \beta_1 m + (1 - \beta_1) g$.
        exp_avg_sq: $v \leftarrow \beta_2 v + (1 - \beta_2) g^2$.
        betas: $\beta_1, \beta_2$.
        eps: $\epsilon$.
    """
    exp_avg.lerp_(grad, 1 - betas[0])
    exp_avg_sq.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    return torch.div(exp_avg, exp_avg_sq.sqrt().add_(eps))


def refresh_bases_(state: State, *, sort: bool = True) -> None:
    """Take a power step in each basis, in place, and bring both averages into the new coordinates.

    Args:
        state: With `exp_avg` (rotated), `exp_avg_sq` (columns and rows follow their basis vectors) and the sides.
        sort: See `power_step`.
    """
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    for dim, (factor, basis) in zip((-2, -1), SIDES, strict=True):
        if factor not in state:
            continue
        old = state[basis]
        new, order = power_step(state[factor], old, sort=sort)
        # One side at a time: there and back costs two products, whatever the other side does.
        turned = new.mT @ (old @ mean) if dim == -2 else (mean @ old.mT) @ new
        mean.copy_(turned)
        if sort:
            square.copy_(permuted(square, order, dim))
        old.copy_(new)


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class SOAPRule(Rule):
    r"""Adam in a slowly turning basis, for matrices.

    With $G' = Q_L^\top G Q_R$: $m' \leftarrow \beta_1 m' + (1 - \beta_1) G'$, $v' \leftarrow \beta_2 v' + (1 - \beta_2)
    G'^2$, $u = \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}\, Q_L \frac{m'}{\sqrt{v'} + \epsilon} Q_R^\top$. After that
    $L \leftarrow \beta L + (1 - \beta) G G^\top$, $R \leftarrow \beta R + (1 - \beta) G^\top G$, and every f steps
    $Q \leftarrow \mathrm{qr}(L Q)$ with the columns sorted by $q^\top L q$, $v'$ permuted likewise and $m'$ turned into
    the new basis: a gradient never enters its own basis. The first step fills L and R, finds Q by an eigendecomposition
    and leaves the weights alone; t counts from the second.

    Args:
        betas: $\beta_1, \beta_2$ in [0, 1).
        shampoo_beta: $\beta$ in [0, 1); None takes $\beta_2$.
        eps: $\epsilon$ above 0, outside the root, not corrected for bias.
        precondition_frequency: f, at least 1.
        max_preconditioner_dim: A longer side keeps its own coordinates, without factor and basis.
        correct_bias: Whether $u$ has its first factor.
        stagger: Refresh the bases of different matrices in different steps, each every f steps: the same average cost,
            spread evenly. Off is the method as published.

    References:
        Vyas et al. (2024), SOAP: improving and stabilizing Shampoo using Adam, arXiv 2409.11321, algorithm 3.
    """

    works_on = "matrices"
    lr: ClassVar[float] = 3e-3
    weight_decay: ClassVar[float] = 0.01
    entry_states: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    batch_entries: ClassVar[int | None] = 1 << 14
    cost: ClassVar[str] = "6 products, QR of both sides every f steps"

    betas: tuple[float, float] = (0.95, 0.95)
    shampoo_beta: float | None = None
    eps: float = 1e-8
    precondition_frequency: int = 10
    max_preconditioner_dim: int = 10000
    correct_bias: bool = True
    stagger: bool = False

    def __post_init__(self) -> None:
        for i in (0, 1):
            check(f"betas[{i}]", self.betas[i], 0, 1)
        if self.shampoo_beta is not None:
            check("shampoo_beta", self.shampoo_beta, 0, 1)
        check("eps", self.eps, 0, math.inf, closed="()")
        check("precondition_frequency", self.precondition_frequency, 1, math.inf)
        check("max_preconditioner_dim", self.max_preconditioner_dim, 0, math.inf)

    def init(self, like: Tensor) -> State:
        """Return zero averages and factors, and identities for bases."""
        state = {name: torch.zeros_like(like) for name in self.entry_states}
        for size, (factor, basis) in zip(like.shape[-2:], SIDES, strict=True):
            if size <= self.max_preconditioner_dim:
                state[factor] = like.new_zeros(len(like), size, size)
                state[basis] = torch.eye(size, dtype=like.dtype, device=like.device).repeat(len(like), 1, 1)
        if self.stagger:
            state["phase"] = torch.zeros(len(like), dtype=torch.int64, device=like.device)
        return state

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor | None:
        """Return $u$; None at the first step."""
        if step.count == 1:
            self._learn(grad, state)
            for factor, basis in SIDES:
                if factor in state:
                    state[basis].copy_(eigh(state[factor])[1])
            if "phase" in state:
                state["phase"].copy_(step.place + torch.arange(len(grad), device=grad.device))
            return None
        t, left, right = step.count - 1, state.get("basis_left"), state.get("basis_right")
        turned = rotate(grad, left, right)
        turned = adam_(turned, state["exp_avg"], state["exp_avg_sq"], betas=self.betas, eps=self.eps)
        if self.correct_bias:
            turned.mul_(math.sqrt(1 - self.betas[1] ** t) / (1 - self.betas[0] ** t))
        direction = rotate_back(turned, left, right)
        self._learn(grad, state)
        self._refresh(state, t)
        return direction

    def _learn(self, grad: Tensor, state: State) -> None:
        beta = self.betas[1] if self.shampoo_beta is None else self.shampoo_beta
        for (factor, _), rows in zip(SIDES, (grad, grad.mT), strict=True):
            if factor in state:
                add_gram_(state[factor], rows, decay=beta, weight=1 - beta)

    def _refresh(self, state: State, t: int) -> None:
        if "phase" not in state or not self.stagger:
            if t % self.precondition_frequency == 0:
                refresh_bases_(state)
            return
        due = ((state["phase"] + t) % self.precondition_frequency == 0).nonzero().flatten().tolist()
        for i in due:
            refresh_bases_({name: tensor[i : i + 1] for name, tensor in state.items()})


@final
class SOAP(Engine):
    r"""Adam in the eigenbasis of Shampoo's factors: see `SOAPRule` for the formula.

    Args:
        params: A model: its matrices and convolutions are stepped by SOAP, the rest by AdamW. Or matrices, or groups.
        lr: Learning rate above 0 of the matrices.
        betas: $\beta_1, \beta_2$ in [0, 1).
        shampoo_beta: Of the factors, in [0, 1); None takes $\beta_2$.
        eps: Added outside the root, above 0.
        weight_decay: Decoupled, times the learning rate.
        precondition_frequency: Steps between two refreshments of the bases.
        max_preconditioner_dim: Longer sides keep their own coordinates.
        correct_bias: Correct the averages for their start at zero.
        stagger: Spread the refreshments evenly over the steps.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a real floating-point matrix.

    Numerics:
        Factors and bases are float32 (float64 for float64 parameters). The first basis falls back on float64 and on
        damping where the eigensolver gives up; a factor that overflowed keeps its last basis.

    References:
        Vyas et al. (2024), arXiv 2409.11321; defaults of the authors' implementation. Deviation: weights decay before
        the step instead of after it, a difference of $\eta^2 \lambda u$. Not here: merging of small dimensions,
        preconditioned vectors, normalized updates.
    """

    def __init__(
        self,
        params: Params,
        lr: float = SOAPRule.lr,
        betas: tuple[float, float] = (0.95, 0.95),
        *,
        shampoo_beta: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = SOAPRule.weight_decay,
        precondition_frequency: int = 10,
        max_preconditioner_dim: int = 10000,
        correct_bias: bool = True,
        stagger: bool = False,
        options: Options | None = None,
    ) -> None:
        rule = SOAPRule(
            betas=betas,
            shampoo_beta=shampoo_beta,
            eps=eps,
            precondition_frequency=precondition_frequency,
            max_preconditioner_dim=max_preconditioner_dim,
            correct_bias=correct_bias,
            stagger=stagger,
        )
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
