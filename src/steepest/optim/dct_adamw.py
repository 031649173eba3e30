# SPDX-License-Identifier: Apache-2.0
"""DCT-AdamW: Adam on the largest cosine coefficients of a matrix, with the rest kept for later."""

import dataclasses
import math
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from steepest.geometry.subspace import DCTSubspace, Projection
from steepest.optim.engine import Engine, Params
from steepest.optim.low_rank import kept_columns, lift, move_columns_, short_last, take_off_
from steepest.optim.options import Options, one_of
from steepest.optim.rule import Rule, State, Step, Works, check, check_betas

BiasCorrection = Literal["step", "column"]


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class DCTAdamWRule(Rule):
    r"""The direction of Adam in a subspace of cosines, for matrices with n columns, the short side.

    With $Q$ the orthogonal $n \times n$ matrix of cosines: $A = G + E$; $I$ the `rank` columns of $A Q$ of largest
    norm; $B = Q_{:,I}$, $a = A B$, $E \leftarrow A - a B^\top$; $m, v$ Adam's averages of $a$ and $a^2$, and
    $u = \frac{\hat m}{\sqrt{\hat v} + \epsilon} B^\top$. A wide matrix is transposed first.

    A column that stays chosen keeps its moments and one that comes in starts at zero: exactly what the rotation
    $R = B_\text{old}^\top B_\text{new}$ does, which is a partial permutation here.

    Args:
        rank: Columns kept, at least 1; a matrix whose short side is smaller is stepped whole.
        betas: $\beta_1, \beta_2$ in [0, 1).
        eps: $\epsilon$ above 0, outside the root and after the correction.
        update_proj_gap: Steps between two choices of columns, at least 1.
        error_feedback: Keep $E$, one number for each entry (`Options.state_dtype` may keep it in fewer bits); without
            it what the subspace leaves out of a gradient is lost.
        order: Columns are compared by their l1 (1) or l2 (2) norm; 2 minimizes $\|E\|_F$.
        bias_correction: `"step"` divides by $1 - \beta^t$ with t the step, as published: a column that comes in late
            then moves by up to $(1 - \beta_1)/\sqrt{1 - \beta_2}$, 3.2 at the default, where Adam moves by 1.
            `"column"` counts the steps of each column since it came in.

    References:
        Modoranu et al. (2025), SVD-free low-rank adaptive gradient optimization, arXiv 2505.17967.
    """

    works_on: ClassVar[Works] = "matrices"
    lr: ClassVar[float] = 1e-3
    entry_states: ClassVar[tuple[str, ...]] = ("error",)
    cost: ClassVar[str] = "products of m x n by n x n and n x rank"

    rank: int = 128
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    update_proj_gap: int = 1
    error_feedback: bool = True
    order: Literal[1, 2] = 1
    bias_correction: BiasCorrection = "step"

    def __post_init__(self) -> None:
        check_count("rank", self.rank)
        check_count("update_proj_gap", self.update_proj_gap)
        check_betas(self.betas)
        check("eps", self.eps, 0, math.inf, closed="()")
        one_of("order", self.order, (1, 2))
        one_of("bias_correction", self.bias_correction, ("step", "column"))

    def init(self, like: Tensor) -> State:
        """Return zero averages of `rank` columns, no columns chosen, and no error."""
        batch, m, n = like.shape
        rank = min(self.rank, m, n)
        state = {
            "indices": torch.full((batch, rank), -1, dtype=torch.int64, device=like.device),
            "exp_avg": like.new_zeros(batch, max(m, n), rank),
            "exp_avg_sq": like.new_zeros(batch, max(m, n), rank),
        }
        if self.bias_correction == "column":
            state["age"] = like.new_zeros(batch, 1, rank)
        if self.error_feedback:
            state["error"] = torch.zeros_like(like)
        return state

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $u$."""
        wide = grad.shape[-2] < grad.shape[-1]
        total = state["error"].add_(grad) if self.error_feedback else grad
        chosen = self._project(short_last(total), state, step)
        if self.error_feedback:
            take_off_(total, chosen.coefficients, chosen.basis)
        return lift(self._adam(chosen.coefficients, state, step), chosen.basis, wide=wide)

    def _project(self, a: Tensor, state: State, step: Step) -> Projection:
        subspace, before = DCTSubspace(order=self.order), state["indices"]
        rank = before.shape[-1]
        if rank != min(self.rank, *a.shape[-2:]):
            raise ValueError(f"the rank cannot change during a run: the state has {rank} columns, rank is {self.rank}")
        if (step.count - 1) % self.update_proj_gap:
            return subspace.at(a, before)
        chosen = subspace.project(a, rank)
        assert chosen.indices is not None
        if not torch.equal(before, chosen.indices):
            place, kept = kept_columns(before, chosen.indices)
            for name in ("exp_avg", "exp_avg_sq", "age"):
                if name in state:
                    move_columns_(state[name], place, kept)
            before.copy_(chosen.indices)
        return chosen

    def _adam(self, a: Tensor, state: State, step: Step) -> Tensor:
        (beta1, beta2), t = self.betas, step.count
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(a, 1 - beta1)
        square.mul_(beta2).addcmul_(a, a, value=1 - beta2)
        if self.bias_correction == "step":
            root = (square / (1 - beta2**t)).sqrt_().add_(self.eps)
            return (mean / root).mul_(1 / (1 - beta1**t))
        age = state["age"].add_(1)
        root = (square / (1 - beta2**age)).sqrt_().add_(self.eps)
        return (mean / root).div_(1 - beta1**age)


def check_count(name: str, value: object) -> None:
    """Refuse what is no whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")


