# SPDX-License-Identifier: Apache-2.0
"""States written and read on their own, for rules whose arithmetic is not fused with them."""

import functools
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._llvm import f32_pointer, scratch_memory
from steepest.kernels._memory import empty
from steepest.kernels._op import KERNEL, ORDINARY, route
from steepest.kernels._pool import spread
from steepest.kernels._registry import Kernel, specialize
from steepest.kernels._updates_lanes import SIGNED_TOP, UNSIGNED_TOP, new_scale
from steepest.kernels._updates_noise import Noise, noise_bits, noise_key, noise_keys
from steepest.kernels._updates_rounding import (
    load_signed,
    load_unsigned,
    low_bits,
    random_bits,
    store_rounded,
    store_signed,
    store_unsigned,
)
from steepest.kernels._updates_states import BLOCK, Quantized, State, decode_plain, encode_bits_
from steepest.kernels._updates_vector import larger_magnitude, move_elements, u8_pointer
from steepest.kernels._vector import WIDTH, bfloat_pointer, load, splat
from steepest.kernels._vector_stores import store

#: Time of one element on one thread, about, for the decision to use several.
NANOSECONDS = 0.5
_SLOT, _ZERO = 64, np.float32(0)
top: Any = SIGNED_TOP
read: Any = load_signed
write: Any = store_signed


def _encode_codes(x_address, codes_address, scales_address, size, key, noisy, start, stop):
    t = scratch_memory()
    streams = (f32_pointer(x_address), u8_pointer(codes_address))
    spare = (f32_pointer(t), u8_pointer(t + _SLOT))
    for block in range(start, stop):
        base, end = block * BLOCK, min(size, (block + 1) * BLOCK)
        whole = base + (end - base) // WIDTH * WIDTH
        peak = splat(_ZERO)
        for i in range(base, whole, WIDTH):
            peak = larger_magnitude(peak, load(streams[0], i))
        if whole < end:
            move_elements(spare, 0, streams, whole, end - whole, True)
            peak = larger_magnitude(peak, load(spare[0], 0))
        scale, factor = new_scale(peak, top)
        f32_pointer(scales_address)[block] = scale
        for i in range(base, whole, WIDTH):
            bits = low_bits(random_bits(noisy != 0, key, i))
            write(streams[1], i, load(streams[0], i) * factor, bits, noisy != 0)
        if whole < end:
            bits = low_bits(random_bits(noisy != 0, key, whole))
            write(spare[1], 0, load(spare[0], 0) * factor, bits, noisy != 0)
            move_elements(streams[1:], whole, spare[1:], 0, end - whole, False)


def _decode_codes(codes_address, scales_address, y_address, size, start, stop):
    t = scratch_memory()
    streams = (u8_pointer(codes_address), f32_pointer(y_address))
    spare = (u8_pointer(t), f32_pointer(t + _SLOT))
    for block in range(start, stop):
        base, end = block * BLOCK, min(size, (block + 1) * BLOCK)
        whole = base + (end - base) // WIDTH * WIDTH
        unit = f32_pointer(scales_address)[block] / top
        for i in range(base, whole, WIDTH):
            store(streams[1], i, read(streams[0], i) * unit)
        if whole < end:
            move_elements(spare[:1], 0, streams[:1], whole, end - whole, True)
            store(spare[1], 0, read(spare[0], 0) * unit)
            move_elements(streams[1:], whole, spare[1:], 0, end - whole, False)


def _encode_bfloat(x_address, y_address, size, key, start, stop):
    t = scratch_memory()
    streams, spare = (f32_pointer(x_address), bfloat_pointer(y_address)), (f32_pointer(t), bfloat_pointer(t + _SLOT))
    for block in range(start, stop):
        base, end = block * BLOCK, min(size, (block + 1) * BLOCK)
        whole = base + (end - base) // WIDTH * WIDTH
        for i in range(base, whole, WIDTH):
            store_rounded(streams[1], i, load(streams[0], i), low_bits(random_bits(True, key, i)), True)
        if whole < end:
            move_elements(spare, 0, streams, whole, end - whole, True)
            store_rounded(spare[1], 0, load(spare[0], 0), low_bits(random_bits(True, key, whole)), True)
            move_elements(streams[1:], whole, spare[1:], 0, end - whole, False)


@functools.cache
def _encode_kernel(signed: bool | None) -> Kernel:
    if signed is None:
        return specialize(_encode_bfloat, "void(intp, intp, intp, intp, intp, intp)", "state_encode_bf16")
    bound = {"top": SIGNED_TOP, "write": store_signed} if signed else {"top": UNSIGNED_TOP, "write": store_unsigned}
    name = f"state_encode_{'signed' if signed else 'unsigned'}"
    return specialize(_encode_codes, "void(intp, intp, intp, intp, intp, intp, intp, intp)", name, **bound)


