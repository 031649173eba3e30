# SPDX-License-Identifier: Apache-2.0
"""Layer normalization of rows, with residual addition and output cast in the same sweep."""

from typing import overload

import torch
from torch import Tensor

from steepest.kernels._row_norm import RowNorm, check_rows, vector_like

__all__ = ["layer_norm"]


def _plain(x: Tensor, weight: Tensor, bias: Tensor, eps: float, out_dtype: torch.dtype | None = None) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    centered = wide.double() - wide.double().mean(-1, keepdim=True)
    scale = torch.rsqrt(centered.square().mean(-1, keepdim=True) + eps)
    return ((centered * scale).to(wide.dtype) * weight + bias).to(out_dtype or x.dtype).contiguous()


_LAYER_NORM = RowNorm("layer_norm", ("weight", "bias"), _plain)


@overload
def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    out_dtype: torch.dtype | None = None,
) -> Tensor: ...
@overload
def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor,
    out_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]: ...
def layer_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    residual: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""Return $w \odot (s - \mathrm{mean}(s)) / \sqrt{\mathrm{var}(s) + \epsilon} + b$ over the last dimension.

    What is normalized is s = x, or x + residual; var is the biased variance.

    Args:
        x: Floating-point tensor (..., width).
        weight: Gain w of shape (width,), in any floating dtype (it is read as float32); None for ones.
        bias: Shift b, likewise; None for zeros.
        eps: Added to the variance, not negative.
        residual: Tensor of x's shape to add first, in the same sweep. Its dtype may be wider than x's.
        out_dtype: Dtype of the normalized output; None for that of s.

    Returns:
        The normalized tensor, new and contiguous; with a residual, the pair (normalized, s), where s has the wider of
        the two dtypes.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If shapes do not fit, eps is negative, or operands are on different devices.

    Numerics:
        The mean is taken off first, in two float32 words, then squares are added: in float32 lanes over runs of 4096
        and in float64 across them, so a large mean costs no digits of the variance. A row whose variance plus eps is
        outside (2^-90, 2^110) is multiplied by a power of two first. A row with inf or NaN gives what the formula
        gives. One rounding to the output dtype. The vectors' gradients are added in float32 over 32 rows and in
        float64 beyond, the same bits for any number of threads.

    Example:
        >>> import torch
        >>> from steepest.functional import layer_norm
        >>> layer_norm(torch.tensor([[1.0, 3.0]]), eps=0.0)
        tensor([[-1.,  1.]])

    References:
        Ba, Kiros and Hinton (2016), Layer normalization, arXiv 1607.06450, eq. 3.
    """
    check_rows("layer_norm", x, {"weight": weight, "bias": bias, "residual": residual}, eps)
    weight = vector_like(x, 1.0) if weight is None else weight
    bias = vector_like(x, 0.0) if bias is None else bias
    return _LAYER_NORM(x, residual, weight, bias, float(eps), out_dtype)
