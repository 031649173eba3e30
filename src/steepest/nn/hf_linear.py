# SPDX-License-Identifier: Apache-2.0
"""Linear layers of patched Hugging Face models: 16-bit products in float32 where the processor has none of its own."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from steepest.kernels.products import compute_dtype
from steepest.nn.hf_modules import Patched, product_dtype


class _Product(torch.autograd.Function):
    """x @ weight.T + bias of a 16-bit dtype, by products in float32.

    Kept is x in 16 bits. A float32 weight is never copied, and its gradient reaches it unrounded.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        narrow = x.to(dtype)
        ctx.save_for_backward(narrow, weight)
        ctx.dtypes = x.dtype, None if bias is None else bias.dtype
        with torch.autocast("cpu", enabled=False):
            rows, columns = narrow.reshape(-1, weight.shape[1]).float(), weight.float().T
            out = rows @ columns if bias is None else torch.addmm(bias.float(), rows, columns)
        return out.to(dtype).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        narrow, weight = ctx.saved_tensors
        x_dtype, bias_dtype = ctx.dtypes
        to_x = to_weight = to_bias = None
        with torch.autocast("cpu", enabled=False):
            rows = grad.reshape(-1, weight.shape[0]).float()
            if ctx.needs_input_grad[0]:
                to_x = (rows @ weight.float()).to(x_dtype).view(narrow.shape)
            if ctx.needs_input_grad[1]:
                to_weight = (rows.T @ narrow.reshape(-1, weight.shape[1]).float()).to(weight.dtype)
            if ctx.needs_input_grad[2]:
                to_bias = rows.sum(0).to(bias_dtype)
        return to_x, to_weight, to_bias, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor | None:
    """Return x @ weight.T + bias, or None where torch's own way is right."""
    dtype = product_dtype(x, x.dtype)
    usual = torch.compiler.is_compiling() or compute_dtype(dtype, x.device) == dtype
    if usual or (dtype == x.dtype != weight.dtype and not torch.is_autocast_enabled(x.device.type)):
        return None
    return cast(Tensor, _Product.apply(x, weight, bias, dtype))


class Linear(Patched):
    """`torch.nn.Linear`."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to each row of x, shape (..., in_features)."""
        found = _product(x, self.weight, self.bias)
        return super().forward(x) if found is None else found  # pyright: ignore[reportAttributeAccessIssue]


class Conv1D(Patched):
    """GPT-2's linear layer, whose weight lies the other way."""

    weight: nn.Parameter
    bias: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to each row of x, shape (..., in_features)."""
        found = _product(x, self.weight.T, self.bias)
        return super().forward(x) if found is None else found  # pyright: ignore[reportAttributeAccessIssue]


def linear_part(module: nn.Module) -> type[Patched] | None:
    """Return what takes a linear layer's place, or None for another module.

    Args:
        module: Any module; a subclass of a linear layer has its own ways and is left alone.
    """
    kind = type(module)
    if kind is nn.Linear:
        return Linear
    return Conv1D if (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D") else None
