# SPDX-License-Identifier: Apache-2.0
"""PolyNorm: a polynomial whose powers are each normalized over the last dimension, with learnable coefficients."""

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._fused import Fused
from steepest.kernels._llvm import f32_pointer, f64_pointer
from steepest.kernels._memory import empty_rows
from steepest.kernels._op import DTYPES
from steepest.kernels._pool import spread
from steepest.kernels._powers import add_even_powers, add_powers, add_sums, coefficients, no_sums
from steepest.kernels._registry import Kernel, device, specialize
from steepest.kernels._rows import RUN, as_rows
from steepest.kernels._vector import WIDTH, lanes_max, load, load_some, splat, vfma, vhorner, vmax
from steepest.kernels._vector_stores import store, store_some
from steepest.kernels.polyrelu import POINTERS, check_coefficients

__all__ = ["polynorm"]

F32 = np.float32
_ZERO, _ONE, _MINUS_ONE = F32(0), F32(1), F32(-1)
#: A row whose sum of powers is not below this is multiplied by a power of two first.
_HIGHEST = 2.0**120
_ROWS_PER_BLOCK = 16
_NANOSECONDS = 0.8

# Placeholders of the templates.
pointer: Any = f32_pointer
ORDER = 3
MORE = 4


@device
def _largest(x, a, width):
    top = splat(_ZERO)
    whole = width // WIDTH * WIDTH
    for i in range(0, whole, WIDTH):
        v = load(x, a + i)
        top = vmax(top, vmax(v, v * _MINUS_ONE))
    if whole < width:
        v = load_some(x, a + whole, width - whole)
        top = vmax(top, vmax(v, v * _MINUS_ONE))
    return lanes_max(top)


@device
def _power_of_two_below(size):
    if size == _ZERO or size == np.inf:
        return _ONE
    return F32(math.ldexp(1.0, max(-math.frexp(size)[1], -126)))


@device
def _divide_by_norms(totals, c, weights, order, width, eps, factor):
    # c[k] = a_k over the root mean square of the k-th power, eps being one of the unscaled row.
    highest, square = True, float(factor) * float(factor)
    scaled = float(eps)
    for k in range(order):
        scaled *= square
        highest = highest and totals[k] < _HIGHEST
        c[k] = F32(float(weights[k + 1]) / math.sqrt(totals[k] / width + scaled))
    return highest


def _value(x_address, weight_address, y_address, scratch_address, distance, width, eps, start, stop):
    x, y, weights = pointer(x_address), pointer(y_address), f32_pointer(weight_address)
    whole = width // WIDTH * WIDTH
    for row in range(start, stop):
        totals = f64_pointer(scratch_address + 16 * ORDER * row)
        c = f32_pointer(scratch_address + 16 * ORDER * row + 8 * ORDER)
        a, b, factor = row * distance, row * width, _ONE
        for attempt in range(2):
            for k in range(ORDER):
                totals[k] = 0.0
            scale = splat(factor)
            for first in range(0, width, RUN):
                sums = no_sums(ORDER)
                for i in range(first, min(first + RUN, whole), WIDTH):
                    sums = add_even_powers(sums, load(x, a + i) * scale)
                if first + RUN > whole and whole < width:
                    sums = add_even_powers(sums, load_some(x, a + whole, width - whole) * scale)
                add_sums(totals, sums)
            if _divide_by_norms(totals, c, weights, ORDER, width, eps, factor) or attempt == 1:
                break
            factor = _power_of_two_below(_largest(x, a, width))
        poly, base, scale = coefficients(c, ORDER), splat(weights[0]), splat(factor)
        for i in range(0, whole, WIDTH):
            v = load(x, a + i) * scale
            store(y, b + i, vfma(v, vhorner(v, poly), base))
        if whole < width:
            v = load_some(x, a + whole, width - whole) * scale
            store_some(y, b + whole, vfma(v, vhorner(v, poly), base), width - whole)


