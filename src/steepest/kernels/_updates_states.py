# SPDX-License-Identifier: Apache-2.0
"""How optimizer states are kept: float32, bfloat16 with stochastic rounding, or eight bits with a scale a block."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._memory import advise_huge_pages
from steepest.kernels._op import ORDINARY

#: Elements that share a scale.
BLOCK = 256
#: The smallest magnitude of a block that is kept; a block whose largest is below becomes zero.
TINY = 1e-37
#: Bits of a float32 below the three mantissa bits that a code keeps.
SHIFT = 20
#: Offset c of a code; the code of magnitude y holds the sign-less top bits of y + c.
OFFSETS = {True: 2.0**-15, False: 2.0**-31}
#: The magnitude that the largest of a block is scaled to: the largest code is (1.875 - c) / (1.875 - c).
TOP = 1.875


class Quantized(NamedTuple):
    """An eight-bit state: two plain tensors, so that a `state_dict` that holds them loads with `weights_only=True`.

    Attributes:
        codes: uint8, contiguous, the parameter's shape.
        scales: float32, one for each 256 elements in row-major order: the largest magnitude of the block.
    """

    codes: Tensor
    scales: Tensor


State = Tensor | Quantized


def state_zeros(like: Tensor, dtype: torch.dtype) -> State:
    """Return a state of zeros.

    Args:
        like: The parameter; gives shape and device.
        dtype: `torch.float32`, `torch.float64`, `torch.bfloat16` or `torch.float16`; `torch.uint8` means eight bits
            with a scale a block.

    Returns:
        A contiguous tensor of this dtype, or `Quantized`.

    Raises:
        ValueError: If the dtype is another.

    Example:
        >>> import torch
        >>> from steepest.kernels.updates import state_zeros
        >>> codes, scales = state_zeros(torch.zeros(3, 100), torch.uint8)
        >>> codes.shape, scales.shape
        (torch.Size([3, 100]), torch.Size([2]))
    """
    if dtype == torch.uint8:
        codes = _zeros(like, dtype)
        return Quantized(codes, torch.zeros(-(-like.numel() // BLOCK), dtype=torch.float32, device=like.device))
    if dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        raise ValueError(
            f"state_zeros expects float32, float64, bfloat16, float16 or uint8 (eight-bit blocks), got {dtype}"
        )
    return _zeros(like, dtype)


def _zeros(like: Tensor, dtype: torch.dtype) -> Tensor:
    out = torch.empty_like(like, dtype=dtype, memory_format=torch.contiguous_format, requires_grad=False)
    return (advise_huge_pages(out) if out.is_cpu and type(like) in ORDINARY else out).zero_()


def round_to_bfloat16(x: Tensor, bits: Tensor) -> Tensor:
    """Round float32 to one of the two nearest bfloat16, up with a probability that makes the mean x.

    Args:
        x: float32.
        bits: Random, int64 in [0, 2^16), shape of x.

    Returns:
        bfloat16; NaN and infinity as they are.
    """
    raised = (x.view(torch.int32).to(torch.int64) + bits) >> 16
    rounded = raised.to(torch.int16).view(torch.bfloat16)
    return torch.where(x.isnan(), x.to(torch.bfloat16), rounded)


def round_to_float16(x: Tensor, bits: Tensor) -> Tensor:
    """Round float32 to one of the two nearest float16, up with a probability that makes the mean x.

    Args:
        x: float32.
        bits: Random, int64 in [0, 2^16), shape of x; the top 13 count for normal numbers.

    Returns:
        float16; NaN and infinity as they are.
    """
    whole = (x.view(torch.int32).to(torch.int64) + (bits >> 3)) & ~0x1FFF
    normal = whole.to(torch.int32).view(torch.float32)
    fraction = (bits.to(torch.float32) + 0.5) * 2.0**-16 - 0.5
    small = x + fraction * 2.0**-24
    rounded = torch.where(x.abs() < 2.0**-14, small, normal)
    return torch.where(x.isfinite(), rounded, x).to(torch.float16)


def _blocks(x: Tensor) -> Tensor:
    flat = x.reshape(-1)
    padding = -flat.numel() % BLOCK
    return torch.nn.functional.pad(flat, (0, padding)).view(-1, BLOCK)


def _encode_blocks(state: Quantized, x: Tensor, bits: Tensor | None, signed: bool) -> None:
    offset, blocks = OFFSETS[signed], _blocks(x)
    peak = blocks.abs().amax(dim=1)
    peak = torch.where(peak < TINY, 0.0, peak)
    state.scales.copy_(torch.where(peak.isfinite(), peak, torch.nan))
    factor = torch.where(peak > 0, (TOP - offset) / peak, 0.0)[:, None]
    y = blocks.abs() * factor
    if not signed:
        y = torch.where(y > 0, y.clamp_min(offset / 8), y)
    z = (y + offset).clamp_max(TOP)
    z = torch.where(z.isfinite(), z, offset)
    noise = 1 << (SHIFT - 1) if bits is None else (_blocks(bits) << 4) + 8
    floor = int(np.float32(offset).view(np.int32)) >> SHIFT
    codes = ((z.view(torch.int32).to(torch.int64) + noise) >> SHIFT) - floor
    if signed:
        codes += (blocks.view(torch.int32) < 0).to(torch.int64) << 7
    state.codes.view(-1).copy_(codes.view(-1)[: x.numel()])


def encode_bits_(state: State, x: Tensor, bits: Tensor | None, *, signed: bool) -> None:
    """Write x into a state with the given random bits.

    Args:
        state: Changed in place.
        x: What to write.
        bits: int64 in [0, 2^16), shape of x; None rounds to nearest.
        signed: Whether x may be negative.
    """
    if isinstance(state, Quantized):
        _encode_blocks(state, x.to(torch.float32), bits, signed)
    elif state.dtype == torch.bfloat16 and bits is not None:
        state.copy_(round_to_bfloat16(x.to(torch.float32), bits))
    else:
        state.copy_(x)


def decode_plain(state: State, *, signed: bool = True) -> Tensor:
    """Do what `decode_state` does, in torch."""
    if not isinstance(state, Quantized):
        return state.to(torch.float32 if state.dtype != torch.float64 else torch.float64, copy=True)
    offset = OFFSETS[signed]
    codes = _blocks(state.codes).to(torch.int32)
    floor = int(np.float32(offset).view(np.int32)) >> SHIFT
    magnitude = (((codes & 127) if signed else codes) + floor << SHIFT).view(torch.float32) - offset
    x = magnitude * (state.scales / (TOP - offset))[:, None]
    if signed:
        x = torch.where(codes > 127, -x, x)
    return x.view(-1)[: state.codes.numel()].view(state.codes.shape)
