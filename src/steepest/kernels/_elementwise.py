# SPDX-License-Identifier: Apache-2.0
"""Makes a public elementwise function from two float32 device functions and two lines of torch.

One loop serves every function and dtype: float16 and bfloat16 are widened, computed in float32 and rounded once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from steepest.kernels import _llvm
from steepest.kernels._memory import empty_like
from steepest.kernels._op import (
    DTYPES,
    KERNEL,
    OPERATOR,
    ORDINARY,
    PLAIN,
    applied,
    check_floating,
    define,
    like,
    needs_grad,
    route,
)
from steepest.kernels._pool import WORTH_A_TEAM_NS, spread
from steepest.kernels._registry import Kernel, device, specialize

#: Below this many elements torch's function takes less time than the checks that a kernel needs.
SMALL = 2048
#: Time of one element on one thread, about, for the decision to use several.
NANOSECONDS = 0.3
#: Up to here one thread works, and nobody needs to ask how many there are.
_ONE_THREAD = int(2 * WORTH_A_TEAM_NS / NANOSECONDS)
#: Elements of one thread's piece begin at multiples of this.
MULTIPLE = 1024


@device
def same(x):
    """Return x: how float32 memory is widened and narrowed."""
    return x


#: Dtype's short name -> (pointer, widen, narrow), the placeholders of an elementwise template.
MEMORY = {
    "f32": {"pointer": _llvm.f32_pointer, "widen": same, "narrow": same},
    "bf16": {"pointer": _llvm.u16_pointer, "widen": _llvm.f32_from_bfloat, "narrow": _llvm.bfloat_from_f32},
    "f16": {"pointer": _llvm.u16_pointer, "widen": _llvm.f32_from_half, "narrow": _llvm.half_from_f32},
}
pointer: Any = _llvm.f32_pointer
widen: Any = same
narrow: Any = same
f: Any = same


def _unary(x_address, y_address, start, stop):
    x, y = pointer(x_address), pointer(y_address)
    for i in range(start, stop):
        y[i] = narrow(f(widen(x[i])))


def _gradient(x_address, grad_address, out_address, start, stop):
    x, grad, out = pointer(x_address), pointer(grad_address), pointer(out_address)
    for i in range(start, stop):
        out[i] = narrow(f(widen(grad[i]), widen(x[i])))


class Elementwise:
    """An elementwise function with its gradient, on every route.

    Args:
        name: Public name; the operators are `steepest::<name>` and `steepest::<name>_gradient`.
        value: Device function x -> f(x), float32.
        gradient: Device function (grad, x) -> grad * f'(x), float32.
        plain: f in torch, differentiable to any order.
        plain_slope: f' in torch, differentiable to any order.
        small: torch's function, if its error is within the same bound: it takes tensors of fewer than `SMALL` elements.
        small_gradient: torch's function, if the gradient that torch derives from its result keeps its digits
            everywhere. A small tensor that needs a gradient then gets its graph from torch, in a fifth of the time
            that a Python function in autograd takes, and its values from the kernel. Else None.
    """

    def __init__(
        self,
        name: str,
        *,
        value: Callable[..., Any],
        gradient: Callable[..., Any],
        plain: Callable[[Tensor], Tensor],
        plain_slope: Callable[[Tensor], Tensor],
        small: Callable[[Tensor], Tensor] | None = None,
        small_gradient: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._small, self._small_gradient = small, small_gradient
        self.name, self.plain, self.plain_slope = name, plain, plain_slope
        self._value = {d: self._specialize(_unary, "", s, value) for d, s in DTYPES.items()}
        self._gradient = {d: self._specialize(_gradient, "_gradient", s, gradient) for d, s in DTYPES.items()}
        self._operator, self._gradient_operator = self._define()

    def _specialize(self, template: Callable[..., Any], suffix: str, dtype: str, function: Any) -> Kernel:
        arguments = ", ".join(["intp"] * template.__code__.co_argcount)
        return specialize(template, f"void({arguments})", f"{self.name}{suffix}_{dtype}", f=function, **MEMORY[dtype])

    def __call__(self, x: Tensor) -> Tensor:
        """Return f(x), by the fastest right way."""
        if (
            self._small is not None
            and not is_compiling()
            and type(x) in ORDINARY
            and x.dtype in DTYPES
            and x.numel() < SMALL
            and not x.requires_grad
        ):
            return self._small(x)
        way = route(x) if isinstance(x, Tensor) else PLAIN
        if way is KERNEL:
            if not needs_grad(x):
                return self.run(x)
            # torch multiplies 16-bit results, each rounded, where the kernel rounds once.
            if self._small_gradient is not None and x.dtype is torch.float32 and x.numel() < SMALL:
                return self._run_in_graph(x, self._small_gradient)
            return _apply(x, self)
        check_floating(x, self.name)
        return self._operator(x) if way is OPERATOR else self.plain(x)

    def _run_in_graph(self, x: Tensor, graph: Callable[[Tensor], Tensor]) -> Tensor:
        """Return f(x) with torch's gradient and the kernel's values, which torch also finds in what it saved."""
        y = graph(x)
        if y.dtype is x.dtype and y.stride() == x.stride():  # autocast may have changed the one
            self._value[x.dtype].run(x.data_ptr(), y.data_ptr(), 0, x.numel())
        return y

    def run(self, x: Tensor) -> Tensor:
        """Return f(x) by the kernel, without autograd."""
        y = empty_like(x)
        if not x.is_contiguous() and x.stride() != y.stride():
            x = y.copy_(x)
        run, size = self._value[x.dtype].run, x.numel()
        if size < _ONE_THREAD:  # `spread` would do the same, half a microsecond later
            run(x.data_ptr(), y.data_ptr(), 0, size)
        else:
            spread(run, size, NANOSECONDS, x.data_ptr(), y.data_ptr(), multiple=MULTIPLE)
        return y

    def gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return grad * f'(x): the kernel where nothing differentiates through it, else torch."""
        way = route(x, grad)
        if way is KERNEL and not needs_grad(grad, x):
            return self.run_gradient(grad, x)
        return self._gradient_operator(grad, x) if way is OPERATOR else grad * self.plain_slope(x)

    def run_gradient(self, grad: Tensor, x: Tensor) -> Tensor:
        """Return grad * f'(x) by the kernel, without autograd."""
        out, x, grad = like(x, grad)
        addresses = (x.data_ptr(), grad.data_ptr(), out.data_ptr())
        spread(self._gradient[x.dtype].run, x.numel(), NANOSECONDS, *addresses, multiple=MULTIPLE)
        return out

    def _define(self) -> tuple[Any, Any]:
        name, ops = self.name, torch.ops.steepest

        def save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            ctx.save_for_backward(*inputs)

        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return getattr(ops, f"{name}_gradient")(grad, *ctx.saved_tensors)

        def double_backward(ctx: Any, outer: Tensor) -> tuple[Tensor, ...]:
            return torch.func.vjp(lambda g, x: g * self.plain_slope(x), *ctx.saved_tensors)[1](outer)

        def batched(info: Any, in_dims: tuple[int | None, ...], x: Tensor) -> tuple[Tensor, int | None]:
            return getattr(ops, name)(x), in_dims[0]

        def batched_gradient(info: Any, in_dims: tuple[int | None, ...], grad: Tensor, x: Tensor) -> tuple[Tensor, int]:
            batch = [
                t.expand(info.batch_size, *t.shape) if d is None else t.movedim(d, 0)
                for t, d in zip((grad, x), in_dims, strict=True)
            ]
            return getattr(ops, f"{name}_gradient")(*batch), 0

        define(
            f"{name}_gradient(Tensor grad, Tensor x) -> Tensor",
            self.run_gradient,
            fake=lambda grad, x: torch.empty_like(x),
            backward=double_backward,
            setup_context=save,
            vmap=batched_gradient,
        )
        define(
            f"{name}(Tensor x) -> Tensor",
            self.run,
            fake=torch.empty_like,
            backward=backward,
            setup_context=save,
            vmap=batched,
        )
        return getattr(ops, name).default, getattr(ops, f"{name}_gradient").default


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Elementwise) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function = function
        return function.run(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return ctx.function.gradient(grad, x), None


_apply = applied(_Function)