@device
def _sums_of_row(grad, x, totals, products, none, none_more, d, a, width, factor):
    # totals: x^2, x^4, ...; products: g, g x, g x^2, ...
    whole = width // WIDTH * WIDTH
    for k in range(len(none)):
        totals[k] = 0.0
    for k in range(len(none_more)):
        products[k] = 0.0
    scale = splat(factor)
    for first in range(0, width, RUN):
        sums, more = none, none_more
        for i in range(first, min(first + RUN, whole), WIDTH):
            v = load(x, a + i) * scale
            sums, more = add_even_powers(sums, v), add_powers(more, load(grad, d + i), v)
        if first + RUN > whole and whole < width:
            v = load_some(x, a + whole, width - whole) * scale
            sums = add_even_powers(sums, v)
            more = add_powers(more, load_some(grad, d + whole, width - whole), v)
        add_sums(totals, sums)
        add_sums(products, more)


def _gradient(
    grad_address, x_address, weight_address, out_address, partial_address, scratch_address, distance, width, rows,
    eps, start, stop,
):  # fmt: skip
    grad, x, out, weights = pointer(grad_address), pointer(x_address), pointer(out_address), f32_pointer(weight_address)
    whole, none, none_more = width // WIDTH * WIDTH, no_sums(ORDER), no_sums(MORE)
    for block in range(start, stop):
        partial = f64_pointer(partial_address + 8 * (ORDER + 1) * block)
        scratch = scratch_address + 8 * (4 * ORDER + 1) * block
        totals, products = f64_pointer(scratch), f64_pointer(scratch + 8 * ORDER)
        c, e = f32_pointer(scratch + 8 * (2 * ORDER + 1)), f32_pointer(scratch + 8 * (3 * ORDER + 1))
        for row in range(block * _ROWS_PER_BLOCK, min((block + 1) * _ROWS_PER_BLOCK, rows)):
            a, d, factor = row * distance, row * width, _ONE
            for attempt in range(2):
                _sums_of_row(grad, x, totals, products, none, none_more, d, a, width, factor)
                if _divide_by_norms(totals, c, weights, ORDER, width, eps, factor) or attempt == 1:
                    break
                factor = _power_of_two_below(_largest(x, a, width))
            partial[0] += products[0]
            scaled = float(eps)
            for k in range(ORDER):
                scaled *= float(factor) * float(factor)
                square = totals[k] / width + scaled
                partial[k + 1] += products[k + 1] / math.sqrt(square)
                # Each coefficient carries the factor that the derivative by the unscaled row needs.
                slope = float(c[k]) * (k + 1) * float(factor)
                e[k] = F32(-slope * products[k + 1] / (width * square))
                c[k] = F32(slope)
            by_grad, by_row, scale = coefficients(c, ORDER), coefficients(e, ORDER), splat(factor)
            for i in range(0, whole, WIDTH):
                v = load(x, a + i) * scale
                store(out, d + i, vfma(load(grad, d + i), vhorner(v, by_grad), v * vhorner(v * v, by_row)))
            if whole < width:
                count = width - whole
                v, g = load_some(x, a + whole, count) * scale, load_some(grad, d + whole, count)
                store_some(out, d + whole, vfma(g, vhorner(v, by_grad), v * vhorner(v * v, by_row)), count)


@functools.cache
def _kernel(template: Any, dtype: str, order: int) -> Kernel:
    integers = template.__code__.co_argcount - 3
    name = f"polynorm{'_gradient' if template is _gradient else ''}_{order}_{dtype}"
    signature = f"void({integers * 'intp, '}float64, intp, intp)"
    return specialize(template, signature, name, pointer=POINTERS[dtype], ORDER=order, MORE=order + 1)


# PolyCom's order, for `warmup`; other orders are compiled when first used.
for _dtype in DTYPES.values():
    _kernel(_value, _dtype, 3)
    _kernel(_gradient, _dtype, 3)


