# SPDX-License-Identifier: Apache-2.0
"""The sweeps of the updates over a table of tensors; each is given a range of chunks and finds its tensors itself.

A tensor is cut into chunks that begin at multiples of `CHUNK` elements. The last elements of a tensor, fewer than
sixteen, are worked on in scratch memory.
"""

import threading
from typing import Any

import numpy as np
import torch

from steepest.kernels._llvm import f32_pointer, f64_pointer, i64_pointer, maximum, scratch_memory, select, sqrt
from steepest.kernels._registry import Kernel, device, specialize
from steepest.kernels._updates_lanes import (
    CHUNK,
    COLUMNS,
    FIRST,
    M_SCALES,
    PARAM_KEY,
    SIZE,
    STATE_KEY,
    V_SCALES,
    G,
    M,
    P,
    V,
    X,
    adam_at,
    adam_block,
    momentum_at,
    momentum_block,
)
from steepest.kernels._updates_rounding import load_signed
from steepest.kernels._updates_states import BLOCK, OFFSETS, TOP
from steepest.kernels._updates_vector import (
    DECAY_CUT,
    EPS,
    GRAD_SCALE,
    L2,
    RANDOM,
    ROUND_PARAMS,
    SHRINK,
    SIGN,
    STEP_CUT,
    count_above,
    fetch_ahead,
    gradient,
    momentum_direction,
    move_elements,
    new_buffer,
    no_pointer,
    numbers,
    sign_if,
    u8_pointer,
)
from steepest.kernels._vector import WIDTH, bfloat_pointer, half_pointer, lanes_sum, load, splat

F32 = np.float32
#: How far ahead of the work its memory is asked for, in elements: beyond a page some machines' own prefetching stops.
AHEAD = 512
_ZERO, _ONE, _SIGNED_TOP = F32(0), F32(1), F32(TOP - OFFSETS[True])
_SLOT = 64  # bytes of scratch for the tail of one stream
_WIDE = 8 * _SLOT  # where float32 copies of a block lie
p_pointer: Any = f32_pointer
s_pointer: Any = f32_pointer
x_pointer: Any = no_pointer
#: None where there are neither masks nor a part of p in the gradient; anything else where there may be.
GENERAL: bool | None = None
read: Any = load


@device
def one_unit(row, block):
    """Return the unit of a state that needs none."""
    return _ONE


@device
def block_unit(row, block):
    """Return the unit of a block's codes."""
    return f32_pointer(row[M_SCALES])[block] / _SIGNED_TOP


state_unit: Any = one_unit


@device
def kept_at(kept, streams, old, i, k):
    """Return the counts with elements i to i + 15."""
    rule = (k, _ONE, True)
    g = gradient(load(streams[0], i), load(streams[1], i), rule)
    return count_above(kept, momentum_direction(g, old, new_buffer(g, old, rule), rule) * sign_if(True, g), _ZERO)


def _adam(table, rates, count, scalars, start, stop):
    k, s, t = numbers(scalars), f64_pointer(scalars), scratch_memory()
    random, round_params = s[RANDOM] != 0, s[ROUND_PARAMS] != 0
    spare = (
        p_pointer(t),
        p_pointer(t + _SLOT),
        s_pointer(t + 2 * _SLOT),
        s_pointer(t + 3 * _SLOT),
        x_pointer(t + 4 * _SLOT),
    )
    j, chunk = 0, start
    while j + 1 < count and i64_pointer(table + 8 * COLUMNS * (j + 1))[FIRST] <= start:
        j += 1
    while chunk < stop:
        row = i64_pointer(table + 8 * COLUMNS * j)
        begin = (chunk - row[FIRST]) * CHUNK
        end = min(row[SIZE], (stop - row[FIRST]) * CHUNK)
        chunk = row[FIRST] + (end + CHUNK - 1) // CHUNK
        rate, dice = F32(f64_pointer(rates)[j]), (row[STATE_KEY], row[PARAM_KEY], random, round_params)
        streams = (p_pointer(row[P]), p_pointer(row[G]), s_pointer(row[M]), s_pointer(row[V]), x_pointer(row[X]))
        whole = begin + (end - begin) // WIDTH * WIDTH
        for i in range(begin, whole, WIDTH):
            fetch_ahead(streams, i + AHEAD)
            adam_at(streams, streams[4], i, i, (k, rate, GENERAL), dice)
        if whole < end:
            move_elements(spare, 0, streams, whole, end - whole, True)
            adam_at(spare, spare[4], 0, whole, (k, rate, GENERAL), dice)
            move_elements(streams, whole, spare, 0, end - whole, False)
        j += 1


