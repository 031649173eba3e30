# SPDX-License-Identifier: Apache-2.0
"""RMSNorm and LayerNorm on every route, each alone and after the addition of a residual."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steepest.kernels._fused import Fused
from steepest.kernels._memory import empty, empty_rows
from steepest.kernels._normalize import NANOSECONDS, ROWS_PER_BLOCK, row_kernel
from steepest.kernels._op import check_floating
from steepest.kernels._pool import spread
from steepest.kernels._rows import as_rows

_CONSTANTS = ("float eps", "ScalarType? out_dtype=None")


class RowNorm:
    """One normalization of the last dimension.

    Args:
        name: Public name; the operators are `steepest::<name>` and `steepest::add_<name>`, with their gradients.
        parameters: Names of its vectors: the gain, and for a centered one the bias.
        plain: (x, *parameters, eps, out_dtype) in torch, differentiable to any order.
    """

    def __init__(self, name: str, parameters: tuple[str, ...], plain: Callable[..., Tensor]) -> None:
        self.name, self._count, self._plain = name, len(parameters), plain
        self.alone = Fused(
            name,
            tensors=("x", *parameters),
            constants=_CONSTANTS,
            run=self._run,
            run_gradient=lambda grad, s, *rest: self._run_any_gradient(grad, None, s, *rest),
            plain=plain,
            fake=lambda x, *rest: x.new_empty(x.shape, dtype=self._out_dtype(rest) or x.dtype),
            fake_gradient=lambda grad, s, *rest: self._fake_gradient(s, rest),
        )
        self.added = Fused(
            f"add_{name}",
            tensors=("x", "residual", *parameters),
            constants=_CONSTANTS,
            run=self._run_add,
            run_gradient=lambda grad, sum_grad, s, *rest: self._run_any_gradient(grad, sum_grad.contiguous(), s, *rest),
            plain=self._plain_add,
            plain_gradient=self._plain_add_gradient,
            fake=self._fake_add,
            fake_gradient=lambda grad, sum_grad, s, *rest: self._fake_gradient(s, rest),
            outputs=2,
            saved=lambda inputs, outputs: (outputs[1], *inputs[2:]),
            share=(0, *range(1 + self._count)),
        )

    def __call__(self, x: Tensor, residual: Tensor | None, *rest: Any) -> Any:
        """Return the normalized tensor, or (normalized, sum) with a residual."""
        return self.alone(x, *rest) if residual is None else self.added(x, residual, *rest)

    def _out_dtype(self, rest: tuple[Any, ...]) -> torch.dtype | None:
        # An operator is called without what has its default value.
        return rest[self._count + 1] if len(rest) > self._count + 1 else None

    def _vectors(self, rest: tuple[Any, ...]) -> list[Tensor]:
        kept = [t.float().contiguous() for t in rest[: self._count]]
        return [kept[0], kept[-1]]

    def _run(self, x: Tensor, *rest: Any) -> Tensor:
        dtype = self._out_dtype(rest) or x.dtype
        y = empty_rows(x) if dtype is x.dtype else empty(x.shape, dtype)
        x, distance = as_rows(x)
        width, address, (weight, bias) = x.shape[-1], x.data_ptr(), self._vectors(rest)
        addresses = (address, address, address, weight.data_ptr(), bias.data_ptr(), y.data_ptr())
        run = row_kernel(self.name, False, (x.dtype, x.dtype, dtype), False).run
        cost, eps = NANOSECONDS * width, rest[self._count]
        spread(run, x.numel() // max(width, 1), cost, addresses, (distance,) * 3, width, eps)
        return y

    def _run_add(self, x: Tensor, residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        total = empty(x.shape, torch.promote_types(x.dtype, residual.dtype))
        y = empty(x.shape, self._out_dtype(rest) or total.dtype)
        x, x_distance = as_rows(x)
        residual, r_distance = as_rows(residual.to(total.dtype))
        width, (weight, bias) = x.shape[-1], self._vectors(rest)
        addresses = tuple(t.data_ptr() for t in (x, residual, total, weight, bias, y))
        run = row_kernel(self.name, False, (x.dtype, total.dtype, y.dtype), True).run
        cost, distances = 2 * NANOSECONDS * width, (x_distance, r_distance, width)
        spread(run, x.numel() // max(width, 1), cost, addresses, distances, width, rest[self._count])
        return y, total

    def _run_any_gradient(self, grad: Tensor, sum_grad: Tensor | None, s: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        out = empty_rows(s)
        s, distance = as_rows(s)
        width, grad, scale = s.shape[-1], grad.contiguous(), rest[0].float().contiguous()
        rows = s.numel() // max(width, 1)
        blocks = -(-rows // ROWS_PER_BLOCK)
        partial = torch.empty((blocks, self._count, width), dtype=torch.float32, device="cpu")
        before = s if sum_grad is None else sum_grad
        addresses = tuple(t.data_ptr() for t in (grad, before, s, scale, out, partial))
        run = row_kernel(self.name, True, (s.dtype, s.dtype, grad.dtype), sum_grad is not None).run
        cost = 2 * NANOSECONDS * width * ROWS_PER_BLOCK
        spread(run, blocks, cost, addresses, distance, width, rows, rest[self._count])
        totals = partial.sum(0, dtype=torch.float64)
        return out, *(total.to(vector.dtype) for total, vector in zip(totals, rest, strict=False))

    def _plain_add(self, x: Tensor, residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        total = (x + residual).contiguous()
        return self._plain(total, *rest), total

    def _plain_add_gradient(self, grad: Tensor, sum_grad: Tensor, s: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        vectors, constants = rest[: self._count], rest[self._count :]
        gradients = torch.func.vjp(lambda *t: self._plain(*t, *constants), s, *vectors)[1](grad)
        return gradients[0] + sum_grad, *gradients[1:]

    def _fake_add(self, x: Tensor, residual: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        total = x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, residual.dtype))
        return x.new_empty(x.shape, dtype=self._out_dtype(rest) or total.dtype), total

    def _fake_gradient(self, s: Tensor, rest: tuple[Any, ...]) -> tuple[Tensor, ...]:
        return s.new_empty(s.shape), *(t.new_empty(t.shape) for t in rest[: self._count])


def check_rows(function: str, x: Tensor, others: dict[str, Tensor | None], eps: float) -> None:
    """Raise unless x has a last dimension and the others fit.

    Args:
        function: Public name, for the message.
        x: First operand.
        others: The residual, of x's shape, and the vectors, of its last dimension, by name.
        eps: Not negative.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If one does not fit.
    """
    check_floating(x, function)
    if x.dim() == 0:
        raise ValueError(f"{function} normalizes the last dimension, got a tensor without dimensions; reshape it")
    for name, other in others.items():
        if other is not None:
            check_floating(other, function)
            shape = x.shape if name == "residual" else x.shape[-1:]
            if other.shape != shape or other.device != x.device:
                raise ValueError(
                    f"{function} expects {name} of shape {tuple(shape)} on {x.device}, got {tuple(other.shape)} on "
                    f"{other.device}; expand or move it"
                )
    if not eps >= 0:
        raise ValueError(f"{function} expects eps >= 0, got {eps}")


def vector_like(x: Tensor, value: float) -> Tensor:
    """Return a vector for the last dimension of x, of one value, in at least float32.

    Args:
        x: Model.
        value: What it holds.

    Returns:
        A new tensor.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.full((x.shape[-1],), value, device=x.device, dtype=dtype)
