# SPDX-License-Identifier: Apache-2.0
"""From lists of tensors to the table that a sweep reads, and the sweep over it on several threads."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steepest.kernels._op import DTYPES, KERNEL, ORDINARY, route
from steepest.kernels._pool import spread
from steepest.kernels._updates_hyper import (
    AdamHyper,
    MomentumHyper,
    MomentumTerms,
    adam_terms,
    decay_terms,
    momentum_terms,
)
from steepest.kernels._updates_kernels import kept_count, sweep
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
)
from steepest.kernels._updates_noise import noise_keys
from steepest.kernels._updates_states import Quantized, State
from steepest.kernels._updates_vector import (
    DECAY_CUT,
    GRAD_SCALE,
    L2,
    NUMBERS,
    RANDOM,
    ROUND_PARAMS,
    SHRINK,
    SIGN,
    STEP_CUT,
)

Hyper = AdamHyper | MomentumHyper
States = Sequence[State] | None
#: Time of one element on one thread, about, for the decision to use several.
NANOSECONDS = 1.0
_STATES = {torch.float32, torch.bfloat16, torch.uint8}
_address, _numel = Tensor.data_ptr, Tensor.numel
_is_cpu, _dtype = operator.attrgetter("is_cpu"), operator.attrgetter("dtype")


def adam_fast_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: tuple[Sequence[State], Sequence[State], States],
    hyper: AdamHyper,
    lr_scales: Sequence[float] | None,
) -> list[int]:
    """Do what `adam_step_` does with every parameter that a kernel can take, and return the positions of the others."""
    terms, decay = adam_terms(hyper), decay_terms(hyper)
    kinds, left = _sort(params, grads, states, hyper)
    for (dtype, state), chosen in kinds.items():
        table = _Table(params, grads, states, chosen, hyper)
        first = (1 - hyper.beta1, 1 - hyper.beta2, *terms, hyper.eps)
        scalars = _scalars(first, decay, hyper, sign=False)
        momentum = MomentumTerms(hyper.beta1, 1 - hyper.beta1, 0.0, terms.a, terms.b, False)
        rates = table.rates(hyper, lr_scales)
        if hyper.cautious:
            rates *= table.entries_by_kept(dtype, state, _scalars((*momentum[:5], 0.0), decay, hyper, sign=False))
        general = bool(hyper.cautious or decay.masked or decay.l2 or min(hyper.beta1, hyper.beta2) < 0.5)
        table.run(sweep("adam", dtype, state, has_max=states[2] is not None, general=general).run, rates, scalars)
    return left


def momentum_fast_(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    states: tuple[States],
    hyper: MomentumHyper,
    lr_scales: Sequence[float] | None,
) -> list[int]:
    """Do what `momentum_step_` does with every parameter that a kernel can take; return the positions of the others."""
    terms, decay = momentum_terms(hyper, states[0] is not None), decay_terms(hyper)
    kinds, left = _sort(params, grads, states, hyper)
    for (dtype, state), chosen in kinds.items():
        table = _Table(params, grads, states, chosen, hyper)
        scalars = _scalars((*terms[:5], 0.0), decay, hyper, sign=terms.sign)
        rates = table.rates(hyper, lr_scales)
        if hyper.cautious:
            rates *= table.entries_by_kept(dtype, state, scalars)
        general = bool(hyper.cautious or decay.masked or decay.l2)
        table.run(sweep("momentum", dtype, state, general=general).run, rates, scalars)
    return left


def _scalars(first: tuple[float, ...], decay: Any, hyper: Hyper, *, sign: bool) -> np.ndarray:
    out = np.zeros(NUMBERS)
    out[: len(first)] = first
    out[L2], out[GRAD_SCALE], out[SHRINK] = decay.l2, hyper.grad_scale, decay.shrink
    out[STEP_CUT] = 0.0 if hyper.cautious else math.nan
    out[DECAY_CUT] = 0.0 if decay.masked else math.nan
    out[RANDOM], out[ROUND_PARAMS] = hyper.noise is not None, hyper.noise is not None and hyper.round_params
    out[SIGN] = sign
    return out


def _kind(p: Tensor, g: Tensor, states: tuple[State, ...], hyper: Hyper) -> tuple[torch.dtype, Any] | None:
    """Return the dtypes of parameter and state if there is a kernel for them, else None."""
    dtype = p.dtype
    if g.dtype != dtype or type(p) not in ORDINARY or type(g) not in ORDINARY:
        return None
    if not (p.is_contiguous() and g.is_contiguous() and p.is_cpu and g.is_cpu):
        return None
    state: torch.dtype | None = None
    for one in states:
        if isinstance(one, Quantized):
            whole = one.codes.is_contiguous() and one.codes.is_cpu and one.scales.is_contiguous()
            kind = torch.uint8
        else:
            whole, kind = one.is_contiguous() and one.is_cpu and type(one) in ORDINARY, one.dtype
        if not whole or (state is not None and kind != state):
            return None
        state = kind
    if dtype == torch.float64:
        return (dtype, state) if state in (None, torch.float64) and not hyper.cautious else None
    if dtype not in DTYPES or not (state is None or state in _STATES):
        return None
    return None if state == torch.uint8 and len(states) == 3 else (dtype, state)


def _sort(
    params: Sequence[Tensor], grads: Sequence[Tensor], states: tuple[States, ...], hyper: Hyper
) -> tuple[dict[tuple[torch.dtype, Any], list[int]], list[int]]:
    """Return the positions that each kernel takes, and those that none does."""
    sizes = list(map(_numel, params))
    everything = list(range(len(sizes))) if all(sizes) else [i for i, size in enumerate(sizes) if size]
    if not everything or (route(params[0]) is not KERNEL and params[0].dtype != torch.float64):
        return {}, everything
    present = [one for one in states if one is not None]
    if len(everything) == len(params) and _alike(params, grads, *present):
        kind = _kind(params[0], grads[0], tuple(one[0] for one in present), hyper)
        return ({}, everything) if kind is None else ({kind: everything}, [])
    kinds: dict[tuple[torch.dtype, Any], list[int]] = {}
    left: list[int] = []
    for i in everything:
        kind = _kind(params[i], grads[i], tuple(one[i] for one in present), hyper)
        (left if kind is None else kinds.setdefault(kind, [])).append(i)
    return kinds, left


def _alike(params: Sequence[Tensor], grads: Sequence[Tensor], *states: Sequence[Any]) -> bool:
    """Return whether all are ordinary contiguous CPU tensors, and each list has one dtype; in loops of C alone."""
    if not all(map(_is_cpu, params)):
        return False
    lists: list[Sequence[Any]] = [params, grads]
    for one in states:
        lists += [[s.codes for s in one], [s.scales for s in one]] if type(one[0]) is Quantized else [one]
    for tensors in lists:
        if not ORDINARY.issuperset(map(type, tensors)):
            return False
        if not all(map(Tensor.is_contiguous, tensors)) or len(set(map(_dtype, tensors))) > 1:
            return False
    return all(all(map(_is_cpu, tensors)) for tensors in lists[1:])


class _Table:
    """The rows of some tensors, in memory that a sweep reads."""

    def __init__(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        states: tuple[States, ...],
        chosen: list[int],
        hyper: Hyper,
    ) -> None:
        self.params, self.chosen = params, chosen
        self.memory = np.zeros((len(chosen), COLUMNS), np.int64)
        self.memory[:, P] = list(map(_address, map(params.__getitem__, chosen)))
        self.memory[:, G] = list(map(_address, map(grads.__getitem__, chosen)))
        self.memory[:, SIZE] = list(map(_numel, map(params.__getitem__, chosen)))
        for many, column, scales in zip(states, (M, V, X), (M_SCALES, V_SCALES, None), strict=False):
            if many is not None:
                self._add_states([many[i] for i in chosen], column, scales)
        chunks = -(-self.memory[:, SIZE] // CHUNK)
        ends = np.cumsum(chunks)
        self.memory[:, FIRST] = ends - chunks
        self.chunks = int(ends[-1])
        if hyper.noise is not None:
            self.memory[:, STATE_KEY : PARAM_KEY + 1] = noise_keys(hyper.noise, chosen)

    def _add_states(self, states: list[State], column: int, scales: int | None) -> None:
        tensors: list[Any] = [s.codes if type(s) is Quantized else s for s in states]
        self.memory[:, column] = list(map(_address, tensors))
        if type(states[0]) is Quantized and scales is not None:
            self.memory[:, scales] = [s.scales.data_ptr() for s in states if type(s) is Quantized]

    def rates(self, hyper: Hyper, lr_scales: Sequence[float] | None) -> np.ndarray:
        """Return the learning rate of each row."""
        rates = np.full(len(self.chosen), hyper.lr, np.float64)
        if lr_scales is not None:
            rates *= [lr_scales[i] for i in self.chosen]
        return rates

    def entries_by_kept(self, dtype: torch.dtype, state: torch.dtype | None, scalars: np.ndarray) -> np.ndarray:
        """Return entries / entries whose step has the gradient's sign, for each row."""
        counts = np.zeros(self.chunks)
        if state is None:  # read something; its factor is 0
            self.memory[:, M] = self.memory[:, G]
        self.run(kept_count(dtype, state).run, counts, scalars)
        kept = np.add.reduceat(counts, self.memory[:, FIRST])
        return self.memory[:, SIZE] / np.maximum(kept, 1)

    def run(self, kernel: Any, second: np.ndarray, scalars: np.ndarray) -> None:
        """Sweep over all chunks."""
        table = self.memory
        each = NANOSECONDS * float(table[:, SIZE].sum()) / self.chunks
        arguments = (table.ctypes.data, second.ctypes.data, len(table), scalars.ctypes.data)
        spread(kernel, self.chunks, each, *arguments)
