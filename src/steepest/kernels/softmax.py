# SPDX-License-Identifier: Apache-2.0
"""Softmax, log-softmax and logsumexp whose error does not grow with the length of the row."""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from steepest.kernels import _softmax_kernels as kernels
from steepest.kernels._op import KERNEL, OPERATOR, check_floating, define, needs_grad, route
from steepest.kernels._pool import spread
from steepest.kernels._softmax_op import (
    ALGORITHMS,
    AUTO,
    LOG_SOFTMAX,
    NANOSECONDS,
    ONE_SWEEP,
    SOFTMAX,
    Normalized,
    rows_last,
)
from steepest.kernels._softmax_rows import RECOMPUTE, TWO_PASS

__all__ = ["log_softmax", "logsumexp", "softmax", "softmax_"]

Algorithm = Literal["auto", "two_pass", "online", "online_reload", "three_pass_reload", "three_pass_recompute"]
MaskedRows = Literal["nan", "zero"]
_POLICIES = {"nan": False, "zero": True}
_USUAL = (AUTO, False)


def _code(function: str, algorithm: str, masked_rows: str) -> tuple[int, bool]:
    try:
        return ALGORITHMS[algorithm], _POLICIES[masked_rows]
    except (KeyError, TypeError):
        pass
    if algorithm not in ALGORITHMS:
        raise ValueError(f"{function} expects algorithm to be one of {', '.join(ALGORITHMS)}; got {algorithm!r}")
    raise ValueError(f"{function} expects masked_rows to be 'nan' or 'zero', got {masked_rows!r}")


def _dimension(x: Tensor, dim: int) -> int:
    ndim = x.ndim
    if -ndim <= dim < ndim:
        return dim % ndim
    raise IndexError(f"dim is expected between {-ndim} and {ndim - 1} for a tensor of {ndim} dimensions, got {dim}")


def _check_mask(x: Tensor, mask: Tensor, function: str) -> None:
    if not isinstance(mask, Tensor) or not mask.is_floating_point():
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"{function} adds its mask to the logits and expects a floating-point tensor, got {kind}; for a boolean "
            "mask of what to keep use torch.where(keep, 0.0, -math.inf)"
        )
    if mask.device != x.device:
        raise ValueError(
            f"{function} expects the mask on {x.device}, got {mask.device}; move it with mask.to(x.device)"
        )
    if torch.broadcast_shapes(mask.shape, x.shape) != x.shape:
        raise ValueError(f"{function} expects a mask that broadcasts to {tuple(x.shape)}, got {tuple(mask.shape)}")


def _apply(
    function: Normalized, x: Tensor, dim: int, code: tuple[int, bool], options: tuple[float, Tensor | None, Any]
) -> Tensor:
    temperature, mask, dtype = options
    if mask is None and dtype is None and temperature == 1.0 and code == _USUAL and isinstance(x, Tensor):
        y = function.small(x, dim)
        if y is not None:
            return y
    if dtype is not None and isinstance(x, Tensor):
        x = x.to(dtype)
    check_floating(x, function.name)
    if mask is not None:
        _check_mask(x, mask, function.name)
    if temperature != 1.0 and not 0 < temperature < math.inf:
        raise ValueError(f"{function.name} expects a positive finite temperature, got {temperature}")
    if x.ndim == 0:
        _dimension(x.unsqueeze(0), dim)
        return function(x.unsqueeze(0), 0, mask, temperature, *code).squeeze(0)
    return function(x, _dimension(x, dim), mask, temperature, *code)


