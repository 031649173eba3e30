# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the updates on sixteen elements, and on blocks of eight-bit states."""

import numpy as np

from steepest.kernels._registry import device
from steepest.kernels._updates_rounding import (
    high_bits,
    load_signed,
    load_unsigned,
    low_bits,
    random_bits,
    store_rounded,
    store_signed,
    store_unsigned,
)
from steepest.kernels._updates_states import BLOCK, OFFSETS, TINY, TOP
from steepest.kernels._updates_vector import (
    adam_ratio,
    applied,
    first_moment,
    gradient,
    larger_magnitude,
    largest_lane,
    momentum_direction,
    move_elements,
    new_buffer,
    second_moment,
    sign_if,
)
from steepest.kernels._vector import WIDTH, load, splat, vmax
from steepest.kernels._vector_stores import store

#: Elements of a chunk: a piece of work is a whole number of them.
CHUNK = 4096
#: Columns of the table of tensors, int64: addresses, size, number of the first chunk, keys of the random bits.
P, G, M, V, X, M_SCALES, V_SCALES, SIZE, FIRST, STATE_KEY, PARAM_KEY, COLUMNS = range(12)

F32 = np.float32
_ZERO, _INF, _TINY, _NAN = F32(0), F32(np.inf), F32(TINY), F32(np.nan)
#: Largest magnitude in code units.
SIGNED_TOP, UNSIGNED_TOP = F32(TOP - OFFSETS[True]), F32(TOP - OFFSETS[False])


@device
def adam_at(streams, x_to, i, number, rule, dice):
    """Update elements i to i + 15, which are `number` and on of their tensor."""
    p_to, g_from, m_to, v_to, _ = streams
    p = load(p_to, i)
    g = gradient(p, load(g_from, i), rule)
    m, v = first_moment(g, load(m_to, i), rule), second_moment(g, load(v_to, i), rule)
    bits, more = random_bits(dice[2], dice[0], number), random_bits(dice[2] or dice[3], dice[1], number)
    store_rounded(m_to, i, m, low_bits(bits), dice[2])
    store_rounded(v_to, i, v, high_bits(bits), dice[2])
    if x_to is not None:
        v = vmax(load(x_to, i), v)
        store_rounded(x_to, i, v, low_bits(more), dice[2])
    p = applied(p, g, adam_ratio(g, m, v, rule), rule)
    store_rounded(p_to, i, p, high_bits(more), dice[3])


@device
def momentum_at(streams, m_to, i, number, rule, dice, sign):
    """Update elements i to i + 15; there may be no buffer."""
    p_to, g_from, _ = streams
    p = load(p_to, i)
    g = gradient(p, load(g_from, i), rule)
    if m_to is not None:
        old = load(m_to, i)
        new = new_buffer(g, old, rule)
        u = momentum_direction(g, old, new, rule)
        store_rounded(m_to, i, new, low_bits(random_bits(dice[2], dice[0], number)), dice[2])
    else:
        u = g * rule[0][4]
    p = applied(p, g, sign_if(sign, u), rule)
    store_rounded(p_to, i, p, high_bits(random_bits(dice[3], dice[1], number)), dice[3])


@device
def new_scale(peak, top):
    """Return a block's scale, and the factor from values to code units."""
    scale = largest_lane(peak)
    if scale < _TINY:
        return _ZERO, _ZERO
    if scale < _INF:
        return scale, top / scale
    return _NAN, _ZERO


@device
def adam_codes_at(streams, wide, i, at, number, units, rule, dice):
    """Update p at i, and write new m and v in float32 to wide memory at `at`; return them."""
    p_to, g_from, m_from, v_from = streams
    p = load(p_to, i)
    m, v = load_signed(m_from, i) * units[0], load_unsigned(v_from, i) * units[1]
    g = gradient(p, load(g_from, i), rule)
    m, v = first_moment(g, m, rule), second_moment(g, v, rule)
    store(wide[0], at, m)
    store(wide[1], at, v)
    p = applied(p, g, adam_ratio(g, m, v, rule), rule)
    store_rounded(p_to, i, p, high_bits(random_bits(dice[3], dice[1], number)), dice[3])
    return m, v


