# SPDX-License-Identifier: Apache-2.0
"""An elementwise function with one learnable parameter, a number for all or one a feature, on every route."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._elementwise import MEMORY, same
from steepest.kernels._fused import Fused
from steepest.kernels._llvm import f32_pointer, fma
from steepest.kernels._memory import empty_rows
from steepest.kernels._op import DTYPES, check_floating
from steepest.kernels._pool import spread
from steepest.kernels._registry import specialize
from steepest.kernels._rows import RUN, accumulate, as_rows

# A function of x and one parameter, either a number for all or one an element of the last dimension.
F32 = np.float32

pointer: Any = f32_pointer
widen: Any = same
narrow: Any = same
value: Any = same
slope: Any = same


def _with_parameter(x_address, parameter_address, y_address, distance, width, single, extra, start, stop):
    x, y, parameter = pointer(x_address), pointer(y_address), f32_pointer(parameter_address)
    for row in range(start, stop):
        a, b = row * distance, row * width
        if single:
            p = parameter[0]
            for i in range(width):
                y[b + i] = narrow(value(widen(x[a + i]), p, extra))
        else:
            for i in range(width):
                y[b + i] = narrow(value(widen(x[a + i]), parameter[i], extra))


def _with_parameter_gradient(
    grad_address, x_address, parameter_address, out_address, partial_address, distance, width, rows, block_rows, single,
    extra, start, stop,
):  # fmt: skip
    grad, x, parameter = pointer(grad_address), pointer(x_address), f32_pointer(parameter_address)
    out, partial = pointer(out_address), f32_pointer(partial_address)
    for block in range(start, stop):
        e = block * width
        if not single:
            for i in range(width):
                partial[e + i] = F32(0)
        total = 0.0
        for row in range(block * block_rows, min((block + 1) * block_rows, rows)):
            a, b = row * distance, row * width
            if single:
                p = parameter[0]
                for first in range(0, width, RUN):
                    lanes = F32(0)
                    for i in range(first, min(first + RUN, width)):
                        g = widen(grad[b + i])
                        by_x, by_p = slope(widen(x[a + i]), p, extra)
                        out[b + i] = narrow(g * by_x)
                        lanes = accumulate(lanes, g, by_p)
                    total += lanes
            else:
                for i in range(width):
                    g = widen(grad[b + i])
                    by_x, by_p = slope(widen(x[a + i]), parameter[i], extra)
                    out[b + i] = narrow(g * by_x)
                    partial[e + i] = fma(g, by_p, partial[e + i])
        if single:
            partial[block] = F32(total)


_ELEMENTS_PER_BLOCK = 1 << 16


class WithParameter:
    """An elementwise function of x and a learnable parameter, on every route.

    Args:
        name: Public name.
        value: Device function (x, parameter, extra) -> value, float32.
        slope: Device function (x, parameter, extra) -> (derivative by x, derivative by parameter).
        plain: (x, parameter, extra) in torch, differentiable to any order.
        parameter: Name of the parameter.
    """

    def __init__(self, name: str, *, value: Any, slope: Any, plain: Any, parameter: str) -> None:
        forward = f"void({6 * 'intp, '}float32, intp, intp)"
        backward = f"void({10 * 'intp, '}float32, intp, intp)"
        self._value = {
            d: specialize(_with_parameter, forward, f"{name}_{s}", value=value, **MEMORY[s]) for d, s in DTYPES.items()
        }
        self._slope = {
            d: specialize(_with_parameter_gradient, backward, f"{name}_gradient_{s}", slope=slope, **MEMORY[s])
            for d, s in DTYPES.items()
        }
        self.fused = Fused(
            name,
            tensors=("x", parameter),
            constants=("float extra",),
            run=self.run,
            run_gradient=self.run_gradient,
            plain=lambda x, p, extra: plain(x, p, extra).to(x.dtype).contiguous(),
            fake=lambda x, p, extra: x.new_empty(x.shape),
            fake_gradient=lambda grad, x, p, extra: (x.new_empty(x.shape), p.new_empty(p.shape)),
        )
        self.name, self.parameter = name, parameter

    def run(self, x: Tensor, parameter: Tensor, extra: float) -> Tensor:
        """Return the value by the kernel, without autograd."""
        y = empty_rows(x)
        x, distance, width = self._rows(x, parameter)
        kept = parameter.float().contiguous()
        run, single = self._value[x.dtype].run, int(parameter.dim() == 0)
        addresses = (x.data_ptr(), kept.data_ptr(), y.data_ptr())
        spread(run, x.numel() // max(width, 1), 0.7 * width, *addresses, distance, width, single, extra)
        return y

    def run_gradient(self, grad: Tensor, x: Tensor, parameter: Tensor, extra: float) -> tuple[Tensor, Tensor]:
        """Return both gradients by the kernel, without autograd."""
        out, grad = empty_rows(x), grad.contiguous()
        x, distance, width = self._rows(x, parameter)
        kept, single = parameter.float().contiguous(), parameter.dim() == 0
        rows = x.numel() // max(width, 1)
        block = max(1, _ELEMENTS_PER_BLOCK // max(width, 1)) if single else 32
        blocks = -(-rows // block)
        partial = torch.empty((blocks,) if single else (blocks, width), dtype=torch.float32, device="cpu")
        addresses = (t.data_ptr() for t in (grad, x, kept, out, partial))
        run = self._slope[x.dtype].run
        spread(run, blocks, 0.9 * width * block, *addresses, distance, width, rows, block, int(single), extra)
        return out, partial.sum(0, dtype=torch.float64).to(parameter.dtype)

    @staticmethod
    def _rows(x: Tensor, parameter: Tensor) -> tuple[Tensor, int, int]:
        if parameter.dim() == 0 and (x.dim() < 2 or x.is_contiguous()):
            # Any split into rows will do: pieces of 4096 where they fit.
            x = x.contiguous()
            width = next((w for w in (4096, 1024, 256) if x.numel() and x.numel() % w == 0), x.numel())
            return x, width, width
        x, distance = as_rows(x)
        return x, distance, x.shape[-1]

    def __call__(self, x: Tensor, parameter: Tensor | float, extra: float) -> Tensor:
        """Return the function, after checking its operands."""
        check_floating(x, self.name)
        if not isinstance(parameter, Tensor):
            parameter = torch.tensor(
                float(parameter), dtype=torch.promote_types(x.dtype, torch.float32), device=x.device
            )
        check_floating(parameter, self.name)
        if parameter.dim() and (parameter.dim() != 1 or x.dim() == 0 or parameter.shape != x.shape[-1:]):
            raise ValueError(
                f"{self.name} expects {self.parameter} to be a number, a tensor without dimensions, or one of shape "
                f"{tuple(x.shape[-1:])} (one for each feature of x), got shape {tuple(parameter.shape)}; reshape it"
            )
        if parameter.device != x.device:
            raise ValueError(f"{self.name} expects {self.parameter} on {x.device}, got {parameter.device}; move it")
        return self.fused(x, parameter, extra)
