# SPDX-License-Identifier: Apache-2.0
"""The orthogonal polar factor of a matrix, exact or as near as asked, by the fastest way on this machine."""

import contextlib
import functools
import math
from typing import Literal, cast, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.geometry.polar_coefficients import PUBLISHED
from steepest.geometry.polar_exact import by_eigh, by_svd
from steepest.geometry.polar_iteration import PolarIteration, check_matrices, published_iteration
from steepest.geometry.polar_rates import Rates, current_rates
from steepest.geometry.polar_steps import is_blocked, largest_entry

Exact = Literal["svd", "eigh"]
Chosen = Exact | PolarIteration

#: Lists for the automatic choice, by rising cost: name, steps, and the error (rms over log-uniform singular values in
#: [1e-3, 1] after the scaling, rounded up) that each is trusted with.
_LADDER = (
    ("designed-3", 3, 0.41),
    ("designed-short", 4, 0.33),
    ("designed-4", 4, 0.25),
    ("designed-5", 5, 0.065),
    ("polar-express", 6, 1e-3),
    ("polar-express", 8, 1e-6),
)
#: Rounding in bfloat16 alone is about this large.
_BFLOAT16_TOL = 0.05
_FLOAT32_TOL = 1e-6
#: A symmetric product by blocks costs this share of an ordinary one (0.70 to 0.85; the fit of `polar_rates`).
_SYMMETRIC = 0.75
#: A factorization with its checks and copies, in a cold cache, takes 1 + this share of its bare time at 256 rows, less
#: above (measured 0.2 to 0.35 at 256, below 0.1 at 768).
_AROUND, _AROUND_ROWS = 0.25, 256


@torch.no_grad()
def polar_factor(
    x: Float[Tensor, "*batch m n"], *, method: str | PolarIteration = "auto", tol: float | None = None
) -> Float[Tensor, "*batch m n"]:
    r"""Return the orthogonal polar factor $U V^\top$ of each matrix $X = U \Sigma V^\top$ in a batch.

    It is the matrix of spectral norm 1 with the largest inner product with X: the direction of steepest descent under
    the spectral norm.

    Args:
        x: Real floating point matrices of any batch shape; not changed.
        method: `"svd"` or `"eigh"` (exact), the name of a published list (`"muon"`, `"polar-express"`, ...; see
            `published_iteration`), a `PolarIteration`, or `"auto"`: the fastest of those that reach `tol`, by the
            shape, the dtype and the speed of this CPU (see `choose_method`).
        tol: For `"auto"` alone. None is exact: as good as the dtype allows. A number is the root mean square error of
            the singular values that is accepted, for log-uniform singular values down to 1e-3 of the scaled largest:
            0.25 serves Muon as well as its own list (0.21, but on values that the Frobenius norm has made smaller);
            0.41 is the fastest, and no further from the factor than Muon's list unless one singular value towers above
            all others.

    Returns:
        Same shape and dtype. Zero directions stay zero: a matrix of rank r gives r singular values of 1, and a zero
        matrix gives zero. Detached from the graph.

    Raises:
        TypeError: When `x` is not a real floating point tensor.
        ValueError: When it has no two last dimensions or an empty one, the method is unknown, or `tol` is given with
            another method or is not in (0, 1).

    Numerics:
        bfloat16 and float16 input is computed in float32, or bfloat16 where the iteration says so. The exact methods
        drop singular values below max(m, n) eps of the largest. float32: entries agree with a float64 SVD to about
        1e-6 times the condition. NaN or inf in a matrix makes that matrix NaN and no other. The automatic choice goes
        by a table of three kinds of processor, or by what `steepest.geometry.polar_rates.calibrate` has measured; on
        another kind of machine, or with another number of threads, the choice, and so the last bits, can differ: name
        the method, or use `fixed_rates`, where that matters.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 0.0], [0.0, -2.0]])
        >>> bool(torch.allclose(polar_factor(x, method="svd"), torch.tensor([[1.0, 0.0], [0.0, -1.0]])))
        True

    References:
        Higham (2008), Functions of matrices, chapter 8. Amsel et al. (2025), The Polar Express, arXiv:2505.16932.
    """
    check_matrices(x)
    if tol is not None and (method != "auto" or not 0 < tol < 1):
        raise ValueError(f"tol is a number in (0, 1) for method='auto', got tol={tol} with method={method!r}")
    if min(x.shape[-2:]) == 1 and method == "auto":
        return _normalized_vector(x)
    chosen = _resolve(method, x, tol)
    if isinstance(chosen, PolarIteration):
        return chosen(x)
    flat = x.reshape(-1, *x.shape[-2:])
    exact = by_svd if chosen == "svd" else by_eigh
    return exact(flat).to(x.dtype).reshape(x.shape)