@device
def encode_pair_at(codes, wide, i, at, number, factors, dice):
    """Write m and v from wide memory as codes."""
    bits = random_bits(dice[2], dice[0], number)
    store_signed(codes[0], i, load(wide[0], at) * factors[0], low_bits(bits), dice[2])
    store_unsigned(codes[1], i, load(wide[1], at) * factors[1], high_bits(bits), dice[2])


@device
def adam_block(streams, spare, wide, scales, base, count, rule, dice):
    """Update the elements of one block."""
    block, whole = base // BLOCK, count // WIDTH * WIDTH
    units = (scales[0][block] / SIGNED_TOP, scales[1][block] / UNSIGNED_TOP)
    m_peak = splat(_ZERO)
    v_peak = m_peak
    for at in range(0, whole, WIDTH):
        m, v = adam_codes_at(streams, wide, base + at, at, base + at, units, rule, dice)
        m_peak, v_peak = larger_magnitude(m_peak, m), larger_magnitude(v_peak, v)
    if whole < count:
        move_elements(spare, 0, streams, base + whole, count - whole, True)
        m, v = adam_codes_at(spare, wide, 0, whole, base + whole, units, rule, dice)
        m_peak, v_peak = larger_magnitude(m_peak, m), larger_magnitude(v_peak, v)
        move_elements(streams, base + whole, spare, 0, count - whole, False)
    m_scale, m_factor = new_scale(m_peak, SIGNED_TOP)
    v_scale, v_factor = new_scale(v_peak, UNSIGNED_TOP)
    scales[0][block], scales[1][block] = m_scale, v_scale
    factors = (m_factor, v_factor)
    for at in range(0, whole, WIDTH):
        encode_pair_at(streams[2:], wide, base + at, at, base + at, factors, dice)
    if whole < count:
        encode_pair_at(spare[2:], wide, 0, whole, base + whole, factors, dice)
        move_elements(streams, base + whole, spare, 0, count - whole, False)


@device
def momentum_codes_at(streams, wide, i, at, number, unit, rule, dice, sign):
    """Update p at i, and write the new buffer in float32 to wide memory at `at`; return it."""
    p_to, g_from, m_from = streams
    p = load(p_to, i)
    g = gradient(p, load(g_from, i), rule)
    old = load_signed(m_from, i) * unit
    new = new_buffer(g, old, rule)
    store(wide, at, new)
    u = momentum_direction(g, old, new, rule)
    p = applied(p, g, sign_if(sign, u), rule)
    store_rounded(p_to, i, p, high_bits(random_bits(dice[3], dice[1], number)), dice[3])
    return new


@device
def encode_at(codes, wide, i, at, number, factor, dice):
    """Write a buffer from wide memory as codes."""
    store_signed(codes, i, load(wide, at) * factor, low_bits(random_bits(dice[2], dice[0], number)), dice[2])


@device
def momentum_block(streams, spare, wide, scales, base, count, rule, dice, sign):
    """Update the elements of one block."""
    block, whole = base // BLOCK, count // WIDTH * WIDTH
    unit = scales[block] / SIGNED_TOP
    peak = splat(_ZERO)
    for at in range(0, whole, WIDTH):
        i = base + at
        peak = larger_magnitude(peak, momentum_codes_at(streams, wide, i, at, i, unit, rule, dice, sign))
    if whole < count:
        i = base + whole
        move_elements(spare, 0, streams, i, count - whole, True)
        peak = larger_magnitude(peak, momentum_codes_at(spare, wide, 0, whole, i, unit, rule, dice, sign))
        move_elements(streams, i, spare, 0, count - whole, False)
    scale, factor = new_scale(peak, SIGNED_TOP)
    scales[block] = scale
    for at in range(0, whole, WIDTH):
        encode_at(streams[2], wide, base + at, at, base + at, factor, dice)
    if whole < count:
        encode_at(spare[2], wide, 0, whole, base + whole, factor, dice)
        move_elements(streams, base + whole, spare, 0, count - whole, False)
