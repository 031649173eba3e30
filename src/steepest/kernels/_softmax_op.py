# SPDX-License-Identifier: Apache-2.0
"""Softmax and log-softmax on every route: which algorithm, over any dim, with mask and temperature, and gradients."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steepest.kernels import _llvm
from steepest.kernels import _softmax_kernels as kernels
from steepest.kernels._caches import caches
from steepest.kernels._memory import empty_rows
from steepest.kernels._op import KERNEL, OPERATOR, applied, define, needs_grad, route
from steepest.kernels._pool import spread
from steepest.kernels._softmax_rows import ONLINE, ONLINE_RELOAD, RECOMPUTE, RELOAD, TWO_PASS

AUTO = -1
#: Public name to code.
ALGORITHMS = {
    "auto": AUTO,
    "two_pass": TWO_PASS,
    "online": ONLINE,
    "online_reload": ONLINE_RELOAD,
    "three_pass_reload": RELOAD,
    "three_pass_recompute": RECOMPUTE,
}
NANOSECONDS = 0.6
_FEW_REGISTERS = 4 * 64
_NAN = float("nan")
#: Algorithms that write each result once, so that it need not stay in a cache.
SINGLE_WRITE = (RECOMPUTE, TWO_PASS, ONLINE)
KEEPING = (RELOAD, ONLINE_RELOAD)
#: Tensors of fewer elements take the shortest way through Python.
SMALL = 4096


def best_algorithm(row_bytes: int, rows: int = 1, wide: bool = _llvm.HAS_VECTOR_LDEXP) -> int:
    """Return the code of the fastest softmax for float32 rows of this many bytes.

    Measured on idle EPYCs of family 23, model 1 (AVX2, 8 MiB of last-level cache) and family 25, model 17 (AVX-512,
    32 MiB), one and two threads, rows of 2^4 to 2^26: to compute each exponential once and keep the terms wins, in the
    caches and outside them. Only where registers of 512 bits make an exponential cheap, and the row is far larger than
    the caches, is it as fast to read it twice and to write once, past the caches; two threads that share the memory's
    bandwidth gain a quarter by it. The number of threads has no part in the choice, so it changes no bit of the result.

    Args:
        row_bytes: Four times the length of a row.
        rows: Number of rows.
        wide: Whether the processor has AVX-512.

    Returns:
        ONLINE_RELOAD; RELOAD for a row of less than four registers, whose sweeps are a few instructions each; ONLINE on
        a wide processor if a row, or two where there are two, take at least four times the last-level cache.
    """
    if row_bytes < _FEW_REGISTERS:
        return RELOAD
    return ONLINE if wide and min(rows, 2) * row_bytes >= 4 * caches().last else ONLINE_RELOAD


def rows_last(x: Tensor, dim: int) -> Tensor:
    """Return x with dim moved last, contiguous; x itself if it is so.

    Args:
        x: Tensor with at least one dimension.
        dim: Not negative.

    Returns:
        A tensor whose rows are contiguous.
    """
    return x.contiguous() if dim == x.ndim - 1 else x.movedim(dim, -1).contiguous()


def _mask_rows(mask: Tensor | None, x: Tensor, dim: int) -> tuple[Tensor, Tensor, int]:
    """Return what must stay alive, the address of each row's mask, and its step (0: a line of zeros)."""
    lead = x.shape[:dim] + x.shape[dim + 1 :]
    if mask is None:
        zeros = torch.zeros(kernels.WIDTH, dtype=torch.float32, device="cpu")
        return zeros, torch.full((lead.numel(),), zeros.data_ptr(), device="cpu"), 0
    rows = mask.float().expand(x.shape).movedim(dim, -1)
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    address = torch.full(lead, rows.data_ptr(), device="cpu")
    for i, size in enumerate(lead):
        step = 4 * rows.stride(i)
        if size > 1 and step:
            steps = torch.arange(0, size * step, step, device="cpu")
            address += steps.view([-1 if j == i else 1 for j in range(len(lead))])
    return rows, address, 1


