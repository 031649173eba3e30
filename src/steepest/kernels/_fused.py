# SPDX-License-Identifier: Apache-2.0
"""A function of several tensors and numbers with a kernel for its value and one for all its gradients, on every route.

`Elementwise` is the same idea for one tensor; this is for gated pairs, learnable parameters, rows and several outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from steepest.kernels._op import DTYPES, KERNEL, OPERATOR, applied, define, needs_grad, route

Outputs = Tensor | tuple[Tensor, ...]


def _tuple(outputs: Outputs) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _returns(count: int) -> str:
    return "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"


class Fused:
    """A function of tensors and constants, on every route.

    A gradient takes (one gradient an output, what was saved, the constants) and returns one tensor an input, or fewer:
    `share` says which of them each input gets.

    Args:
        name: Public name; the operators are `steepest::<name>` and `steepest::<name>_gradient`.
        tensors: Names of the tensor arguments; they come first and are all differentiable.
        constants: Schema of the other arguments, such as `("float eps",)`.
        run: (*tensors, *constants) -> outputs, by the kernel; new tensors.
        run_gradient: (*grads, *saved, *constants) -> gradients, by the kernel; new tensors.
        plain: The value in torch, differentiable to any order.
        plain_gradient: The gradients in torch, differentiable to any order; by default by `torch.func.vjp` of plain.
        fake: Shapes, dtypes and strides of the outputs.
        fake_gradient: The same of the gradients.
        outputs: How many outputs.
        saved: (inputs, outputs) -> the tensors kept for backward; by default the inputs.
        share: For each input, the index of its gradient.
    """

    def __init__(
        self,
        name: str,
        *,
        tensors: Sequence[str],
        run: Callable[..., Any],
        run_gradient: Callable[..., Any],
        plain: Callable[..., Any],
        fake: Callable[..., Any],
        fake_gradient: Callable[..., Any],
        constants: Sequence[str] = (),
        plain_gradient: Callable[..., Any] | None = None,
        outputs: int = 1,
        saved: Callable[..., tuple[Tensor, ...]] | None = None,
        share: Sequence[int] | None = None,
    ) -> None:
        self.name, self.tensors, self.constants, self.outputs = name, tuple(tensors), tuple(constants), outputs
        self.run, self.run_gradient, self.plain = run, run_gradient, plain
        self.share = tuple(share) if share is not None else tuple(range(len(self.tensors)))
        self.saved = saved or (lambda inputs, outputs: inputs)
        self._plain_gradient = plain_gradient
        self._operator, self._gradient_operator = self._define(fake, fake_gradient)

    def __call__(self, *args: Any) -> Any:
        """Return the outputs for (*tensors, *constants), by the fastest right way."""
        tensors = args[: len(self.tensors)]
        way = route(*tensors)
        if way is KERNEL:
            for tensor in tensors:
                if tensor.dtype not in DTYPES or not tensor.is_cpu:
                    return self.plain(*args)
            return _apply(self, *args) if needs_grad(*tensors) else self.run(*args)
        return self._operator(*args) if way is OPERATOR else self.plain(*args)

    def gradient(self, grads: tuple[Tensor, ...], saved: tuple[Tensor, ...], constants: tuple[Any, ...]) -> Any:
        """Return the gradients: the kernel where nothing differentiates through it, else torch."""
        way = route(*saved, *grads)
        if way is KERNEL and not needs_grad(*grads, *saved):
            return self.run_gradient(*grads, *saved, *constants)
        if way is OPERATOR:
            return self._gradient_operator(*grads, *saved, *constants)
        return self.plain_gradient(*grads, *saved, *constants)

    def plain_gradient(self, *args: Any) -> Outputs:
        """Return the gradients in torch."""
        if self._plain_gradient is not None:
            return self._plain_gradient(*args)
        count = self.outputs + len(self.tensors)
        grads, tensors, constants = args[: self.outputs], args[self.outputs : count], args[count:]
        gradients = torch.func.vjp(lambda *t: self.plain(*t, *constants), *tensors)[1](*_bundle(grads))
        return gradients[0] if len(gradients) == 1 else gradients

    def for_inputs(self, gradients: Outputs) -> tuple[Any, ...]:
        """Return what backward returns: one gradient an input, and None for each constant."""
        several = _tuple(gradients)
        return (*(several[i] for i in self.share), *(None for _ in self.constants))

    def _define(self, fake: Callable[..., Any], fake_gradient: Callable[..., Any]) -> tuple[Any, Any]:
        ops, name, gradient_name = torch.ops.steepest, self.name, f"{self.name}_gradient"
        count = len(self.tensors)

        def save(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
            ctx.save_for_backward(*self.saved(inputs[:count], output))
            ctx.constants = inputs[count:]

        def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
            return self.for_inputs(getattr(ops, gradient_name)(*grads, *ctx.saved_tensors, *ctx.constants))

        arity = self.outputs + len(self.saved(self.tensors, ("",) * self.outputs))  # pyright: ignore[reportArgumentType]

        def save_gradient(ctx: Any, inputs: tuple[Any, ...], output: Outputs) -> None:
            ctx.save_for_backward(*inputs[:arity])
            ctx.constants = inputs[arity:]

        def double_backward(ctx: Any, *outer: Tensor) -> tuple[Any, ...]:
            def gradients(*tensors: Tensor) -> Outputs:
                return self.plain_gradient(*tensors, *ctx.constants)

            results = torch.func.vjp(gradients, *ctx.saved_tensors)[1](*_bundle(outer))
            return (*results, *(None for _ in self.constants))

        arguments = ", ".join([f"Tensor t{i}" for i in range(arity)] + list(self.constants))
        distinct = len(set(self.share))
        define(
            f"{gradient_name}({arguments}) -> {_returns(distinct)}",
            self.run_gradient,
            fake=fake_gradient,
            backward=double_backward,
            setup_context=save_gradient,
            vmap=_batched(gradient_name, distinct),
        )
        arguments = ", ".join([f"Tensor {t}" for t in self.tensors] + list(self.constants))
        define(
            f"{name}({arguments}) -> {_returns(self.outputs)}",
            self.run,
            fake=fake,
            backward=backward,
            setup_context=save,
            vmap=_batched(name, self.outputs),
        )
        return getattr(ops, name).default, getattr(ops, gradient_name).default


def _bundle(grads: Sequence[Tensor]) -> tuple[Any, ...]:
    # A vjp takes what its function returns: a tensor, or one tuple of them.
    return (grads[0],) if len(grads) == 1 else (tuple(grads),)


def _batched(name: str, outputs: int) -> Callable[..., Any]:
    # Only for vmap over the operator itself: the public function takes the plain path there.
    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        operator = getattr(torch.ops.steepest, name)
        each = [
            _tuple(operator(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True))))
            for i in range(info.batch_size)
        ]
        stacked = tuple(torch.stack(several) for several in zip(*each, strict=True))
        return (stacked[0], 0) if outputs == 1 else (stacked, (0,) * outputs)

    return rule


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, fused: Fused, *args: Any) -> Any:
        outputs, count = fused.run(*args), len(fused.tensors)
        ctx.save_for_backward(*fused.saved(args[:count], outputs))
        ctx.fused, ctx.constants = fused, args[count:]
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return None, *ctx.fused.for_inputs(ctx.fused.gradient(grads, ctx.saved_tensors, ctx.constants))


_apply = applied(_Function)
