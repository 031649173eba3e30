# SPDX-License-Identifier: Apache-2.0
"""PolyReLU: a polynomial of any order in the positive part, with learnable coefficients."""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._fused import Fused
from steepest.kernels._llvm import f32_pointer, f64_pointer
from steepest.kernels._memory import empty_rows
from steepest.kernels._op import DTYPES, check_floating
from steepest.kernels._pool import spread
from steepest.kernels._powers import add_powers, add_sums, coefficients, no_sums, positive_part
from steepest.kernels._registry import Kernel, specialize
from steepest.kernels._rows import RUN
from steepest.kernels._vector import WIDTH, bfloat_pointer, half_pointer, load, load_some, splat, vhorner, vmax
from steepest.kernels._vector_stores import store, store_some

__all__ = ["polyrelu"]

#: Dtype's short name -> how its memory is read and written in lanes.
POINTERS: dict[str, Any] = {"f32": f32_pointer, "bf16": bfloat_pointer, "f16": half_pointer}
#: Elements whose share of the coefficients' gradient one piece of work adds up.
_BLOCK = 1 << 16

# Placeholders of the templates: the coefficients, and those of the derivative.
pointer: Any = f32_pointer
COUNT = 4
SLOPES = 3


def _value(x_address, coefficient_address, y_address, start, stop):
    x, y, zero = pointer(x_address), pointer(y_address), splat(_ZERO)
    c = coefficients(f32_pointer(coefficient_address), COUNT)
    whole = start + (stop - start) // WIDTH * WIDTH
    for i in range(start, whole, WIDTH):
        store(y, i, vhorner(vmax(zero, load(x, i)), c))
    if whole < stop:
        count = stop - whole
        store_some(y, whole, vhorner(vmax(zero, load_some(x, whole, count)), c), count)


def _gradient(grad_address, x_address, slope_address, out_address, partial_address, size, start, stop):
    grad, x, out, zero = pointer(grad_address), pointer(x_address), pointer(out_address), splat(_ZERO)
    slopes = coefficients(f32_pointer(slope_address), SLOPES)
    for block in range(start, stop):
        partial = f64_pointer(partial_address + 8 * COUNT * block)
        end = min((block + 1) * _BLOCK, size)
        for first in range(block * _BLOCK, end, RUN):
            last = min(first + RUN, end)
            whole = first + (last - first) // WIDTH * WIDTH
            sums = no_sums(COUNT)
            for i in range(first, whole, WIDTH):
                g, v = load(grad, i), load(x, i)
                above = vmax(zero, v)
                store(out, i, positive_part(g, v) * vhorner(above, slopes))
                sums = add_powers(sums, g, above)
            if whole < last:
                count = last - whole
                g, v = load_some(grad, whole, count), load_some(x, whole, count)
                above = vmax(zero, v)
                store_some(out, whole, positive_part(g, v) * vhorner(above, slopes), count)
                sums = add_powers(sums, g, above)
            add_sums(partial, sums)


_ZERO = np.float32(0)


@functools.cache
def _kernel(template: Any, dtype: str, count: int) -> Kernel:
    arguments = ", ".join(["intp"] * template.__code__.co_argcount)
    name = f"polyrelu{'_gradient' if template is _gradient else ''}_{count}_{dtype}"
    bindings = {"pointer": POINTERS[dtype], "COUNT": count, "SLOPES": count - 1}
    return specialize(template, f"void({arguments})", name, **bindings)


# PolyCom's order, for `warmup`; other orders are compiled when first used.
for _dtype in DTYPES.values():
    _kernel(_value, _dtype, 4)
    _kernel(_gradient, _dtype, 4)


def _run(x: Tensor, weights: Tensor) -> Tensor:
    y = empty_rows(x)
    x, kept = x.contiguous(), weights.float().contiguous()
    run = _kernel(_value, DTYPES[x.dtype], weights.numel()).run
    spread(run, x.numel(), 0.2, x.data_ptr(), kept.data_ptr(), y.data_ptr(), multiple=1024)
    return y


def _run_gradient(grad: Tensor, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    out, count, size = empty_rows(x), weights.numel(), x.numel()
    grad, x = grad.contiguous(), x.contiguous()
    slopes = weights.float()[1:] * torch.arange(1, count, device=weights.device)
    blocks = -(-size // _BLOCK)
    partial = torch.zeros((blocks, count), dtype=torch.float64, device="cpu")
    addresses = (t.data_ptr() for t in (grad, x, slopes, out, partial))
    spread(_kernel(_gradient, DTYPES[x.dtype], count).run, blocks, 0.5 * _BLOCK, *addresses, size)
    return out, partial.sum(0).to(weights.dtype)


def _plain(x: Tensor, weights: Tensor) -> Tensor:
    wide = torch.relu(x if x.dtype == torch.float64 else x.float())
    total = weights[-1].to(wide.dtype).expand(wide.shape)
    for k in reversed(range(weights.numel() - 1)):
        total = total * wide + weights[k]
    return total.to(x.dtype).contiguous()


_POLYRELU = Fused(
    "polyrelu",
    tensors=("x", "coefficients"),
    run=_run,
    run_gradient=_run_gradient,
    plain=_plain,
    fake=lambda x, weights: x.new_empty(x.shape),
    fake_gradient=lambda grad, x, weights: (x.new_empty(x.shape), weights.new_empty(weights.shape)),
)


def check_coefficients(function: str, x: Tensor, weights: Tensor) -> None:
    """Raise unless x and the coefficients fit.

    Args:
        function: Public name, for the message.
        x: First operand.
        weights: Coefficients, lowest power first.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If the coefficients are not a vector of two or more on x's device.
    """
    check_floating(x, function)
    check_floating(weights, function)
    if weights.dim() != 1 or weights.numel() < 2 or weights.device != x.device:
        raise ValueError(
            f"{function} expects a vector of at least 2 coefficients on {x.device}, lowest power first, got "
            f"shape {tuple(weights.shape)} on {weights.device}; reshape or move it"
        )


def polyrelu(x: Tensor, coefficients: Tensor) -> Tensor:
    r"""Return $\sum_{i=0}^{r} a_i \max(x, 0)^i$, elementwise, with learnable coefficients.

    Args:
        x: Floating-point tensor of any shape.
        coefficients: $a_0, \dots, a_r$, of shape (r + 1,) for any order r from 1, in any floating dtype (read as
            float32).

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If the coefficients are not a vector of two or more on x's device.

    Numerics:
        Fused Horner steps in float32, rounded once for 16-bit tensors: the error is at most (r + 1) / 2 ulp of
        $\sum_i |a_i| \max(x, 0)^i$. With a = (0, 1, 0, ...) it is ReLU exactly, for finite x. NaN stays
        NaN; at infinity a zero coefficient gives NaN. The slope at 0 is 0. Backward is one sweep; the coefficients'
        gradient is added in float32 lanes over runs of 4096 and in float64 across them, the same bits for any number
        of threads.

    Example:
        >>> import torch
        >>> from steepest.functional import polyrelu
        >>> polyrelu(torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([0.0, 1.0, 1.0]))
        tensor([0.0000, 0.7500, 6.0000])

    References:
        Zhuo et al. (2024), Polynomial composition activations: unleashing the dynamics of large language models,
        arXiv 2411.03884, eq. 2. Deviation: the lowest power comes first.
    """
    check_coefficients("polyrelu", x, coefficients)
    return _POLYRELU(x, coefficients)