class Normalized:
    """A function of rows whose gradient needs only its output: softmax or log-softmax.

    Args:
        name: Public name; the operators are `steepest::<name>` and `steepest::<name>_gradient`.
        forward: Kernels by dtype, and whether the algorithm keeps terms.
        masked: The same with mask and temperature.
        backward: Kernels of the gradient by dtype.
        fill: What a fully masked row becomes when it is not NaN.
        plain: (logits, dim) -> result, in torch.
    """

    def __init__(
        self, name: str, forward: Any, masked: Any, backward: Any, fill: float, plain: Callable[[Tensor, int], Tensor]
    ) -> None:
        self.name, self.forward, self.masked, self.backward = name, forward, masked, backward
        self.fill, self.torch = fill, plain
        self.operator, self.gradient_operator = self._define()

    def __call__(
        self, x: Tensor, dim: int, mask: Tensor | None, temperature: float, algorithm: int, constant: bool
    ) -> Tensor:
        """Return the result by the fastest right way; dim is not negative, constant says that fill is wanted."""
        way = route(x) if mask is None else route(x, mask)
        if way is KERNEL:
            if needs_grad(x) or (mask is not None and needs_grad(mask)):
                apply = _apply_to_logits if self.from_logits(x.dtype) else _apply
                return apply(x, mask, self, dim, temperature, algorithm, constant)
            return self.run(x, dim, mask, temperature, algorithm, constant)
        if way is OPERATOR:
            return self.operator(x, dim, mask, temperature, algorithm, constant)
        return self.plain(x, dim, mask, temperature, constant)

    def small(self, x: Tensor, dim: int) -> Tensor | None:
        """Return the result for a small tensor of contiguous rows with the least overhead; None for any other."""
        if route(x) is not KERNEL:  # first, because a compiler must not make a guard of the size
            return None
        ndim, size = x.ndim, x.numel()
        if not 0 < size < SMALL or ndim == 0 or (dim != -1 and dim != ndim - 1) or not x.is_contiguous():
            return None
        if x.requires_grad and torch.is_grad_enabled():
            # torch's graph, in a fifth of the time that a Python function in autograd takes, with the kernel's values
            # in it, which are also what torch saved for its gradient.
            y = self.torch(x, dim)
            if y.dtype is not x.dtype or self.from_logits(x.dtype):  # autocast may have changed it
                return None
        else:
            y = torch.empty_like(x)
        n = x.shape[-1]
        algorithm = ONLINE_RELOAD if self.fill == 0.0 else RECOMPUTE
        self.forward[x.dtype, self.fill == 0.0].run(x.data_ptr(), y.data_ptr(), n, algorithm, _NAN, 0, 0, size // n)
        return y

    def from_logits(self, dtype: torch.dtype) -> bool:
        """Return whether the gradient is taken from the logits: 16 bits of a log-probability are too few for it."""
        return self.fill != 0.0 and dtype is not torch.float32

    def run(
        self, x: Tensor, dim: int, mask: Tensor | None, temperature: float, algorithm: int, constant: bool
    ) -> Tensor:
        """Return the result by the kernel, without autograd."""
        if dim == x.ndim - 1:
            rows = x.contiguous()
            y = empty_rows(rows)
            self.run_rows(rows, y, x, dim, mask, temperature, algorithm, constant)
            return y
        rows = rows_last(x, dim)
        out = torch.empty_like(rows)
        self.run_rows(rows, out, x, dim, mask, temperature, algorithm, constant)
        return torch.empty_like(x, memory_format=torch.contiguous_format).copy_(out.movedim(-1, dim))

    def run_rows(
        self,
        rows: Tensor,
        out: Tensor,
        x: Tensor,
        dim: int,
        mask: Tensor | None,
        temperature: float,
        algorithm: int,
        constant: bool,
    ) -> None:
        """Write the result for contiguous rows to out, which may be rows; x and dim say how the mask broadcasts."""
        n = rows.shape[-1]
        if n == 0 or (count := rows.numel() // n) == 0:
            return
        if algorithm < 0:
            algorithm = best_algorithm(4 * n, count) if self.fill == 0.0 or n > ONE_SWEEP else RECOMPUTE
        if algorithm == ONLINE_RELOAD and out is rows:  # it may have to read x again after it wrote terms
            algorithm = RELOAD
        fill, keeps = self.fill if constant else _NAN, algorithm in KEEPING
        streaming = int(rows.element_size() * n > caches().last and algorithm in SINGLE_WRITE)
        if mask is None and temperature == 1.0:
            run = self.forward[x.dtype, keeps].run
            spread(run, count, n * NANOSECONDS, rows.data_ptr(), out.data_ptr(), n, algorithm, fill, streaming)
            return
        alive, addresses, step = _mask_rows(mask, x, dim)
        arguments = (addresses.data_ptr(), step, 1.0 / temperature, n, algorithm, fill, streaming)
        spread(self.masked[x.dtype, keeps].run, count, n * NANOSECONDS, rows.data_ptr(), out.data_ptr(), *arguments)
        del alive

    def plain(self, x: Tensor, dim: int, mask: Tensor | None, temperature: float, constant: bool) -> Tensor:
        """Return the same in torch, differentiable to any order."""
        z = x if temperature == 1.0 else x / temperature
        z = z if mask is None else z + mask.to(z.dtype)
        if not constant or z.shape[dim] == 0:
            return self.torch(z, dim)
        dead = (z == float("-inf")).all(dim, keepdim=True)
        return self.torch(z.masked_fill(dead, 0.0), dim).masked_fill(dead, self.fill)

    def plain_gradient(self, grad: Tensor, y: Tensor, dim: int, temperature: float) -> Tensor:
        """Return the gradient in torch, differentiable to any order."""
        if self.fill == 0.0:
            dx = y * (grad - (grad * y).sum(dim, keepdim=True))
        else:
            dead = (y == float("-inf")).all(dim, keepdim=True)
            dx = (grad - y.exp() * grad.sum(dim, keepdim=True)).masked_fill(dead, 0.0)
        return dx / temperature

    def gradient(self, grad: Tensor, y: Tensor, dim: int, temperature: float) -> Tensor:
        """Return the gradient of x: the kernel where nothing differentiates through it, else torch."""
        way = route(y, grad)
        if way is KERNEL and not needs_grad(grad, y):
            return self.run_gradient(grad, y, dim, temperature)
        if way is OPERATOR:
            return self.gradient_operator(grad, y, dim, temperature)
        return self.plain_gradient(grad, y, dim, temperature)

    def run_gradient(self, grad: Tensor, y: Tensor, dim: int, temperature: float) -> Tensor:
        """Return the gradient of x by the kernel, without autograd."""
        rows, grad = rows_last(y, dim), rows_last(grad, dim)
        out = empty_rows(rows)
        n = y.shape[dim]
        if n > 0 and (count := y.numel() // n) > 0:
            addresses = grad.data_ptr(), rows.data_ptr(), out.data_ptr()
            spread(self.backward[y.dtype].run, count, n * NANOSECONDS, *addresses, 1.0 / temperature, n)
        return (
            out
            if dim == y.ndim - 1
            else torch.empty_like(y, memory_format=torch.contiguous_format).copy_(out.movedim(-1, dim))
        )

    def logits_gradient(
        self, grad: Tensor, x: Tensor, dim: int, mask: Tensor | None, temperature: float, constant: bool
    ) -> Tensor:
        """Return the gradient of x from the logits: the kernel where nothing differentiates through it, else torch."""
        way = route(x, grad)
        if way is KERNEL and not needs_grad(grad, x) and not (mask is not None and needs_grad(mask)):
            return run_logits_gradient(grad, x, dim, mask, temperature, constant)
        if way is OPERATOR:
            return torch.ops.steepest.log_softmax_of_logits_gradient(grad, x, dim, mask, temperature, constant)
        return self.plain_logits_gradient(grad, x, dim, mask, temperature, constant)

    def plain_logits_gradient(
        self, grad: Tensor, x: Tensor, dim: int, mask: Tensor | None, temperature: float, constant: bool
    ) -> Tensor:
        """Return the gradient from the logits in torch, differentiable to any order."""
        y = self.plain(x.float(), dim, mask, temperature, constant)
        return self.plain_gradient(grad.float(), y, dim, temperature).to(x.dtype)

    def _define(self) -> tuple[Any, Any]:
        name, ops = self.name, torch.ops.steepest

        def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            x, ctx.dim, mask, ctx.temperature, _, ctx.constant = inputs
            ctx.mask_like = None if mask is None else (mask.shape, mask.dtype)
            ctx.save_for_backward(*((x, mask) if self.from_logits(x.dtype) else (output,)))

        def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
            if len(ctx.saved_tensors) == 2:
                x, mask = ctx.saved_tensors
                dx = ops.log_softmax_of_logits_gradient(grad, x, ctx.dim, mask, ctx.temperature, ctx.constant)
            else:
                dx = getattr(ops, f"{name}_gradient")(grad, ctx.saved_tensors[0], ctx.dim, ctx.temperature)
            return dx, None, mask_gradient(ctx, 2, dx), None, None, None

        def save_gradient(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
            grad, y, ctx.dim, ctx.temperature = inputs
            ctx.save_for_backward(grad, y)

        def double_backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
            def plain(grad: Tensor, y: Tensor) -> Tensor:
                return self.plain_gradient(grad, y, ctx.dim, ctx.temperature)

            return *torch.func.vjp(plain, *ctx.saved_tensors)[1](outer), None, None

        define(
            f"{name}_gradient(Tensor grad, Tensor y, int dim, float temperature) -> Tensor",
            self.run_gradient,
            fake=lambda grad, y, dim, temperature: torch.empty_like(y, memory_format=torch.contiguous_format),
            backward=double_backward,
            setup_context=save_gradient,
        )
        define(
            f"{name}(Tensor x, int dim, Tensor? mask, float temperature, int algorithm, bool constant) -> Tensor",
            self.run,
            fake=lambda x, *_: torch.empty_like(x, memory_format=torch.contiguous_format),
            backward=backward,
            setup_context=save,
        )
        return getattr(ops, name).default, getattr(ops, f"{name}_gradient").default


def mask_gradient(ctx: Any, position: int, dx: Tensor) -> Tensor | None:
    """Return the mask's gradient, if wanted, from the gradient of x.

    Args:
        ctx: Autograd's context with `mask_like` and `temperature`.
        position: Of the mask among the inputs.
        dx: Gradient of x.

    Returns:
        A tensor like the mask, or None.
    """
    if ctx.mask_like is None or not ctx.needs_input_grad[position]:
        return None
    shape, dtype = ctx.mask_like
    return (dx * ctx.temperature).sum_to_size(shape).to(dtype)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None, function: Normalized, dim: int, *rest: Any) -> Tensor:
        y = function.run(x, dim, mask, *rest)
        ctx.save_for_backward(y)
        ctx.function, ctx.dim, ctx.temperature = function, dim, rest[0]
        ctx.mask_like = None if mask is None else (mask.shape, mask.dtype)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        dx = ctx.function.gradient(grad, ctx.saved_tensors[0], ctx.dim, ctx.temperature)
        return dx, mask_gradient(ctx, 1, dx), None, None, None, None, None


class _OfLogits(torch.autograd.Function):
    """Saves the logits in place of the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None, function: Normalized, dim: int, *rest: Any) -> Tensor:
        ctx.save_for_backward(x, mask)
        ctx.function, ctx.dim, ctx.temperature, ctx.constant = function, dim, rest[0], rest[2]
        ctx.mask_like = None if mask is None else (mask.shape, mask.dtype)
        return function.run(x, dim, mask, *rest)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, mask = ctx.saved_tensors
        dx = ctx.function.logits_gradient(grad, x, ctx.dim, mask, ctx.temperature, ctx.constant)
        return dx, mask_gradient(ctx, 1, dx), None, None, None, None, None


_apply, _apply_to_logits = applied(_Function), applied(_OfLogits)


def run_logits_gradient(
    grad: Tensor, x: Tensor, dim: int, mask: Tensor | None, temperature: float, constant: bool
) -> Tensor:
    """Return the gradient of log-softmax from the logits by the kernel, without autograd.

    Args:
        grad: Gradient to the result.
        x: Logits.
        dim: Not negative.
        mask: Additive, or None.
        temperature: Positive.
        constant: Whether a fully masked row has a gradient of 0, not NaN.

    Returns:
        A contiguous tensor like x.
    """
    rows, grad = rows_last(x, dim), rows_last(grad, dim)
    out, n = empty_rows(rows), x.shape[dim]
    if n > 0 and (count := x.numel() // n) > 0:
        alive, masks, step = _mask_rows(mask, x, dim)
        addresses = grad.data_ptr(), rows.data_ptr(), out.data_ptr(), masks.data_ptr()
        run = kernels.LOG_SOFTMAX_OF_LOGITS_GRADIENT[x.dtype].run
        spread(run, count, 2 * n * NANOSECONDS, *addresses, step, 1.0 / temperature, n, 0.0 if constant else _NAN)
        del alive
    if dim == x.ndim - 1:
        return out
    return torch.empty_like(x, memory_format=torch.contiguous_format).copy_(out.movedim(-1, dim))


def _save_of_logits(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, ctx.dim, mask, ctx.temperature, ctx.constant = inputs
    ctx.save_for_backward(grad, x, mask)


def _double_backward_of_logits(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
    grad, x, mask = ctx.saved_tensors

    def plain(grad: Tensor, x: Tensor) -> Tensor:
        return LOG_SOFTMAX.plain_logits_gradient(grad, x, ctx.dim, mask, ctx.temperature, ctx.constant)

    return *torch.func.vjp(plain, grad, x)[1](outer), None, None, None, None


define(
    "log_softmax_of_logits_gradient("
    "Tensor grad, Tensor x, int dim, Tensor? mask, float temperature, bool constant) -> Tensor",
    run_logits_gradient,
    fake=lambda grad, x, *_: torch.empty_like(x, memory_format=torch.contiguous_format),
    backward=_double_backward_of_logits,
    setup_context=_save_of_logits,
)

#: Log-softmax of a longer row takes its sum in one sweep.
ONE_SWEEP = 4096
SOFTMAX = Normalized("softmax", kernels.SOFTMAX, kernels.SOFTMAX_MASKED, kernels.SOFTMAX_GRADIENT, 0.0, torch.softmax)
LOG_SOFTMAX = Normalized(
    "log_softmax",
    kernels.LOG_SOFTMAX,
    kernels.LOG_SOFTMAX_MASKED,
    kernels.LOG_SOFTMAX_GRADIENT,
    float("-inf"),
    torch.log_softmax,
)
