# SPDX-License-Identifier: Apache-2.0
"""A polar iteration as a value: coefficients, the scaling they need, the interval they serve, the error they reach."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.geometry.certify import (
    LARGEST_ERROR,
    Certificate,
    Coefficients,
    Normalization,
    certify,
    check_coefficients,
)
from steepest.geometry.polar_coefficients import PUBLISHED
from steepest.geometry.polar_steps import iterate, largest_entry
from steepest.kernels import matrices

_LARGEST_DEGREE = 9
#: Largest share of an output singular value that may be rounding noise of an accumulated Gram matrix.
_GRAM_NOISE = 0.1
_COMPUTE_DTYPES = (torch.bfloat16, torch.float32, torch.float64)


@final
@dataclass(frozen=True)
class PolarIteration:
    r"""Odd polynomials $p_T \circ \dots \circ p_1$ that send singular values towards 1.

    Each step is $X \leftarrow a X + (b A + c A^2 + ...) X$ with $A = X X^\top$. The constructor has the list certified
    and refuses one that can flip a sign, diverge, or drop a direction.

    Attributes:
        coefficients: One row (a, b, c, ...) for each step, up to degree 9.
        normalization: What brings every singular value into (0, u], u = `interval[1]`: `"frobenius"` divides by the
            Frobenius norm, `"schatten4"` and `"schatten8"` by that Schatten norm, read off the products of the first
            step at no cost and up to $\sqrt{m}$ times nearer to the largest singular value; `"spectral-bound"` by
            the better of $\|A\|_\infty^{1/2}$ and the Schatten-4 norm; `"aol"` scales each row (of the short side)
            by $(\sum_j |A_{ij}|)^{-1/2}$, which changes the polar factor itself: the result is that of the scaled
            matrix.
        interval: $[l, u]$ of singular values, after the scaling, for which the certificate's error holds.
        dtype: What the matrix products are computed in: bfloat16, float32 or float64; None takes float32, and float64
            for float64 input.
        restart: Accumulate this many steps on the small Gram matrix before touching `x` (Gram-Newton-Schulz): fewer
            operations when n is much larger than m. 1 is the ordinary iteration. Rounding errors of a Gram matrix grow
            by the square of the accumulated slope; a number of steps for which they would pass 0.1 is refused.
        name: For tables.
        tol: Largest error on the interval that is accepted.

    Raises:
        ValueError: From the constructor, when the certifier refuses the list, a degree is above 9, `restart` is below
            1 or `dtype` is not one of the three.

    Example:
        >>> import torch
        >>> iteration = published_iteration("polar-express", steps=6)
        >>> q = iteration(torch.eye(3) * 5)
        >>> bool((q - torch.eye(3)).abs().max() < 2e-3)
        True
    """

    coefficients: Coefficients
    normalization: Normalization = "frobenius"
    interval: tuple[float, float] = (1e-3, 1.0)
    dtype: torch.dtype | None = None
    restart: int = 1
    name: str = field(default="custom", compare=False)
    tol: float = LARGEST_ERROR

    def __post_init__(self) -> None:
        object.__setattr__(self, "coefficients", check_coefficients(self.coefficients))
        if max(map(len, self.coefficients)) > (_LARGEST_DEGREE + 1) // 2:
            raise ValueError(f"expected odd polynomials up to degree {_LARGEST_DEGREE}, got {self.coefficients}")
        if self.restart < 1:
            raise ValueError(f"restart must be 1 or more, got {self.restart}")
        if self.dtype is not None and self.dtype not in _COMPUTE_DTYPES:
            raise ValueError(f"dtype must be bfloat16, float32, float64 or None, got {self.dtype}")
        self.certificate.require()
        self._check_restart()

    def _check_restart(self) -> None:
        """Refuse to accumulate on a Gram matrix that cannot hold the small singular values."""
        if self.gram_noise > _GRAM_NOISE:
            raise ValueError(
                f"restart={self.restart} accumulates steps on the Gram matrix, whose rounding errors grow by the "
                f"square of their slope, to {self.gram_noise:.2g} (limit {_GRAM_NOISE}); use a smaller restart"
            )

    @cached_property
    def gram_noise(self) -> float:
        """Largest share of a singular value that may be rounding noise of a Gram matrix; 0 for restart 1."""
        if self.restart == 1:
            return 0.0
        eps = torch.finfo(self.dtype or torch.float32).eps / 2
        groups = (self.coefficients[first : first + self.restart] for first in range(0, self.steps, self.restart))
        return max(eps * math.prod(row[0] for row in rows) ** 2 for rows in groups)

    @property
    def steps(self) -> int:
        """Number of polynomials."""
        return len(self.coefficients)

    @cached_property
    def certificate(self) -> Certificate:
        """What the iteration can do to a singular value, with the rounding of bfloat16 when it computes in that."""
        eps = torch.finfo(torch.bfloat16).eps / 2 if self.dtype == torch.bfloat16 else 0.0
        return certify(
            self.coefficients, normalization=self.normalization, interval=self.interval, eps=eps, tol=self.tol
        )

    def with_compute(self, dtype: torch.dtype | None = None, restart: int = 1) -> "PolarIteration":
        """Return the same iteration computed in another way, certified for it.

        Args:
            dtype: See the class.
            restart: See the class.

        Returns:
            A new iteration.
        """
        return replace(self, dtype=dtype, restart=restart)

    @torch.no_grad()
    def __call__(self, x: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
        r"""Return $U P(\Sigma) V^\top$ for each matrix $U \Sigma V^\top$, where $P$ is the composition.

        Args:
            x: Real floating point matrices, any batch dimensions, any m and n above 0; not changed.

        Returns:
            Same shape and dtype. Detached from the graph.

        Raises:
            TypeError: When `x` is not a real floating point tensor.
            ValueError: When it has no two last dimensions or an empty one.

        Numerics:
            The matrix is first divided by its largest entry, so that neither 1e-30 nor 1e30 is special. A zero matrix
            gives zero; NaN or inf anywhere in a matrix makes that whole matrix NaN, and no other of the batch.
        """
        check_matrices(x)
        m, n = x.shape[-2:]
        work, tall = x.reshape(-1, m, n), m > n
        if self.dtype == torch.bfloat16 and x.dtype == torch.float32 and matrices.has_kernel(work):
            work = matrices.normalized(work, transpose=tall)
        else:
            largest = largest_entry(work)
            work = (work / torch.where(largest == 0, 1.0, largest)).to(self._compute_dtype(x))
            work = work.mT.contiguous() if tall else work
        work = iterate(
            work, self.coefficients, self.normalization, upper=self.interval[1], restart=min(self.restart, self.steps)
        )
        return (work.mT if tall else work).to(x.dtype).reshape(x.shape)

    def _compute_dtype(self, x: Tensor) -> torch.dtype:
        return self.dtype or torch.promote_types(x.dtype, torch.float32)


def published_iteration(
    name: str,
    steps: int | None = None,
    *,
    normalization: Normalization | None = None,
    dtype: torch.dtype | None = None,
    restart: int = 1,
) -> PolarIteration:
    """Return one of the published coefficient lists as an iteration.

    Args:
        name: A key of `PUBLISHED`, for example `"muon"` or `"polar-express"`.
        steps: Number of steps; None takes the list's own (5 for a list of one repeated row). A list made for a fixed
            number of steps refuses every other.
        normalization: None takes the list's own.
        dtype: See `PolarIteration`.
        restart: See `PolarIteration`.

    Returns:
        The certified iteration.

    Raises:
        ValueError: When the name is unknown, the list does not allow that number of steps, or the certifier refuses.

    Example:
        >>> published_iteration("muon").certificate.slope.__round__()
        485
    """
    if name not in PUBLISHED:
        raise ValueError(f"expected one of {', '.join(PUBLISHED)}, got {name!r}")
    entry = PUBLISHED[name]
    rows = entry.coefficients
    count = steps if steps is not None else (5 if entry.steps == "repeat" else len(rows))
    if count < 1:
        raise ValueError(f"steps must be 1 or more, got {count}")
    if entry.steps == "fixed" and count != len(rows):
        raise ValueError(
            f"the list {name!r} was made for {len(rows)} steps and spoils its result with {count}; "
            "use that number, or design_iteration for another"
        )
    rows = (*rows[:count], *(rows[-1],) * (count - len(rows)))
    return PolarIteration(rows, normalization or entry.normalization, entry.interval, dtype, restart, f"{name}-{count}")


def check_matrices(x: Tensor) -> None:
    """Raise unless the tensor holds real floating point matrices.

    Args:
        x: Anything.

    Raises:
        TypeError: When it is not a tensor of a real floating point dtype.
        ValueError: When it has fewer than two dimensions or an empty matrix.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = f"a tensor of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"expected a real floating point tensor, got {got}; convert it with .float()")
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise ValueError(f"expected matrices (*batch, m, n) with m, n > 0, got shape {tuple(x.shape)}")