def softmax(
    x: Tensor,
    dim: int = -1,
    *,
    algorithm: Algorithm = "auto",
    masked_rows: MaskedRows = "nan",
    temperature: float = 1.0,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Return $e^{z_i} / \sum_j e^{z_j}$ along a dim, for $z = x / T + M$.

    Args:
        x: Floating-point tensor of any shape, layout and device.
        dim: The dim that sums to 1.
        algorithm: "three_pass_recompute" reads x three times; "three_pass_reload" twice, and what it wrote once;
            "two_pass" (pairs of mantissa and exponent) and "online" (running maximum) read x twice; "online_reload"
            reads x once, and what it wrote once. All of them give answers within the same bound. "auto" is the
            fastest for the length of the row and the processor.
        masked_rows: What a row becomes in which everything is -inf: "nan" (torch) or "zero".
        temperature: $T$, positive and finite.
        mask: $M$, additive; floating-point and broadcastable to x's shape. Computed in float32.
        dtype: x is converted to it first.

    Returns:
        A new contiguous tensor of x's shape.

    Raises:
        TypeError: If x or mask is not a floating-point tensor.
        ValueError: If algorithm, masked_rows, temperature or the mask's shape is not as above.
        IndexError: If x has no such dim.

    Numerics:
        Relative error at most 5e-7 for $|x| \le 2^{16}$ at any length (float32, results that are not subnormal,
        no temperature or mask, which add the rounding of $z$). float16 and bfloat16 are computed in float32 and
        rounded once. Results down to the smallest subnormal are kept. A NaN or +inf makes its row NaN; -inf gives
        exactly 0. float64, other devices, `vmap`, `torch.func` and forward mode take torch's own softmax.

    Example:
        >>> import torch
        >>> from steepest.functional import softmax
        >>> softmax(torch.tensor([0.0, 1.0, -torch.inf]))
        tensor([0.2689, 0.7311, 0.0000])

    References:
        Dukhan and Ablavatski (2020), Two-pass softmax algorithm, arXiv 2001.04438. Milakov and Gimelshein (2018),
        Online normalizer calculation for softmax, arXiv 1805.02867. Deviation: sums are float32 only inside blocks
        of 1024, and maxima are whole exponents, so that neither length nor the size of x costs digits; "online_reload"
        keeps each block's terms relative to the exponent known at that time, and corrects them while normalizing.
    """
    return _apply(SOFTMAX, x, dim, _code("softmax", algorithm, masked_rows), (temperature, mask, dtype))


def softmax_(x: Tensor, dim: int = -1, *, algorithm: Algorithm = "auto", masked_rows: MaskedRows = "nan") -> Tensor:
    """Replace x by its softmax along a dim.

    Args:
        x: Floating-point tensor that needs no gradient.
        dim: The dim that sums to 1.
        algorithm: As for `softmax`.
        masked_rows: As for `softmax`.

    Returns:
        x.

    Raises:
        TypeError: If x is not a floating-point tensor.
        ValueError: If algorithm or masked_rows is unknown.
        RuntimeError: If x needs a gradient.

    Numerics:
        As for `softmax`.

    Example:
        >>> import torch
        >>> from steepest.functional import softmax_
        >>> softmax_(torch.tensor([0.0, 0.0]))
        tensor([0.5000, 0.5000])
    """
    code = _code("softmax_", algorithm, masked_rows)
    check_floating(x, "softmax_")
    if needs_grad(x):
        raise RuntimeError("softmax_ has no gradient, and x requires one; use softmax, or torch.no_grad()")
    if x.ndim > 0 and x.is_contiguous() and _dimension(x, dim) == x.ndim - 1 and route(x) is KERNEL:
        SOFTMAX.run_rows(x, x, x, x.ndim - 1, None, 1.0, *code)
        torch.autograd.graph.increment_version(x)
        return x
    return x.copy_(_apply(SOFTMAX, x, dim, code, (1.0, None, None)))


def log_softmax(
    x: Tensor,
    dim: int = -1,
    *,
    algorithm: Algorithm = "auto",
    masked_rows: MaskedRows = "nan",
    temperature: float = 1.0,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Return $z_i - \ln \sum_j e^{z_j}$ along a dim, for $z = x / T + M$.

    Args:
        x: Floating-point tensor of any shape, layout and device.
        dim: The dim whose exponentials sum to 1.
        algorithm: How the sum is taken, as for `softmax`; both three-pass algorithms are the same here.
        masked_rows: What a row becomes in which everything is -inf: "nan" (torch) or "zero", that is probability
            zero: -inf, and no gradient.
        temperature: $T$, positive and finite.
        mask: $M$, additive; floating-point and broadcastable to x's shape. Computed in float32.
        dtype: x is converted to it first.

    Returns:
        A new contiguous tensor of x's shape.

    Raises:
        TypeError: If x or mask is not a floating-point tensor.
        ValueError: If algorithm, masked_rows, temperature or the mask's shape is not as above.
        IndexError: If x has no such dim.

    Numerics:
        The logarithm of the sum is kept in float64, so the error is the rounding of $z_i$ minus it: at most 2 ulp of
        the larger of the result and 1e-7, at any length. A NaN or +inf makes its row NaN.

    Example:
        >>> import torch
        >>> from steepest.functional import log_softmax
        >>> log_softmax(torch.tensor([0.0, 1.0, -torch.inf]))
        tensor([-1.3133, -0.3133,    -inf])
    """
    return _apply(LOG_SOFTMAX, x, dim, _code("log_softmax", algorithm, masked_rows), (temperature, mask, dtype))


def logsumexp(x: Tensor, dim: int | tuple[int, ...] = -1, keepdim: bool = False) -> Tensor:
    r"""Return $\ln \sum_j e^{x_j}$ along one or several dims.

    Args:
        x: Floating-point tensor of any shape, layout and device.
        dim: The dims to sum over.
        keepdim: Keep them with size 1.

    Returns:
        A new tensor of x's dtype.

    Raises:
        TypeError: If x is not a floating-point tensor.
        IndexError: If x has no such dim.

    Numerics:
        Computed in float64 from float32 terms: relative error of the sum at most 3e-7, then one rounding. A NaN gives
        NaN, +inf gives inf, a row of -inf and an empty one give -inf, whose gradient is 0.

    Example:
        >>> import torch
        >>> from steepest.functional import logsumexp
        >>> logsumexp(torch.zeros(4))
        tensor(1.3863)
    """
    check_floating(x, "logsumexp")
    way = route(x)
    if x.ndim == 0 or way not in {KERNEL, OPERATOR} or dim == ():
        return torch.logsumexp(x, dim, keepdim)
    dims: list[int] = sorted(_dimension(x, d) for d in (dim if isinstance(dim, tuple) else (dim,)))
    if len(dims) > 1:
        if len(set(dims)) < len(dims):
            raise ValueError(f"logsumexp expects each dim once, got {dim}")
        kept = [d for d in range(x.ndim) if d not in dims]
        flat = x.permute(*kept, *dims).flatten(len(kept))
        y = logsumexp(flat)
    elif way is OPERATOR:
        y = torch.ops.steepest.logsumexp(x, dims[0])
    elif needs_grad(x):
        y: Any = _LogSumExp.apply(x, dims[0])
    else:
        y = _run_logsumexp(x, dims[0])
    for d in dims if keepdim else ():
        y = y.unsqueeze(d)
    return y


def _run_logsumexp(x: Tensor, dim: int) -> Tensor:
    n = x.shape[dim]
    shape = x.shape[:dim] + x.shape[dim + 1 :]
    y = x.new_full(shape, -math.inf, dtype=torch.float32) if n == 0 else x.new_empty(shape, dtype=torch.float32)
    if x.numel() > 0:
        rows = rows_last(x, dim)
        algorithm = TWO_PASS if n > ONE_SWEEP else RECOMPUTE
        run = kernels.LOGSUMEXP[x.dtype].run
        spread(run, rows.numel() // n, n * NANOSECONDS, rows.data_ptr(), y.data_ptr(), n, algorithm)
    return y.to(x.dtype)


def _logsumexp_gradient(grad: Tensor, x: Tensor, dim: int) -> Tensor:
    return SOFTMAX(x, dim, None, 1.0, AUTO, True) * grad.unsqueeze(dim)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.dim = dim
        return _run_logsumexp(x, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _logsumexp_gradient(grad, ctx.saved_tensors[0], ctx.dim), None


def _save(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.dim = inputs[1]


def _fake(x: Tensor, dim: int) -> Tensor:
    return x.new_empty(x.shape[:dim] + x.shape[dim + 1 :])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    y = torch.ops.steepest.softmax(ctx.saved_tensors[0], ctx.dim, None, 1.0, AUTO, True)
    return y * grad.unsqueeze(ctx.dim), None


define(
    "logsumexp(Tensor x, int dim) -> Tensor",
    _run_logsumexp,
    fake=_fake,
    backward=_backward,
    setup_context=_save,
)