def choose_method(
    m: int, n: int, *, dtype: torch.dtype = torch.float32, tol: float | None = None, rates: Rates | None = None
) -> Chosen:
    """Return the method that `polar_factor(..., method="auto")` takes for CPU matrices of a shape.

    Args:
        m: Rows.
        n: Columns.
        dtype: Of the input.
        tol: See `polar_factor`.
        rates: Speed of the machine; None takes that of this one, see `steepest.geometry.polar_rates.current_rates`.

    Returns:
        `"svd"`, `"eigh"` or an iteration. Exact float64 is always `"svd"`, for a float64 Gram matrix is not enough.
    """
    if dtype == torch.float64 and (tol is None or tol < _FLOAT32_TOL):
        return "svd"
    return _fastest(min(m, n), max(m, n), dtype, tol, rates or current_rates())


@functools.lru_cache(maxsize=1024)  # a third of a millisecond, a tenth of what a small matrix takes
def _fastest(m: int, n: int, dtype: torch.dtype, tol: float | None, rates: Rates) -> Chosen:
    return min(_candidates(dtype, tol), key=lambda method: _seconds(method, m, n, dtype, rates))


def _resolve(method: str | PolarIteration, x: Tensor, tol: float | None) -> Chosen:
    if isinstance(method, PolarIteration):
        return method
    if method in get_args(Exact):
        return cast("Exact", method)
    if method in PUBLISHED:
        return published_iteration(method)
    if method != "auto":
        raise ValueError(f"method must be auto, svd, eigh, one of {', '.join(PUBLISHED)}, or a PolarIteration")
    if x.device.type != "cpu":  # nothing is measured there; products are cheap and factorizations are not
        return "svd" if tol is None else _candidates(x.dtype, tol)[-1]
    return choose_method(*x.shape[-2:], dtype=x.dtype, tol=tol)


@functools.lru_cache(maxsize=256)
def _candidates(dtype: torch.dtype, tol: float | None) -> tuple[Chosen, ...]:
    """Return the methods that reach the tolerance; an iteration in the lowest precision allowed comes last."""
    exact: tuple[Chosen, ...] = ("svd",) if dtype == torch.float64 else ("svd", "eigh")
    entry = next(((name, steps) for name, steps, error in _LADDER if tol is not None and error <= tol), None)
    if tol is None or entry is None:
        return exact
    plain = published_iteration(*entry, normalization="schatten8")
    found = [plain]
    for restart in range(2, plain.steps + 1):
        try:
            gram = plain.with_compute(restart=restart)
        except ValueError:  # too steep to accumulate
            break
        if gram.gram_noise <= tol:
            found.append(gram)
    if tol >= _BFLOAT16_TOL:
        found.append(_in_bfloat16(tol))
    return (*exact, *found)


def _in_bfloat16(tol: float) -> PolarIteration:
    """Return the shortest list within the tolerance that bears the rounding."""
    for name, steps, error in _LADDER:
        if error <= tol:
            with contextlib.suppress(ValueError):  # refused by the certifier
                return published_iteration(name, steps, normalization="schatten8").with_compute(torch.bfloat16)
    raise AssertionError("the list of five steps bears it")


def _seconds(method: Chosen, m: int, n: int, dtype: torch.dtype, rates: Rates) -> float:
    """Predict the time of a method on an m x n matrix, m <= n."""
    aspect = n / m
    double = dtype == torch.float64
    around = 1 + _AROUND * min(1.0, _AROUND_ROWS / m)
    if method == "svd":
        return around * rates.seconds("svd64" if double else "svd", m) * aspect
    if method == "eigh":
        wide = "eigh32" if aspect >= 2 else "eigh"
        product = rates.seconds("float32" if aspect >= 2 else "float64", m)
        gram = _SYMMETRIC if is_blocked(m, n, torch.float32) else 1.0
        return around * (rates.seconds(wide, m) + product * (1 + (1 + gram) * aspect))
    wide = "float64" if double else "float32"
    name = "bfloat16" if method.dtype == torch.bfloat16 else wide
    product, computed = rates.seconds(name, m), getattr(torch, name)
    inner_product, gram = (product * (_SYMMETRIC if is_blocked(m, k, computed) else 1.0) for k in (m, n))
    total = 0.0
    for first in range(0, method.steps, method.restart):
        rows = method.coefficients[first : first + method.restart]
        inner = sum(math.ceil(math.log2(max(1, len(row) - 1))) for row in rows)
        accumulate = 3 * (len(rows) - 1)
        total += gram * aspect + inner_product * (inner + accumulate) + product * aspect
    return total


def _normalized_vector(x: Tensor) -> Tensor:
    """Return x / |x| for matrices with one row or one column, zero for zero."""
    work = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = largest_entry(work)
    work = work / torch.where(largest == 0, 1.0, largest)
    norm = torch.linalg.vector_norm(work, dim=(-2, -1), keepdim=True)
    out = work / torch.where(norm == 0, 1.0, norm)
    # inf / inf spoils one entry; the policy is the whole matrix.
    return torch.where(largest.isfinite(), out, torch.nan).to(x.dtype)
