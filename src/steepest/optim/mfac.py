# SPDX-License-Identifier: Apache-2.0
"""M-FAC: natural gradient with the exact inverse of a Fisher matrix made of the last m gradients."""

import dataclasses
import math
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.optim.dct_adamw import check_count
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options, one_of
from steepest.optim.rule import Rule, State, Step, Works, check

Average = Literal["seen", "window"]

#: Products of float32 gradients are summed in float32 inside blocks of this length and in float64 across them; the
#: error is this share of the product of the lengths.
_BLOCK = 4096
_BLOCK_ERROR = 4e-8
#: Largest relative error of the small system's solution that float32 products may cause; float64 ones are taken above.
_LARGEST_ERROR = 1e-3
#: N lambda is at least this share of the largest squared length in the window, times the root of its rows.
_LEAST_DAMPING = 1e-10
#: A sum of gradients that may lose more than this to rounding in float32 is taken in float64.
_LARGEST_LOSS = 1e-5


def inner_products(
    rows: Float[Tensor, "k d"], vector: Float[Tensor, " d"], *, exact: bool = True
) -> Float[Tensor, " k"]:
    """Return the product of each row with a vector, in float64.

    Args:
        rows: float32 or float64.
        vector: Of the same dtype.
        exact: Sum in float64; otherwise float32 is summed in float32 inside blocks, several times faster.

    Numerics:
        float32 with `exact=False`: exact to about 4e-8 of the product of the lengths, which must stay below 1e19.
    """
    if rows.dtype == torch.float64:
        return rows @ vector
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    block, dtype = (_BLOCK // 2, torch.float64) if exact else (_BLOCK, rows.dtype)
    for first in range(0, vector.numel(), block):
        total += rows[:, first : first + block].to(dtype) @ vector[first : first + block].to(dtype)
    return total


def fisher_weights(
    gram: Float[Tensor, "k k"], newest: int, *, damping: float, count: int, least: float
) -> Float[Tensor, " k"]:
    r"""Return $c$ with $F^{-1} g = \sum_i c_i g_i$ for $F = \lambda I + \frac1N \sum_i g_i g_i^\top$.

    The gradient $g$ is one of the $g_i$. From $F^{-1} G^\top = N G^\top (N \lambda I + G G^\top)^{-1}$ follows
    $c = N (N \lambda I + G G^\top)^{-1} e_g$. The usual form $\frac1\lambda (g - G^\top (N \lambda I + G G^\top)^{-1}
    G g)$ is a difference of nearly equal vectors of the length of the parameters where $\lambda$ is small.

    Args:
        gram: $G G^\top$ in float64.
        newest: Row of $g$.
        damping: $\lambda$ above 0.
        count: $N$.
        least: $N \lambda$ is raised to this share of the largest diagonal entry, so that the system stays positive
            definite in the precision in which it was computed.

    Example:
        >>> fisher_weights(torch.tensor([[4.0]], dtype=torch.float64), 0, damping=0.5, count=1, least=0.0)
        tensor([0.2222], dtype=torch.float64)
    """
    shift = torch.clamp(gram.diagonal().amax() * least, min=count * damping)
    system = gram + torch.diag_embed(shift.expand(len(gram)))
    target = torch.zeros(len(gram), 1, dtype=gram.dtype, device=gram.device)
    target[newest] = count
    factor, info = torch.linalg.cholesky_ex(system)
    solution = torch.cholesky_solve(target, factor).squeeze(-1)
    # A gradient with NaN or infinity leaves no factor: the direction is NaN, as its gradient is.
    return torch.where(info == 0, solution, torch.nan)


def weighted_sum(
    weights: Float[Tensor, " k"], rows: Float[Tensor, "k d"], gram: Float[Tensor, "k k"]
) -> Float[Tensor, "1 d"]:
    """Return the weighted sum of rows in their dtype, without loss where large weights cancel.

    Gradients that nearly repeat have large weights of either sign. What float32 may lose is known beforehand from the
    Gram matrix; if it is much, the sum is taken in float64, some thousand columns at a time.

    Args:
        weights: float64.
        rows: float32 or float64.
        gram: Products of the rows, float64.
    """
    single = weights.to(rows.dtype).unsqueeze(0)
    length = (weights @ gram @ weights).clamp_min(0).sqrt()
    terms = weights.abs() @ gram.diagonal().sqrt()
    if rows.dtype == torch.float64 or not terms * torch.finfo(rows.dtype).eps > _LARGEST_LOSS * length:
        return single @ rows
    result = torch.empty(1, rows.shape[1], dtype=rows.dtype, device=rows.device)
    for first in range(0, rows.shape[1], _BLOCK // 2):
        part = rows[:, first : first + _BLOCK // 2]
        result[0, first : first + _BLOCK // 2] = weights @ part.double()
    return result


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class MFACRule(Rule):
    r"""The natural gradient $u = F^{-1} g_t$, $F = \lambda I + \frac1N \sum_i g_i g_i^\top$ over the last gradients.

    The gradients of a whole group are one vector $g$ of length d; the last `window` of them are kept as rows of $G$,
    with $G G^\top$ in float64, of which a step computes one row. $v \leftarrow \mu v + (1 - \mu) u$ is the direction.

    Args:
        window: m, gradients kept, at least 1.
        damping: $\lambda$ above 0.
        momentum: $\mu$ in [0, 1), of the preconditioned direction.
        average: What N is before the window is full: `"seen"`, the gradients there are, or `"window"`, m, as
            published: rows not yet filled count as zero gradients, so early steps are up to m times longer.
        memory_limit: Largest size of the window in bytes.

    References:
        Frantar, Kurtic and Alistarh (2021), M-FAC: efficient matrix-free approximations of second-order information,
        arXiv 2107.03356.
    """

    works_on: ClassVar[Works] = "all parameters"
    lr: ClassVar[float] = 1e-3
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer",)
    cost: ClassVar[str] = "O(window d + window^3) for d parameters"
    needs: ClassVar[str] = "memory for `window` gradients"

    window: int = 1024
    damping: float = 1e-5
    momentum: float = 0.0
    average: Average = "seen"
    memory_limit: float = 4e9

    def __post_init__(self) -> None:
        check_count("window", self.window)
        check("damping", self.damping, 0, math.inf, closed="()")
        check("momentum", self.momentum, 0, 1)
        check("memory_limit", self.memory_limit, 0, math.inf, closed="(]")
        one_of("average", self.average, ("seen", "window"))

    def admit(self, entries: int, dtype: torch.dtype) -> None:
        """Refuse a group whose window is larger than `memory_limit`."""
        size = dtype.itemsize
        if entries * self.window * size > self.memory_limit:
            fits = int(self.memory_limit // (entries * size))
            raise ValueError(
                f"a window of {self.window} gradients of {entries} numbers takes "
                f"{entries * self.window * size / 1e9:.1f} GB, above memory_limit={self.memory_limit / 1e9:g} GB; "
                + (f"choose window={fits} or less, " if fits else "give fewer parameters, ")
                + "or raise memory_limit"
            )

    def init(self, like: Tensor) -> State:
        """Return an empty window, its Gram matrix, and zero momentum."""
        return {
            "window": like.new_zeros(self.window, like.shape[-1]),
            "gram": like.new_zeros(self.window, self.window, dtype=torch.float64),
            "momentum_buffer": torch.zeros_like(like),
        }

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return $v$."""
        window, gram = state["window"], state["gram"]
        if len(window) != self.window:
            raise ValueError(f"window cannot change during a run: the state has {len(window)} rows, got {self.window}")
        place, filled = (step.count - 1) % self.window, min(step.count, self.window)
        window[place].copy_(grad[0])
        count, known = filled if self.average == "seen" else self.window, gram[:filled, :filled]
        gram[place, place] = torch.linalg.vector_norm(grad, dtype=torch.float64).square()
        loss = _BLOCK_ERROR * math.sqrt(filled) * float(known.diagonal().amax())
        row = inner_products(window[:filled], grad[0], exact=loss > _LARGEST_ERROR * count * self.damping)
        gram[place, :filled] = row
        gram[:filled, place] = row
        least = _LEAST_DAMPING * math.sqrt(filled)
        weights = fisher_weights(known, place, damping=self.damping, count=count, least=least)
        natural = weighted_sum(weights, window[:filled], known)
        if not self.momentum:
            return natural
        return state["momentum_buffer"].lerp_(natural, 1 - self.momentum)


@final
class MFAC(Engine):
    r"""Natural gradient descent by the exact inverse Fisher matrix of the last `window` gradients.

    $W \leftarrow W - \eta v$ with $v$ from `MFACRule`; weight decay is added to the gradient (L2).

    Args:
        params: A model or parameters; each group is one vector with a window of its own. A parameter without a
            gradient counts as zero in that step and does not move.
        lr: Learning rate above 0.
        window: Gradients kept. The state is `window d` numbers for d parameters.
        damping: $\lambda$ above 0.
        momentum: $\mu$ in [0, 1), of the preconditioned direction.
        weight_decay: Coefficient of the regularization.
        average: `"seen"` or `"window"`, see `MFACRule`.
        memory_limit: Largest size of the window in bytes; a larger one is refused.
        options: What the engine does around the rule.

    Raises:
        ValueError: If a number is out of range, or the window would be larger than `memory_limit`.

    Numerics:
        The Gram matrix and its factor are float64. Float32 gradients are multiplied and summed in float32 (exact to
        4e-8 of their lengths) where the damping makes that harmless, and in float64, which takes several times as
        long, where it does not: small $N \lambda$ beside the squared lengths, or gradients that nearly repeat. Where
        $N \lambda$ is less than $10^{-10} \sqrt m$ of the largest squared length in the window, it is raised to that.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(3, 1, bias=False)
        >>> optimizer = MFAC(layer, window=8, damping=1e-3)
        >>> layer(torch.ones(3)).sum().backward()
        >>> optimizer.step()
        >>> tuple(optimizer.state[layer.weight]["window"].shape)
        (8, 3)

    References:
        Frantar, Kurtic and Alistarh (2021), arXiv 2107.03356; defaults of its code. Deviations: a Cholesky factor of
        the Gram matrix in place of the recursion, which gives the same direction, and `average="seen"`.
    """

    default_decay = "l2"

    def __init__(
        self,
        params: Params,
        lr: float = MFACRule.lr,
        *,
        window: int = 1024,
        damping: float = 1e-5,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        average: Average = "seen",
        memory_limit: float = 4e9,
        options: Options | None = None,
    ) -> None:
        rule = MFACRule(window=window, damping=damping, momentum=momentum, average=average, memory_limit=memory_limit)
        super().__init__(params, rule, lr=lr, weight_decay=weight_decay, options=options)
