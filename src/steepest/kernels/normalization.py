# SPDX-License-Identifier: Apache-2.0
"""Root-mean-square normalization of rows, with residual addition and output cast in the same sweep."""

import functools
import math
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._elementwise import MEMORY, same
from steepest.kernels._fused import Fused
from steepest.kernels._llvm import f32_pointer, fma
from steepest.kernels._op import DTYPES, check_floating
from steepest.kernels._pool import spread
from steepest.kernels._registry import Kernel, specialize
from steepest.kernels._rows import RUN, accumulate, as_rows

__all__ = ["rms_norm"]

F32, F64 = np.float32, np.float64
#: Mean squares outside these bounds are computed again in float64, as is the row.
LOWEST, HIGHEST = 2.0**-90, 2.0**110
#: Rows whose share of the weight's gradient is added up in float32; blocks of them are added in float64.
ROWS_PER_BLOCK = 32
_NANOSECONDS = 0.4

# Placeholders of the templates: s is what is normalized, x the summand before a residual is added, y the output.
x_pointer: Any = f32_pointer
x_widen: Any = same
s_pointer: Any = f32_pointer
s_widen: Any = same
s_narrow: Any = same
y_pointer: Any = f32_pointer
y_widen: Any = same
y_narrow: Any = same
ADD = False


def _value(
    x_address,
    r_address,
    s_address,
    weight_address,
    y_address,
    x_distance,
    r_distance,
    s_distance,
    width,
    eps,
    start,
    stop,
):
    x, r, s = x_pointer(x_address), s_pointer(r_address), s_pointer(s_address)
    weight, y = f32_pointer(weight_address), y_pointer(y_address)
    for row in range(start, stop):
        a, b, c, d = row * x_distance, row * r_distance, row * s_distance, row * width
        total = F64(0)
        for first in range(0, width, RUN):
            last = min(first + RUN, width)
            if ADD:
                for i in range(first, last):
                    s[c + i] = s_narrow(x_widen(x[a + i]) + s_widen(r[b + i]))
            lanes = F32(0)
            for i in range(first, last):
                v = s_widen(s[c + i])
                lanes = accumulate(lanes, v, v)
            total += lanes
        mean = total / width + eps
        if LOWEST < mean < HIGHEST:
            scale = F32(1 / math.sqrt(mean))
            for i in range(width):
                y[d + i] = y_narrow(s_widen(s[c + i]) * scale * weight[i])
        else:
            total = F64(0)
            for i in range(width):
                total += F64(s_widen(s[c + i])) ** 2
            exact = 1 / math.sqrt(total / width + eps)
            for i in range(width):
                y[d + i] = y_narrow(F32(F64(s_widen(s[c + i])) * exact) * weight[i])


def _gradient(
    grad_address,
    sum_grad_address,
    s_address,
    weight_address,
    out_address,
    partial_address,
    s_distance,
    width,
    rows,
    eps,
    start,
    stop,
):
    grad, s, weight = y_pointer(grad_address), s_pointer(s_address), f32_pointer(weight_address)
    sum_grad, out, partial = s_pointer(sum_grad_address), s_pointer(out_address), f32_pointer(partial_address)
    for block in range(start, stop):
        e = block * width
        for i in range(width):
            partial[e + i] = F32(0)
        for row in range(block * ROWS_PER_BLOCK, min((block + 1) * ROWS_PER_BLOCK, rows)):
            c, d = row * s_distance, row * width
            squares = products = F64(0)
            for first in range(0, width, RUN):
                lanes = more = F32(0)
                for i in range(first, min(first + RUN, width)):
                    v = s_widen(s[c + i])
                    lanes = accumulate(lanes, v, v)
                    more = accumulate(more, y_widen(grad[d + i]) * weight[i], v)
                squares += lanes
                products += more
            mean = squares / width + eps
            if LOWEST < mean < HIGHEST and abs(products) < HIGHEST:
                exact = 1 / math.sqrt(mean)
                scale, pull = F32(exact), F32(products / width * exact * exact * exact)
                for i in range(width):
                    v, g = s_widen(s[c + i]), y_widen(grad[d + i])
                    if ADD:
                        out[d + i] = s_narrow(fma(g * weight[i], scale, fma(-pull, v, s_widen(sum_grad[d + i]))))
                    else:
                        out[d + i] = s_narrow(fma(g * weight[i], scale, -pull * v))
                for i in range(width):
                    partial[e + i] = fma(y_widen(grad[d + i]), s_widen(s[c + i]) * scale, partial[e + i])
            else:
                squares = products = F64(0)
                for i in range(width):
                    v = F64(s_widen(s[c + i]))
                    squares += v * v
                    products += F64(y_widen(grad[d + i])) * F64(weight[i]) * v
                exact = 1 / math.sqrt(squares / width + eps)
                for i in range(width):
                    v, g = F64(s_widen(s[c + i])) * exact, F64(y_widen(grad[d + i]))
                    total = (g * F64(weight[i]) - v * (products * exact / width)) * exact
                    if ADD:
                        total += F64(s_widen(sum_grad[d + i]))
                    out[d + i] = s_narrow(F32(total))
                    partial[e + i] += F32(g * v)