def _adam_codes(table, rates, count, scalars, start, stop):
    k, s, t = numbers(scalars), f64_pointer(scalars), scratch_memory()
    random, round_params = s[RANDOM] != 0, s[ROUND_PARAMS] != 0
    spare = (p_pointer(t), p_pointer(t + _SLOT), u8_pointer(t + 2 * _SLOT), u8_pointer(t + 3 * _SLOT))
    wide = (f32_pointer(t + _WIDE), f32_pointer(t + _WIDE + 4 * BLOCK))
    j, chunk = 0, start
    while j + 1 < count and i64_pointer(table + 8 * COLUMNS * (j + 1))[FIRST] <= start:
        j += 1
    while chunk < stop:
        row = i64_pointer(table + 8 * COLUMNS * j)
        begin = (chunk - row[FIRST]) * CHUNK
        end = min(row[SIZE], (stop - row[FIRST]) * CHUNK)
        chunk = row[FIRST] + (end + CHUNK - 1) // CHUNK
        rate, dice = F32(f64_pointer(rates)[j]), (row[STATE_KEY], row[PARAM_KEY], random, round_params)
        streams = (p_pointer(row[P]), p_pointer(row[G]), u8_pointer(row[M]), u8_pointer(row[V]))
        scales = (f32_pointer(row[M_SCALES]), f32_pointer(row[V_SCALES]))
        for base in range(begin, end, BLOCK):
            size = min(BLOCK, end - base)
            adam_block(streams, spare, wide, scales, base, size, (k, rate, GENERAL), dice)
        j += 1


def _momentum(table, rates, count, scalars, start, stop):
    k, s, t = numbers(scalars), f64_pointer(scalars), scratch_memory()
    random, round_params, sign = s[RANDOM] != 0, s[ROUND_PARAMS] != 0, s[SIGN] != 0
    spare = (p_pointer(t), p_pointer(t + _SLOT), s_pointer(t + 2 * _SLOT))
    j, chunk = 0, start
    while j + 1 < count and i64_pointer(table + 8 * COLUMNS * (j + 1))[FIRST] <= start:
        j += 1
    while chunk < stop:
        row = i64_pointer(table + 8 * COLUMNS * j)
        begin = (chunk - row[FIRST]) * CHUNK
        end = min(row[SIZE], (stop - row[FIRST]) * CHUNK)
        chunk = row[FIRST] + (end + CHUNK - 1) // CHUNK
        rate, dice = F32(f64_pointer(rates)[j]), (row[STATE_KEY], row[PARAM_KEY], random, round_params)
        streams = (p_pointer(row[P]), p_pointer(row[G]), s_pointer(row[M]))
        whole = begin + (end - begin) // WIDTH * WIDTH
        for i in range(begin, whole, WIDTH):
            fetch_ahead(streams, i + AHEAD)
            momentum_at(streams, streams[2], i, i, (k, rate, GENERAL), dice, sign)
        if whole < end:
            move_elements(spare, 0, streams, whole, end - whole, True)
            momentum_at(spare, spare[2], 0, whole, (k, rate, GENERAL), dice, sign)
            move_elements(streams, whole, spare, 0, end - whole, False)
        j += 1


def _momentum_codes(table, rates, count, scalars, start, stop):
    k, s, t = numbers(scalars), f64_pointer(scalars), scratch_memory()
    random, round_params, sign = s[RANDOM] != 0, s[ROUND_PARAMS] != 0, s[SIGN] != 0
    spare = (p_pointer(t), p_pointer(t + _SLOT), u8_pointer(t + 2 * _SLOT))
    wide = f32_pointer(t + _WIDE)
    j, chunk = 0, start
    while j + 1 < count and i64_pointer(table + 8 * COLUMNS * (j + 1))[FIRST] <= start:
        j += 1
    while chunk < stop:
        row = i64_pointer(table + 8 * COLUMNS * j)
        begin = (chunk - row[FIRST]) * CHUNK
        end = min(row[SIZE], (stop - row[FIRST]) * CHUNK)
        chunk = row[FIRST] + (end + CHUNK - 1) // CHUNK
        rate, dice = F32(f64_pointer(rates)[j]), (row[STATE_KEY], row[PARAM_KEY], random, round_params)
        streams = (p_pointer(row[P]), p_pointer(row[G]), u8_pointer(row[M]))
        scales = f32_pointer(row[M_SCALES])
        for base in range(begin, end, BLOCK):
            size = min(BLOCK, end - base)
            momentum_block(streams, spare, wide, scales, base, size, (k, rate, GENERAL), dice, sign)
        j += 1


