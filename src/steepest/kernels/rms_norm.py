# SPDX-License-Identifier: Apache-2.0
"""Root-mean-square normalization of rows, with residual addition and output cast in the same sweep."""

from typing import overload

import torch
from torch import Tensor

from steepest.kernels._row_norm import RowNorm, check_rows, vector_like

__all__ = ["rms_norm"]


def _plain(x: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype | None = None) -> Tensor:
    wide = x.double() if x.dtype == torch.float64 else x.float()
    scale = torch.rsqrt(wide.double().square().mean(-1, keepdim=True) + eps)
    return ((wide * scale).to(wide.dtype) * weight).to(out_dtype or x.dtype).contiguous()


_RMS_NORM = RowNorm("rms_norm", ("weight",), _plain)


@overload
def rms_norm(
    x: Tensor, weight: Tensor | None = None, eps: float = 1e-6, *, out_dtype: torch.dtype | None = None
) -> Tensor: ...
@overload
def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    residual: Tensor,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]: ...
def rms_norm(
    x: Tensor,
    weight: Tensor | None = None,
    eps: float = 1e-6,
    *,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return $w \odot s / \sqrt{\mathrm{mean}(s^2) + \epsilon}$ over the last dimension, s = x or x + residual.

    Args:
        x: Floating-point tensor (..., width).
        weight: Gain w of shape (width,), in any floating dtype (it is read as float32); None for ones.
        eps: Added to the mean square, not negative.
        residual: Tensor of x's shape to add first, in the same sweep. Its dtype may be wider than x's, as when a
            bfloat16 branch joins a float32 residual stream.
        out_dtype: Dtype of the normalized output; None for that of s. A float32 stream normalized with
            `out_dtype=torch.bfloat16` feeds a bfloat16 matrix product without a sweep of its own for the cast.

    Returns:
        The normalized tensor, new and contiguous; with a residual, the pair (normalized, s), where s has the wider of
        the two dtypes and is the residual of the next block.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If shapes do not fit, eps is negative, or operands are on different devices.

    Numerics:
        Squares are added in float32 lanes over runs of 4096 and in float64 across them. A row whose mean square plus
        eps is outside (2^-90, 2^110) is multiplied by a power of two first, so no finite row overflows or loses its
        scale. A row with
        inf or NaN gives what the formula gives. One rounding to the output dtype. The weight's gradient is added in
        float32 over 32 rows and in float64 beyond, the same bits for any number of threads.

    Example:
        >>> import torch
        >>> from steepest.functional import rms_norm
        >>> rms_norm(torch.tensor([[3.0, 4.0]]), eps=0.0)
        tensor([[0.8485, 1.1314]])

    References:
        Zhang and Sennrich (2019), Root mean square layer normalization, arXiv 1910.07467, eq. 4.
    """
    check_rows("rms_norm", x, {"weight": weight, "residual": residual}, eps)
    weight = vector_like(x, 1.0) if weight is None else weight
    return _RMS_NORM(x, residual, weight, float(eps), out_dtype)
