# SPDX-License-Identifier: Apache-2.0
"""Gated linear units on two projections, or on one packed projection: activation and product in one sweep."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from steepest.kernels import _gates
from steepest.kernels._elementwise import MEMORY, MULTIPLE, same
from steepest.kernels._fused import Fused
from steepest.kernels._llvm import f32_pointer
from steepest.kernels._memory import empty_rows
from steepest.kernels._op import DTYPES, check_floating
from steepest.kernels._pool import spread
from steepest.kernels._registry import Kernel, specialize
from steepest.kernels._rows import as_rows

__all__ = ["bilinear", "geglu", "glu", "reglu", "swiglu"]

pointer: Any = f32_pointer
widen: Any = same
narrow: Any = same
value: Any = same
slope: Any = same


def _gated(addresses, distances, width, start, stop):
    gate, up, out = pointer(addresses[0]), pointer(addresses[1]), pointer(addresses[2])
    position = start
    while position < stop:
        row = position // width
        column = position - row * width
        count = min(width - column, stop - position)
        a, b = row * distances[0] + column, row * distances[1] + column
        for i in range(count):
            out[position + i] = narrow(value(widen(gate[a + i])) * widen(up[b + i]))
        position += count


def _gated_gradient(addresses, distances, width, start, stop):
    grad, gate, up = pointer(addresses[0]), pointer(addresses[1]), pointer(addresses[2])
    gate_grad, up_grad = pointer(addresses[3]), pointer(addresses[4])
    position = start
    while position < stop:
        row = position // width
        column = position - row * width
        count = min(width - column, stop - position)
        a, b, c = row * distances[0] + column, row * distances[1] + column, row * distances[2] + column
        for i in range(count):
            g = widen(grad[position + i])
            activation, derivative = slope(widen(gate[a + i]))
            gate_grad[c + i] = narrow(g * widen(up[b + i]) * derivative)
            up_grad[c + i] = narrow(g * activation)
        position += count


def _flat_or_rows(*tensors: Tensor) -> tuple[list[Tensor], list[int], int]:
    """Return the tensors, their row distances, and the row width: one row if all of them are dense."""
    for tensor in tensors:
        if not tensor.is_contiguous():
            break
    else:
        size = tensors[0].numel()
        return list(tensors), [size] * len(tensors), max(size, 1)
    rows = [as_rows(tensor) for tensor in tensors]
    return [tensor for tensor, _ in rows], [distance for _, distance in rows], max(tensors[0].shape[-1], 1)


class Gated:
    """One gated unit, on two tensors and on a packed one.

    Args:
        name: Public name; the packed operators are `steepest::<name>_packed` and `..._packed_gradient`.
        value: Device function gate -> activation, float32.
        slope: Device function gate -> (activation, its derivative), float32.
        plain: The activation in torch, differentiable to any order.
        nanoseconds: Time of one element on one thread.
    """

    def __init__(
        self,
        name: str,
        *,
        value: Callable[..., Any],
        slope: Callable[..., Any],
        plain: Callable[[Tensor], Tensor],
        nanoseconds: float = 0.5,
    ) -> None:
        self.nanoseconds, self.activation = nanoseconds, plain
        self._value = {d: _kernel(_gated, 3, 2, f"{name}_{s}", s, value=value) for d, s in DTYPES.items()}
        self._slope = {
            d: _kernel(_gated_gradient, 5, 3, f"{name}_gradient_{s}", s, slope=slope) for d, s in DTYPES.items()
        }
        self.pair = Fused(
            name,
            tensors=("gate", "up"),
            run=self.run,
            run_gradient=self.run_gradient,
            plain=lambda gate, up: (plain(gate) * up).contiguous(),
            fake=lambda gate, up: gate.new_empty(gate.shape),
            fake_gradient=lambda grad, gate, up: (gate.new_empty(gate.shape), up.new_empty(up.shape)),
        )
        self.packed = Fused(
            f"{name}_packed",
            tensors=("packed",),
            run=lambda packed: self.run(*packed.chunk(2, -1)),
            run_gradient=self.run_packed_gradient,
            plain=lambda packed: (plain(packed.chunk(2, -1)[0]) * packed.chunk(2, -1)[1]).contiguous(),
            fake=lambda packed: packed.new_empty((*packed.shape[:-1], packed.shape[-1] // 2)),
            fake_gradient=lambda grad, packed: packed.new_empty(packed.shape),
        )

    def run(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return the product by the kernel, without autograd."""
        out = empty_rows(gate)
        (gate, up), distances, width = _flat_or_rows(gate, up)
        addresses = (gate.data_ptr(), up.data_ptr(), out.data_ptr())
        run = self._value[out.dtype].run
        spread(run, out.numel(), self.nanoseconds, addresses, (distances[0], distances[1]), width, multiple=MULTIPLE)
        return out

    def run_gradient(self, grad: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Return both gradients by the kernel, without autograd."""
        gate_grad, up_grad = empty_rows(gate), empty_rows(up)
        self._fill(grad, gate, up, gate_grad, up_grad)
        return gate_grad, up_grad

    def run_packed_gradient(self, grad: Tensor, packed: Tensor) -> Tensor:
        """Return the gradient of the packed projection by the kernel, without autograd."""
        out = empty_rows(packed)
        self._fill(grad, *packed.chunk(2, -1), *out.chunk(2, -1))
        return out

    def _fill(self, grad: Tensor, gate: Tensor, up: Tensor, gate_grad: Tensor, up_grad: Tensor) -> None:
        grad = grad.contiguous()
        (gate, up, gate_grad, up_grad), distances, width = _flat_or_rows(gate, up, gate_grad, up_grad)
        addresses = (grad.data_ptr(), gate.data_ptr(), up.data_ptr(), gate_grad.data_ptr(), up_grad.data_ptr())
        run, steps = self._slope[gate.dtype].run, (distances[0], distances[1], distances[2])
        spread(run, grad.numel(), 2 * self.nanoseconds, addresses, steps, width, multiple=MULTIPLE)

    def __call__(self, gate: Tensor, up: Tensor | None, name: str) -> Tensor:
        """Return the unit of a pair, or of a packed projection when up is None."""
        check_floating(gate, name)
        if up is None:
            if gate.dim() == 0 or gate.shape[-1] % 2:
                raise ValueError(
                    f"{name} of one packed projection splits its last dimension in halves, got shape "
                    f"{tuple(gate.shape)}; pass (gate, up), or an even last dimension"
                )
            return self.packed(gate)
        check_floating(up, name)
        if gate.shape != up.shape or gate.dtype != up.dtype or gate.device != up.device:
            raise ValueError(
                f"{name} expects gate and up of one shape, dtype and device, got {tuple(gate.shape)} {gate.dtype} "
                f"{gate.device} and {tuple(up.shape)} {up.dtype} {up.device}; expand or convert one of them"
            )
        return self.pair(gate, up)


def _kernel(
    template: Callable[..., Any], addresses: int, distances: int, name: str, dtype: str, **functions: Any
) -> Kernel:
    signature = f"void(UniTuple(intp, {addresses}), UniTuple(intp, {distances}), intp, intp, intp)"
    return specialize(template, signature, name, **functions, **MEMORY[dtype])


_GLU = Gated("glu", value=_gates.sigmoid, slope=_gates.sigmoid_slope, plain=_gates.plain_sigmoid)
_BILINEAR = Gated("bilinear", value=same, slope=_gates.identity_slope, plain=lambda gate: gate)
_REGLU = Gated("reglu", value=_gates.relu, slope=_gates.relu_slope, plain=torch.relu)
_GEGLU = Gated("geglu", value=_gates.gelu, slope=_gates.gelu_slope, plain=_gates.plain_gelu)
_GEGLU_TANH = Gated("geglu_tanh", value=_gates.gelu_tanh, slope=_gates.gelu_tanh_slope, plain=_gates.plain_gelu_tanh)
_SWIGLU = Gated("swiglu", value=_gates.silu, slope=_gates.silu_slope, plain=_gates.plain_silu)


def glu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    r"""Return $\sigma(g) \odot u$ for a gate g and a projection u, elementwise, in one sweep.

    Args:
        gate: Gate g of any shape; or, when `up` is not given, the packed projection (..., 2 width) whose first half is
            the gate and whose second half is u. Neither is copied if its rows are dense.
        up: Projection u, of gate's shape, dtype and device.

    Returns:
        A new contiguous tensor of gate's shape and dtype, (..., width) for a packed projection.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If gate and up differ in shape, dtype or device, or a packed projection has an odd last dimension.

    Numerics:
        float32 arithmetic, rounded once for 16-bit tensors. Within 2.7 ulp of the exact product for every float32 gate,
        down to subnormal results of the activation; the gradients have absolute error of a few ulp of their largest
        factor.
        The backward pass keeps the inputs alone and computes both gradients in one sweep.

    Example:
        >>> import torch
        >>> from steepest.functional import glu
        >>> glu(torch.tensor([0.0, 2.0]), torch.tensor([4.0, 1.0]))
        tensor([2.0000, 0.8808])

    References:
        Shazeer (2020), GLU variants improve transformer, arXiv 2002.05202, GLU.
    """
    return _GLU(gate, up, "glu")


def bilinear(gate: Tensor, up: Tensor | None = None) -> Tensor:
    r"""Return $g \odot u$ for a gate g and a projection u, elementwise, in one sweep.

    Args:
        gate: Gate g of any shape; or, when `up` is not given, the packed projection (..., 2 width) whose first half is
            the gate and whose second half is u. Neither is copied if its rows are dense.
        up: Projection u, of gate's shape, dtype and device.

    Returns:
        A new contiguous tensor of gate's shape and dtype, (..., width) for a packed projection.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If gate and up differ in shape, dtype or device, or a packed projection has an odd last dimension.

    Numerics:
        float32 arithmetic, rounded once for 16-bit tensors. The product is exact but for that rounding.
        The backward pass keeps the inputs alone and computes both gradients in one sweep.

    Example:
        >>> import torch
        >>> from steepest.functional import bilinear
        >>> bilinear(torch.tensor([0.0, 2.0]), torch.tensor([4.0, 1.5]))
        tensor([0., 3.])

    References:
        Shazeer (2020), GLU variants improve transformer, arXiv 2002.05202, Bilinear.
    """
    return _BILINEAR(gate, up, "bilinear")


def reglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    r"""Return $\max(g, 0) \odot u$ for a gate g and a projection u, elementwise, in one sweep.

    Args:
        gate: Gate g of any shape; or, when `up` is not given, the packed projection (..., 2 width) whose first half is
            the gate and whose second half is u. Neither is copied if its rows are dense.
        up: Projection u, of gate's shape, dtype and device.

    Returns:
        A new contiguous tensor of gate's shape and dtype, (..., width) for a packed projection.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If gate and up differ in shape, dtype or device, or a packed projection has an odd last dimension.

    Numerics:
        float32 arithmetic, rounded once for 16-bit tensors. NaN stays NaN; the slope at 0 is 0.
        The backward pass keeps the inputs alone and computes both gradients in one sweep.

    Example:
        >>> import torch
        >>> from steepest.functional import reglu
        >>> reglu(torch.tensor([-1.0, 2.0]), torch.tensor([4.0, 1.5]))
        tensor([0., 3.])

    References:
        Shazeer (2020), GLU variants improve transformer, arXiv 2002.05202, ReGLU.
    """
    return _REGLU(gate, up, "reglu")


def geglu(gate: Tensor, up: Tensor | None = None, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    r"""Return $\mathrm{GELU}(g) \odot u$ for a gate g and a projection u, elementwise, in one sweep.

    Args:
        gate: Gate g of any shape; or, when `up` is not given, the packed projection (..., 2 width) whose first half is
            the gate and whose second half is u. Neither is copied if its rows are dense.
        up: Projection u, of gate's shape, dtype and device.
        approximate: "none" for $g \Phi(g)$; "tanh" for $g (1 + \tanh(\sqrt{2 / \pi} (g + 0.044715 g^3))) / 2$.

    Returns:
        A new contiguous tensor of gate's shape and dtype, (..., width) for a packed projection.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If gate and up differ in shape, dtype or device, or a packed projection has an odd last dimension,
            or approximate is not one of the two.

    Numerics:
        float32 arithmetic, rounded once for 16-bit tensors. Within 4.6 ulp of the exact product for every float32 gate,
        down to subnormal results of the activation; the gradients have absolute error of a few ulp of their largest
        factor.
        The backward pass keeps the inputs alone and computes both gradients in one sweep.

    Example:
        >>> import torch
        >>> from steepest.functional import geglu
        >>> geglu(torch.tensor([0.0, 2.0]), torch.tensor([4.0, 1.0]))
        tensor([0.0000, 1.9545])

    References:
        Shazeer (2020), GLU variants improve transformer, arXiv 2002.05202, GEGLU.
    """
    if approximate not in {"none", "tanh"}:
        raise ValueError(f"geglu expects approximate='none' or 'tanh', got {approximate!r}")
    return (_GEGLU if approximate == "none" else _GEGLU_TANH)(gate, up, "geglu")


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    r"""Return $g \, \sigma(g) \odot u$ for a gate g and a projection u, elementwise, in one sweep.

    Args:
        gate: Gate g of any shape; or, when `up` is not given, the packed projection (..., 2 width) whose first half is
            the gate and whose second half is u. Neither is copied if its rows are dense.
        up: Projection u, of gate's shape, dtype and device.

    Returns:
        A new contiguous tensor of gate's shape and dtype, (..., width) for a packed projection.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If gate and up differ in shape, dtype or device, or a packed projection has an odd last dimension.

    Numerics:
        float32 arithmetic, rounded once for 16-bit tensors. Within 2.7 ulp of the exact product for every float32 gate,
        down to subnormal results of the activation; the gradients have absolute error of a few ulp of their largest
        factor.
        The backward pass keeps the inputs alone and computes both gradients in one sweep.

    Example:
        >>> import torch
        >>> from steepest.functional import swiglu
        >>> swiglu(torch.tensor([0.0, 2.0]), torch.tensor([4.0, 1.0]))
        tensor([0.0000, 1.7616])

    References:
        Shazeer (2020), GLU variants improve transformer, arXiv 2002.05202, SwiGLU.
    """
    return _SWIGLU(gate, up, "swiglu")