def _adam_f64(table, rates, count, scalars, start, stop):
    k = f64_pointer(scalars)
    d, w, a, b, c, eps = k[0], k[1], k[2], k[3], k[4], k[EPS]
    l2, grad_scale, shrink, step_cut, decay_cut = k[L2], k[GRAD_SCALE], k[SHRINK], k[STEP_CUT], k[DECAY_CUT]
    j, chunk = 0, start
    while j + 1 < count and i64_pointer(table + 8 * COLUMNS * (j + 1))[FIRST] <= start:
        j += 1
    while chunk < stop:
        row = i64_pointer(table + 8 * COLUMNS * j)
        begin = (chunk - row[FIRST]) * CHUNK
        end = min(row[SIZE], (stop - row[FIRST]) * CHUNK)
        chunk = row[FIRST] + (end + CHUNK - 1) // CHUNK
        rate = f64_pointer(rates)[j]
        p, g, m, v = f64_pointer(row[P]), f64_pointer(row[G]), f64_pointer(row[M]), f64_pointer(row[V])
        x, has_max = f64_pointer(row[X]), row[X] != 0
        for i in range(begin, end):
            gradient = g[i] * grad_scale + l2 * p[i]
            square = gradient * gradient
            m[i] = select(d > 0.5, gradient - (1 - d) * (gradient - m[i]), m[i] + d * (gradient - m[i]))
            v[i] = select(w > 0.5, square - (1 - w) * (square - v[i]), v[i] + w * (square - v[i]))
            largest = v[i]
            if has_max:
                largest = maximum(x[i], largest)
                x[i] = largest
            u = (a * m[i] + b * gradient) / (c * sqrt(largest) + eps)
            u = select(u * gradient <= step_cut, 0.0, u)
            p[i] = p[i] - select(u * p[i] < decay_cut, 0.0, shrink) * p[i] - rate * u
        j += 1


def _momentum_f64(table, rates, count, scalars, start, stop):
    k = f64_pointer(scalars)
    keep, take, old, new, raw, sign = k[0], k[1], k[2], k[3], k[4], k[SIGN] != 0
    l2, grad_scale, shrink, step_cut, decay_cut = k[L2], k[GRAD_SCALE], k[SHRINK], k[STEP_CUT], k[DECAY_CUT]
    j, chunk = 0, start
    while j + 1 < count and i64_pointer(table + 8 * COLUMNS * (j + 1))[FIRST] <= start:
        j += 1
    while chunk < stop:
        row = i64_pointer(table + 8 * COLUMNS * j)
        begin = (chunk - row[FIRST]) * CHUNK
        end = min(row[SIZE], (stop - row[FIRST]) * CHUNK)
        chunk = row[FIRST] + (end + CHUNK - 1) // CHUNK
        rate = f64_pointer(rates)[j]
        p, g, m, has_buffer = f64_pointer(row[P]), f64_pointer(row[G]), f64_pointer(row[M]), row[M] != 0
        for i in range(begin, end):
            gradient = g[i] * grad_scale + l2 * p[i]
            u = raw * gradient
            if has_buffer:
                before = m[i]
                m[i] = keep * before + take * gradient
                u += old * before + new * m[i]
            u = select(sign, select(u > 0.0, 1.0, select(u < 0.0, -1.0, u)), u)
            u = select(u * gradient <= step_cut, 0.0, u)
            p[i] = p[i] - select(u * p[i] < decay_cut, 0.0, shrink) * p[i] - rate * u
        j += 1


