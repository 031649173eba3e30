# SPDX-License-Identifier: Apache-2.0
"""The orthonormal discrete cosine transform as a matrix and by FFT, in one and the same basis."""

import functools
import math

import torch
from jaxtyping import Float
from torch import Tensor

from ._inputs import compute_tensor


def dct_matrix(
    n: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Float[Tensor, "n n"]:
    r"""Return the orthogonal matrix $C$ whose columns are the cosines of the DCT-II, slowest first.

    $C_{ji} = \sqrt{2/n} \cos\frac{\pi i (2j + 1)}{2n}$, column $i = 0$ divided by $\sqrt 2$. So `x @ dct_matrix(n)`
    holds the DCT-II coefficients of the rows of `x`, the same numbers as `dct(x)`, and `coefficients @ dct_matrix(n).T`
    takes them back.

    Args:
        n: Length, at least 1.
        dtype: Of the result; the cosines are computed in float64.
        device: Of the result.

    Raises:
        ValueError: `n < 1`.

    Example:
        >>> dct_matrix(2)
        tensor([[ 0.7071,  0.7071],
                [ 0.7071, -0.7071]])

    References:
        Modoranu et al. (2025), arXiv 2505.17967. Deviation: there the matrix route and the FFT route use a basis and
        its transpose; here both use the cosines.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    i = torch.arange(n, dtype=torch.float64, device="cpu")
    j = i[:, None]
    # The angle is reduced in integers before the cosine, so a long transform loses no digits.
    turns = torch.remainder(i * (2 * j + 1), 4 * n)
    matrix = torch.cos(math.pi / (2 * n) * turns) * math.sqrt(2 / n)
    matrix[:, 0] /= math.sqrt(2)
    return matrix.to(dtype=dtype, device=device)


def dct(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    r"""Return the orthonormal DCT-II of the last dimension, $O(n \log n)$ by one complex FFT of the same length.

    Args:
        x: Real, last dimension not empty. Half precision is computed in float32.

    Returns:
        Same shape and dtype; equal to `x @ dct_matrix(n)` up to rounding.

    Raises:
        TypeError: The dtype is not a real floating one.
        ValueError: The last dimension is empty.

    Example:
        >>> import torch
        >>> dct(torch.ones(4))
        tensor([2., 0., 0., 0.])

    References:
        Makhoul (1980), A fast cosine transform in one and two dimensions.
    """
    work = compute_tensor(x, 1, "dct")
    n = work.shape[-1]
    folded = torch.cat([work[..., ::2], work[..., 1::2].flip(-1)], dim=-1)
    spectrum = torch.fft.fft(folded)
    twiddle = _twiddle(n, spectrum.dtype, spectrum.device)
    return (spectrum * twiddle).real.contiguous().to(x.dtype)


def inverse_dct(x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
    r"""Return the inverse (and transpose) of `dct`, equal to `x @ dct_matrix(n).T`; arguments and errors as there.

    Example:
        >>> import torch
        >>> inverse_dct(torch.tensor([2.0, 0.0, 0.0, 0.0]))
        tensor([1., 1., 1., 1.])
    """
    work = compute_tensor(x, 1, "inverse_dct")
    n = work.shape[-1]
    # dct(x)_k = Re(t_k F_k) and, for real input, Im(t_k F_k) = -dct(x)_{n-k} up to the norm of t_0: undo both.
    mirrored = torch.cat([torch.zeros_like(work[..., :1]), work[..., 1:].flip(-1)], dim=-1)
    twiddle = _twiddle(n, torch.complex(work[..., :1], mirrored[..., :1]).dtype, work.device)
    folded = torch.fft.ifft(torch.complex(work, -mirrored) / twiddle).real
    half = (n + 1) // 2
    restored = torch.empty_like(work)
    restored[..., ::2] = folded[..., :half]
    restored[..., 1::2] = folded[..., half:].flip(-1)
    return restored.to(x.dtype)


@functools.lru_cache(maxsize=32)
def _twiddle(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    k = torch.arange(n, dtype=torch.float64, device="cpu")
    scale = torch.full_like(k, math.sqrt(2 / n))
    scale[0] = math.sqrt(1 / n)
    return torch.polar(scale, -math.pi * k / (2 * n)).to(dtype=dtype, device=device)