@final
class DCTAdamW(Engine):
    r"""AdamW on the largest cosine coefficients of each matrix: state for `rank` columns in place of all.

    $W \leftarrow (1 - \eta\lambda) W - \eta u$ with $u$ from `DCTAdamWRule`.

    Args:
        params: A model (matrices and convolutions by this rule, the rest by AdamW), matrices, or groups.
        lr: Learning rate above 0.
        rank: Columns kept; 128 is our choice, the others are the published defaults.
        betas: See `DCTAdamWRule`.
        eps: See `DCTAdamWRule`.
        weight_decay: $\lambda$, decoupled.
        update_proj_gap: Steps between two choices of columns.
        error_feedback: Keep what the subspace leaves out. The state is `2 rank max(m, n)` numbers without, `mn` more
            with it (a quarter of that in bytes with `Options(state_dtype="8bit")`).
        order: Norm by which columns are chosen, 1 or 2.
        bias_correction: `"step"` or `"column"`.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, a parameter is not a matrix, or `rank` changes during a run.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(64, 32, bias=False)
        >>> optimizer = DCTAdamW([layer.weight], rank=4, error_feedback=False)
        >>> layer(torch.ones(64)).sum().backward()
        >>> optimizer.step()
        >>> sum(t.numel() for t in optimizer.state[layer.weight].values() if torch.is_tensor(t))  # 2 * 64 * 4 + 4
        516

    References:
        Modoranu et al. (2025), arXiv 2505.17967. Deviations: matrices and Fourier transforms use one and the same
        basis; moments are moved, not rotated; every shape is stepped, with a basis of its own size.
    """

    def __init__(
        self,
        params: Params,
        lr: float = DCTAdamWRule.lr,
        *,
        rank: int = 128,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        update_proj_gap: int = 1,
        error_feedback: bool = True,
        order: Literal[1, 2] = 1,
        bias_correction: BiasCorrection = "step",
        options: Options | None = None,
    ) -> None:
        rule = DCTAdamWRule(
            rank=rank,
            betas=betas,
            eps=eps,
            update_proj_gap=update_proj_gap,
            error_feedback=error_feedback,
            order=order,
            bias_correction=bias_correction,
        )
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
