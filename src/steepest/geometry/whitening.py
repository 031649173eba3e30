# SPDX-License-Identifier: Apache-2.0
"""Whitening by the coupled Newton-Schulz iteration, for the constants for which it converges."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ._exact import _scaled_finite
from ._inputs import check_budget, compute_tensor, one_where_zero
from .multinorm import Normalized


def whiten(x: Float[Tensor, "*batch m n"], *, steps: int = 10, b: float = 0.5, tol: float | None = None) -> Normalized:
    r"""Return $(X X^\top)^{-1/2} X$ by the coupled Newton-Schulz iteration, with its distance from a whitened matrix.

    With $Y_0 = X X^\top / \|X X^\top\|_F$ and $Z_0 = I$ each step is $T = 3I - ZY$, $Y \leftarrow b\,YT$,
    $Z \leftarrow b\,TZ$, and the result is $Z X$ in the scale of the fixed point. The limit is the polar factor
    $U V^\top$, which `exact_polar` gives directly; this iteration is here because SWAN is defined by it. The short side
    is whitened: a tall matrix gives $X (X^\top X)^{-1/2}$.

    **Which b converges.** Each eigenvalue $w$ of $ZY$ obeys $w \leftarrow b^2 w (3 - w)^2$. Its fixed point
    $w^* = 3 - 1/b$ has multiplier $3 - 6b$, so the iteration converges for $1/3 < b < 2/3$ only, quadratically for
    $b = 1/2$. The value $b = 0.8$ found in several copies of SWAN has multiplier $-1.8$: it never settles, and is
    refused here.

    Args:
        x: Matrices, shape `(*batch, m, n)`.
        steps: The largest number of steps, at least 1. A singular value of relative size $\sigma$ needs about
            $\log_{1.5}(1/\sigma)$ of them at $b = 1/2$, so 10 steps leave 0.01 at 0.5.
        b: In the open interval (1/3, 2/3).
        tol: Stop once every matrix has `residual <= tol`.

    Returns:
        `Normalized(x, residual, steps, converged)`; the residual is $\|W W^\top - I\|_F / \sqrt r$ for the result $W$
        with its short side $r$ as rows. It cannot vanish for a rank-deficient matrix.

    Raises:
        TypeError: The dtype is not a real floating one.
        ValueError: Fewer than two dimensions, an empty matrix, `steps < 1`, or `b` outside (1/3, 2/3).

    Numerics:
        Half precision is computed in float32. NaN or inf in a matrix makes its result NaN.

    Example:
        >>> import torch
        >>> whiten(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), tol=1e-5).x
        tensor([[1.0000, 0.0000],
                [0.0000, 1.0000]])

    References:
        Ma et al. (2024), SWAN, arXiv 2412.13148. Deviation: the scale of the fixed point, $\sqrt{3 - 1/b}$, is divided
        out, so every admissible `b` has the same limit.
    """
    check_budget(steps, tol)
    if not 1 / 3 < b < 2 / 3:
        raise ValueError(
            f"b must lie in (1/3, 2/3), got {b}: at the fixed point an error is multiplied by 3 - 6 b = {3 - 6 * b:g} "
            "in each step, so the iteration does not converge; use b=0.5"
        )
    work = compute_tensor(x, 2, "whiten")
    tall = work.shape[-2] > work.shape[-1]
    scaled, finite, _ = _scaled_finite(work.mT if tall else work)
    result, residual, made = _coupled_newton_schulz(scaled, steps, b, tol)
    result = torch.where(finite, result, torch.nan)
    residual = torch.where(finite[..., 0, 0], residual, torch.nan)
    converged = residual <= tol if tol is not None else torch.zeros_like(residual, dtype=torch.bool)
    return Normalized((result.mT if tall else result).to(x.dtype), residual, made, converged)


def _coupled_newton_schulz(wide: Tensor, steps: int, b: float, tol: float | None) -> tuple[Tensor, Tensor, int]:
    """Run the iteration for any `b`; return the result, its residual and the steps made."""
    gram = wide @ wide.mT
    size = one_where_zero(torch.linalg.matrix_norm(gram, keepdim=True))
    y = gram / size
    identity = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
    z = identity
    factor = (3 - 1 / b) ** -0.5 if b > 1 / 3 else 1.0
    side = math.sqrt(y.shape[-1])
    made, residual = 0, wide.new_zeros(())
    while made < steps:
        t = 3 * identity - z @ y
        y, z = b * (y @ t), b * (t @ z)
        made += 1
        if tol is not None or made == steps:
            # y z = y_0 z^2 = W W^T, so the residual needs no product with the long matrix.
            residual = torch.linalg.matrix_norm(factor**2 * (y @ z) - identity) / side
            if tol is not None and bool((residual <= tol).all()):
                break
    return factor * (z @ (wide / size.sqrt())), residual, made