_ADDRESSES = 5 * "intp, "
_VALUE = f"void({5 * 'intp, '}{4 * 'intp, '}float64, intp, intp)"
_GRADIENT = f"void({6 * 'intp, '}{3 * 'intp, '}float64, intp, intp)"


@functools.cache
def _kernel(template: Any, x: torch.dtype, s: torch.dtype, y: torch.dtype, add: bool) -> Kernel:
    bindings = {
        f"{role}_{part}": meaning
        for role, dtype in (("x", x), ("s", s), ("y", y))
        for part, meaning in MEMORY[DTYPES[dtype]].items()
    }
    names = [DTYPES[s], DTYPES[y]] if template is _gradient else [DTYPES[x], DTYPES[s], DTYPES[y]]
    name = "_".join([("add_" if add else "") + "rms_norm" + ("_gradient" if template is _gradient else ""), *names])
    return specialize(template, _GRADIENT if template is _gradient else _VALUE, name, ADD=add, **bindings)


def _run(x: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype | None = None) -> Tensor:
    y = torch.empty(x.shape, dtype=out_dtype or x.dtype)
    x, distance = as_rows(x)
    width, weight = x.shape[-1], weight.float().contiguous()
    address = x.data_ptr()
    addresses = (address, address, address, weight.data_ptr(), y.data_ptr())
    run = _kernel(_value, x.dtype, x.dtype, y.dtype, False).run
    spread(run, x.numel() // max(width, 1), _NANOSECONDS * width, *addresses, distance, distance, distance, width, eps)
    return y


def _run_add(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    total = torch.empty(x.shape, dtype=torch.promote_types(x.dtype, residual.dtype))
    y = torch.empty(x.shape, dtype=out_dtype or total.dtype)
    x, x_distance = as_rows(x)
    residual, r_distance = as_rows(residual.to(total.dtype))
    width, weight = x.shape[-1], weight.float().contiguous()
    addresses = (t.data_ptr() for t in (x, residual, total, weight, y))
    distances = (x_distance, r_distance, width, width)
    run = _kernel(_value, x.dtype, total.dtype, y.dtype, True).run
    spread(run, x.numel() // max(width, 1), 2 * _NANOSECONDS * width, *addresses, *distances, eps)
    return y, total


def _run_gradient(
    grad: Tensor, s: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    return _run_any_gradient(grad, None, s, weight, eps)


def _run_add_gradient(
    grad: Tensor, sum_grad: Tensor, s: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    return _run_any_gradient(grad, sum_grad.contiguous(), s, weight, eps)


def _run_any_gradient(
    grad: Tensor, sum_grad: Tensor | None, s: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    out = torch.empty(s.shape, dtype=s.dtype)
    s, distance = as_rows(s)
    width, grad, scale = s.shape[-1], grad.contiguous(), weight.float().contiguous()
    rows = s.numel() // max(width, 1)
    blocks = -(-rows // ROWS_PER_BLOCK)
    partial = torch.empty((blocks, width), dtype=torch.float32)
    addresses = (t.data_ptr() for t in (grad, s if sum_grad is None else sum_grad, s, scale, out, partial))
    run = _kernel(_gradient, s.dtype, s.dtype, grad.dtype, sum_grad is not None).run
    spread(run, blocks, 2 * _NANOSECONDS * width * ROWS_PER_BLOCK, *addresses, distance, width, rows, eps)
    return out, partial.sum(0, dtype=torch.float64).to(weight.dtype)


def _plain(x: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype | None = None) -> Tensor:
    wide = x.double() if x.dtype == torch.float64 else x.float()
    scale = torch.rsqrt(wide.double().square().mean(-1, keepdim=True) + eps)
    return ((wide * scale).to(wide.dtype) * weight).to(out_dtype or x.dtype).contiguous()


def _plain_add(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    total = (x + residual).contiguous()
    return _plain(total, weight, eps, out_dtype), total


def _plain_add_gradient(
    grad: Tensor, sum_grad: Tensor, s: Tensor, weight: Tensor, eps: float, out_dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    mine, weight_grad = torch.func.vjp(lambda a, b: _plain(a, b, eps, out_dtype), s, weight)[1](grad)
    return mine + sum_grad, weight_grad


_CONSTANTS = ("float eps", "ScalarType? out_dtype=None")
_RMS_NORM = Fused(
    "rms_norm",
    tensors=("x", "weight"),
    constants=_CONSTANTS,
    run=_run,
    run_gradient=_run_gradient,
    plain=_plain,
    fake=lambda x, weight, eps, out_dtype=None: x.new_empty(x.shape, dtype=out_dtype or x.dtype),
    fake_gradient=lambda grad, x, weight, eps, out_dtype=None: (x.new_empty(x.shape), weight.new_empty(weight.shape)),
)
_ADD_RMS_NORM = Fused(
    "add_rms_norm",
    tensors=("x", "residual", "weight"),
    constants=_CONSTANTS,
    run=_run_add,
    run_gradient=_run_add_gradient,
    plain=_plain_add,
    plain_gradient=_plain_add_gradient,
    fake=lambda x, residual, weight, eps, out_dtype=None: _fake_add(x, residual, out_dtype),
    fake_gradient=lambda grad, sum_grad, s, weight, eps, out_dtype=None: (
        s.new_empty(s.shape),
        weight.new_empty(weight.shape),
    ),
    outputs=2,
    saved=lambda inputs, outputs: (outputs[1], inputs[2]),
    share=(0, 0, 1),
)


def _fake_add(x: Tensor, residual: Tensor, out_dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, residual.dtype))
    return x.new_empty(x.shape, dtype=out_dtype or total.dtype), total


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
        eps is outside (2^-90, 2^110) is computed in float64, so no finite row overflows or loses its scale. A row with
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
    _check("rms_norm", x, weight, residual, eps)
    if weight is None:
        weight = torch.ones(x.shape[-1], device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    if residual is None:
        return _RMS_NORM(x, weight, float(eps), out_dtype)
    return _ADD_RMS_NORM(x, residual, weight, float(eps), out_dtype)


def _check(function: str, x: Tensor, weight: Tensor | None, residual: Tensor | None, eps: float) -> None:
    check_floating(x, function)
    if x.dim() == 0:
        raise ValueError(f"{function} normalizes the last dimension, got a tensor without dimensions; reshape it")
    for name, other, shape in (("weight", weight, x.shape[-1:]), ("residual", residual, x.shape)):
        if other is not None:
            check_floating(other, function)
            if other.shape != shape or other.device != x.device:
                raise ValueError(
                    f"{function} expects {name} of shape {tuple(shape)} on {x.device}, got {tuple(other.shape)} on "
                    f"{other.device}; expand or move it"
                )
    if not eps >= 0:
        raise ValueError(f"{function} expects eps >= 0, got {eps}")