def _run(x: Tensor, weights: Tensor, eps: float) -> Tensor:
    y, order = empty_rows(x), weights.numel() - 1
    x, distance = as_rows(x)
    width, kept = x.shape[-1], weights.float().contiguous()
    rows = x.numel() // max(width, 1)
    scratch = torch.empty(rows * 2 * order, dtype=torch.float64, device="cpu")
    addresses = (t.data_ptr() for t in (x, kept, y, scratch))
    run = _kernel(_value, DTYPES[x.dtype], order).run
    spread(run, rows, _NANOSECONDS * width, *addresses, distance, width, eps)
    return y


def _run_gradient(grad: Tensor, x: Tensor, weights: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    out, order = empty_rows(x), weights.numel() - 1
    x, distance = as_rows(x)
    width, grad, kept = x.shape[-1], grad.contiguous(), weights.float().contiguous()
    rows = x.numel() // max(width, 1)
    blocks = -(-rows // _ROWS_PER_BLOCK)
    partial = torch.zeros((blocks, order + 1), dtype=torch.float64, device="cpu")
    scratch = torch.empty(blocks * (4 * order + 1), dtype=torch.float64, device="cpu")
    addresses = (t.data_ptr() for t in (grad, x, kept, out, partial, scratch))
    run = _kernel(_gradient, DTYPES[x.dtype], order).run
    spread(run, blocks, 2 * _NANOSECONDS * width * _ROWS_PER_BLOCK, *addresses, distance, width, rows, eps)
    return out, partial.sum(0).to(weights.dtype)


def _plain(x: Tensor, weights: Tensor, eps: float) -> Tensor:
    wide = x if x.dtype == torch.float64 else x.float()
    total, power = weights[0].to(wide.dtype).expand(wide.shape), wide.double()
    for k in range(1, weights.numel()):
        power = power if k == 1 else power * wide
        scale = torch.rsqrt(power.square().mean(-1, keepdim=True) + eps)
        total = total + weights[k] * (power * scale).to(wide.dtype)
    return total.to(x.dtype).contiguous()


_POLYNORM = Fused(
    "polynorm",
    tensors=("x", "coefficients"),
    constants=("float eps",),
    run=_run,
    run_gradient=_run_gradient,
    plain=_plain,
    fake=lambda x, weights, eps: x.new_empty(x.shape),
    fake_gradient=lambda grad, x, weights, eps: (x.new_empty(x.shape), weights.new_empty(weights.shape)),
)


def polynorm(x: Tensor, coefficients: Tensor, eps: float = 1e-6) -> Tensor:
    r"""Return $a_0 + \sum_{i=1}^{r} a_i \, x^i / \sqrt{\mathrm{mean}(x^{2i}) + \epsilon}$.

    The means are over the last dimension.

    Args:
        x: Floating-point tensor (..., width).
        coefficients: $a_0, \dots, a_r$, of shape (r + 1,) for any order r from 1, in any floating dtype (read as
            float32).
        eps: Added to each mean, not negative.

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If x has no dimensions, the coefficients are not a vector of two or more on x's device, or eps is
            negative.

    Numerics:
        Powers and Horner steps in float32, sums in float32 lanes over runs of 4096 and float64 across them; one
        rounding for 16-bit tensors. A row whose powers would overflow is multiplied by a power of two first, so every
        finite row gives a finite result. A row with NaN or inf gives what the formula gives. Backward is one sweep;
        the coefficients' gradient is added in float64, the same bits for any number of threads.

    Example:
        >>> import torch
        >>> from steepest.functional import polynorm
        >>> polynorm(torch.tensor([[3.0, -3.0, 3.0]]), torch.tensor([0.0, 0.5, 0.25]))
        tensor([[ 0.7500, -0.2500,  0.7500]])

    References:
        Zhuo et al. (2024), Polynomial composition activations: unleashing the dynamics of large language models,
        arXiv 2411.03884, eq. 3. Deviation: the lowest power comes first.
    """
    check_coefficients("polynorm", x, coefficients)
    if x.dim() == 0:
        raise ValueError("polynorm normalizes the last dimension, got a tensor without dimensions; reshape it")
    if not eps >= 0:
        raise ValueError(f"polynorm expects eps >= 0, got {eps}")
    return _POLYNORM(x, coefficients, float(eps))