@functools.cache
def _decode_kernel(signed: bool) -> Kernel:
    bound = {"top": SIGNED_TOP, "read": load_signed} if signed else {"top": UNSIGNED_TOP, "read": load_unsigned}
    name = f"state_decode_{'signed' if signed else 'unsigned'}"
    return specialize(_decode_codes, "void(intp, intp, intp, intp, intp, intp)", name, **bound)


def _by_kernel(state: State, x: Tensor, noise: Noise | None) -> bool:
    parts = state if isinstance(state, Quantized) else (state,)
    if not isinstance(state, Quantized) and (state.dtype != torch.bfloat16 or noise is None):
        return False
    whole = all(p.is_cpu and p.is_contiguous() and type(p) in ORDINARY for p in (*parts, x))
    return whole and x.dtype == torch.float32 and x.numel() > 0 and route(x) is KERNEL


def _encode(state: State, x: Tensor, key: int, noisy: bool, signed: bool) -> None:
    if isinstance(state, Quantized):
        arguments = (x.data_ptr(), state.codes.data_ptr(), state.scales.data_ptr(), x.numel(), key, int(noisy))
        spread(_encode_kernel(signed).run, len(state.scales), BLOCK * NANOSECONDS, *arguments)
    else:
        arguments = (x.data_ptr(), state.data_ptr(), x.numel(), key)
        spread(_encode_kernel(None).run, -(-x.numel() // BLOCK), BLOCK * NANOSECONDS, *arguments)


@torch.no_grad()
def encode_state_(state: State, x: Tensor, *, signed: bool = True, noise: Noise | None = None, tensor: int = 0) -> None:
    r"""Write x into a state.

    bfloat16: one of the two neighbours of $x$, at random, so that the mean is $x$. Eight bits: a block of 256 elements
    in row-major order has the scale $s = \max |x|$; with $y = |x| (1.875 - c) / s$ the code is the top bits (exponent
    and three mantissa bits) of the float32 number $y + c$, rounded at random between its neighbours. With
    $c = 2^{-15}$ there are 128 magnitudes and a sign, from $2 \cdot 10^{-6} s$; with $c = 2^{-31}$, for a state that is
    nowhere negative, 256 magnitudes from $3 \cdot 10^{-11} s$.

    Args:
        state: float32, float64, bfloat16, float16 or `Quantized`, of x's shape; changed in place.
        x: float32 (or the state's own dtype).
        signed: Whether x may be negative; False gives second moments their range. Only eight bits care.
        noise: Seed and offset; None rounds to nearest, with which a slow average stands still.
        tensor: Number of the tensor within the call that `noise` names.

    Raises:
        ValueError: If shapes differ.

    Numerics:
        bfloat16: relative error below 2^-7, unbiased. Eight bits: error below 1/8 (to nearest 1/16) of
        |x| + c s / 1.875, unbiased to 2^-17 of the distance between two codes; zero stays zero. With `signed=False` a
        value above 0 never becomes 0: below the smallest magnitude it is raised to that. NaN or infinity make the
        scale of their block NaN. A block whose largest magnitude is below 1e-37 becomes zero.

    Example:
        >>> import torch
        >>> from steepest.kernels.updates import Noise, decode_state, encode_state_, state_zeros
        >>> x = torch.tensor([1.0, -0.5, 0.0, 1e-3])
        >>> state = state_zeros(x, torch.uint8)
        >>> encode_state_(state, x, noise=Noise(seed=0, offset=1))
        >>> bool((decode_state(state) - x).abs().max() < 0.07)
        True

    References:
        Dettmers et al. (2022), 8-bit optimizers via block-wise quantization, arXiv:2110.02861. Deviation: a
        floating-point code that needs no table, and stochastic rounding.
    """
    shape = state.codes.shape if isinstance(state, Quantized) else state.shape
    if shape != x.shape:
        raise ValueError(f"encode_state_ expects a state of shape {tuple(x.shape)}, got {tuple(shape)}")
    if _by_kernel(state, x, noise):
        _encode(state, x, 0 if noise is None else int(noise_keys(noise, [tensor])[0, 0]), noise is not None, signed)
    else:
        bits = None if noise is None else noise_bits(noise_key(noise, tensor, 0), x) & 0xFFFF
        encode_bits_(state, x, bits, signed=signed)


@torch.no_grad()
def decode_state(state: State, *, signed: bool = True) -> Tensor:
    """Return what a state stands for.

    Args:
        state: From `state_zeros`, written by `encode_state_` or an update.
        signed: As when it was written.

    Returns:
        A new float32 tensor; a float64 state gives float64.
    """
    if not isinstance(state, Quantized) or not _by_kernel(state, state.scales, None):
        return decode_plain(state, signed=signed)
    out = empty(state.codes.shape, torch.float32)
    arguments = (state.codes.data_ptr(), state.scales.data_ptr(), out.data_ptr(), out.numel())
    spread(_decode_kernel(signed).run, len(state.scales), BLOCK * NANOSECONDS, *arguments)
    return out