def _kept(table, counts, count, scalars, start, stop):
    k, t = numbers(scalars), scratch_memory()
    spare = (p_pointer(t), p_pointer(t + _SLOT), s_pointer(t + 2 * _SLOT))
    j, chunk = 0, start
    while j + 1 < count and i64_pointer(table + 8 * COLUMNS * (j + 1))[FIRST] <= start:
        j += 1
    while chunk < stop:
        row = i64_pointer(table + 8 * COLUMNS * j)
        begin = (chunk - row[FIRST]) * CHUNK
        end = min(row[SIZE], begin + CHUNK)
        streams = (p_pointer(row[P]), p_pointer(row[G]), s_pointer(row[M]))
        kept = splat(_ZERO)
        for base in range(begin, end, BLOCK):
            unit = state_unit(row, base // BLOCK)
            size = min(BLOCK, end - base)
            whole = base + size // WIDTH * WIDTH
            for i in range(base, whole, WIDTH):
                kept = kept_at(kept, streams, read(streams[2], i) * unit, i, k)
            if whole < base + size:
                move_elements(spare, 0, streams, whole, base + size - whole, True)
                kept = kept_at(kept, spare, read(spare[2], 0) * unit, 0, k)
        f64_pointer(counts)[chunk] = lanes_sum(kept)
        chunk += 1
        if chunk == row[FIRST] + (row[SIZE] + CHUNK - 1) // CHUNK:
            j += 1


_LOCK, _MADE = threading.Lock(), dict[str, Kernel]()


def _made(template: Any, name: str, **bound: Any) -> Kernel:
    with _LOCK:
        if name not in _MADE:
            _MADE[name] = specialize(template, _ARGUMENTS, name, **bound)
        return _MADE[name]


#: Dtype -> its short name and what makes a pointer of an address.
_MEMORY = {
    torch.float32: ("f32", f32_pointer),
    torch.bfloat16: ("bf16", bfloat_pointer),
    torch.float16: ("f16", half_pointer),
    torch.float64: ("f64", f64_pointer),
    torch.uint8: ("8bit", u8_pointer),
}
_ARGUMENTS = "void(intp, intp, intp, intp, intp, intp)"
_TEMPLATES = {"adam": (_adam, _adam_codes, _adam_f64), "momentum": (_momentum, _momentum_codes, _momentum_f64)}


def sweep(
    family: str, param: torch.dtype, state: torch.dtype | None, *, has_max: bool = False, general: bool = False
) -> Kernel:
    """Return the kernel of a family of updates; it is compiled when first run.

    Args:
        family: adam or momentum.
        param: float32, bfloat16, float16, or float64 with states of the same.
        state: float32, bfloat16 or uint8; None for no buffer.
        has_max: Whether there is a largest second moment.
        general: Whether there may be masks, or a part of p in the gradient: a third more arithmetic.

    Returns:
        (table, rates, rows, numbers, start, stop) -> None over chunks.
    """
    direct, codes, wide = _TEMPLATES[family]
    name, p_pointer = _MEMORY[param]
    if param == torch.float64:
        return _made(wide, f"update_{family}_{name}")
    state_name, s_pointer = _MEMORY[state] if state is not None else ("none", no_pointer)
    name = f"update_{family}_{name}_{state_name}{'_max' * has_max}{'_general' * general}"
    flag = True if general else None
    if state == torch.uint8:
        return _made(codes, name, p_pointer=p_pointer, GENERAL=flag)
    x_pointer = s_pointer if has_max else no_pointer
    bound = {"p_pointer": p_pointer, "s_pointer": s_pointer, "x_pointer": x_pointer, "GENERAL": flag}
    return _made(direct, name, **bound)


def kept_count(param: torch.dtype, state: torch.dtype | None) -> Kernel:
    """Return the kernel that counts, for each chunk, the entries of a step that have the gradient's sign.

    Args:
        param: float32, bfloat16 or float16.
        state: float32, bfloat16 or uint8; None for no buffer.

    Returns:
        (table, counts, rows, numbers, start, stop) -> None over chunks; the numbers are those of a momentum step.
    """
    name, p_pointer = _MEMORY[param]
    state_name, s_pointer = _MEMORY[state] if state is not None else ("f32", f32_pointer)
    bound = {"read": load_signed, "state_unit": block_unit} if state == torch.uint8 else {}
    return _made(_kept, f"update_kept_{name}_{state_name}", p_pointer=p_pointer, s_pointer=s_pointer, **bound)


# Known to `warmup`; the others are made when first asked for.
for _family in _TEMPLATES:
    sweep(_family, torch.float32, torch.float32)
