# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding in the half-split layout of Hugging Face's Llama."""

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def rotary_table(
    start: int, time: int, head_size: int, theta: float, device: torch.device
) -> Float[Tensor, "2 time half"]:
    r"""Return cosines and sines of the angles $p\,\theta^{-2i/d}$ for positions $p$ = `start` ... `start + time - 1`.

    Args:
        start: First position.
        time: Number of positions.
        head_size: Size $d$ of a head; even.
        theta: Base of the wavelengths.
        device: Where the table is needed.

    Returns:
        Float32, shape (2, `time`, `head_size` / 2). The angles are computed in float64, so far positions stay exact.

    References:
        Su et al. (2021), RoFormer, arXiv 2104.09864, equation 15.
    """
    return _table(start, time, head_size, theta, str(device))


@lru_cache(maxsize=64)
def _table(start: int, time: int, head_size: int, theta: float, device: str) -> Tensor:
    # Tensors made while torch.inference_mode() is on could not be used for training afterwards.
    with torch.inference_mode(False):
        frequencies = theta ** (-torch.arange(0, head_size, 2, dtype=torch.float64) / head_size)
        angles = torch.outer(torch.arange(start, start + time, dtype=torch.float64), frequencies)
        return torch.stack((angles.cos(), angles.sin())).to(device=device, dtype=torch.float32)


def rotate(x: Float[Tensor, "batch time heads size"], table: Float[Tensor, "2 time half"]) -> Tensor:
    r"""Rotate the pair $(x_i, x_{i + d/2})$ of each head by the angle of its position.

    Args:
        x: Queries or keys, any floating dtype.
        table: From `rotary_table`.

    Returns:
        Shape and dtype of `x`; the arithmetic is in float32.
    """
    return _Rotate.apply(x, table)  # pyright: ignore[reportReturnType] (torch leaves `apply` untyped)


class _Rotate(torch.autograd.Function):
    """A rotation's transpose is the rotation by the opposite angle, so backward needs nothing but the table."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, table: Tensor) -> Tensor:
        return _rotated(x, table[0], table[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (table,) = ctx.saved_tensors
        return _rotated(gradients[0], table[0], -table[1]), None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # (time, 1, half): the same for all heads
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)
