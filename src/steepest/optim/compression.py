# SPDX-License-Identifier: Apache-2.0
"""How states are kept between steps: as they are, or the entrywise ones in fewer bits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from steepest.kernels import updates
from steepest.kernels.updates import Noise, Quantized, decode_state, encode_state_, state_zeros
from steepest.optim.rule import Entries, Rule, State
from steepest.optim.sharding import is_sharded

#: Between the name of a state and that of its part.
_PART = ":"
_SCALES = f"{_PART}scales"
_DTYPES = {"bfloat16": torch.bfloat16, "8bit": torch.uint8}


class Codec(NamedTuple):
    """How the states of one parameter are kept in this step.

    Args:
        dtype: `"float32"`, `"bfloat16"` or `"8bit"`.
        rule: Says which states it concerns, and which of them are nowhere negative.
        seed: Of stochastic rounding.
        step: Number of the step.
        number: Of the parameter.
    """

    dtype: str
    rule: Rule
    seed: int
    step: int
    number: int

    def compresses(self, name: str, value: Tensor) -> bool:
        """Whether a state is kept in fewer bits."""
        if self.dtype == "float32" or value.dtype != torch.float32:
            return False
        return _base(name) in self.rule.entry_states


def is_part(key: str) -> bool:
    """Whether a key of a state is a part of another one, like the scales of its blocks."""
    return _PART in key


def kernel_state(state: State, name: str) -> updates.State:
    """Return a stored state as the kernels take it."""
    scales = state.get(name + _SCALES)
    return state[name] if scales is None else Quantized(state[name], scales)


def kernel_states(entries: Entries, name: str) -> list[updates.State]:
    """Return a state of each member as the kernels take it; those that lack it are left out."""
    if name + _SCALES in entries.states[0]:
        return [kernel_state(state, name) for state in entries.states if name in state]
    return [state[name] for state in entries.states if name in state]


def kernel_noise(entries: Entries, name: str) -> Noise | None:
    """Return where the random bits of a step come from, None where its states are kept as they are."""
    plain = entries.states[0][name].dtype in (torch.float32, torch.float64)
    return None if plain else Noise(entries.step.seed, entries.step.count)


def load(state: State, name: str, codec: Codec) -> Tensor:
    """Return a state in the dtype of the arithmetic; the stored tensor itself where it is kept so."""
    stored = state[name]
    if _base(name) not in codec.rule.entry_states or stored.dtype in (torch.float32, torch.float64):
        return stored
    return decode_state(kernel_state(state, name), signed=_base(name) not in codec.rule.unsigned_states)


def store(state: State, name: str, value: Tensor, codec: Codec) -> None:
    """Keep a state for the next step."""
    kept = state.get(name)
    if kept is value:
        return
    if kept is None:
        if not codec.compresses(name, value):
            state[name] = value
            return
        if is_sharded(value):
            raise ValueError(f"state_dtype={codec.dtype!r} is for whole parameters; sharded ones keep float32")
        _make(state, name, value, codec.dtype)
    elif kept.dtype == value.dtype:
        kept.copy_(value)
        return
    signed = _base(name) not in codec.rule.unsigned_states
    noise = Noise(codec.seed, codec.step)
    tensor = 8 * codec.number + codec.rule.entry_states.index(_base(name))
    encode_state_(kernel_state(state, name), value, signed=signed, noise=noise, tensor=tensor)


def _make(state: State, name: str, value: Tensor, dtype: str) -> None:
    made = state_zeros(value, _DTYPES[dtype])
    if isinstance(made, Quantized):
        state[name], state[name + _SCALES] = made
    else:
        state[name] = made


def _base(name: str) -> str:
    """The rule's name of a state, without the number of the block of a fused projection."""
    return name.partition(".")[0]


@contextmanager
def opened(state: State, names: Sequence[str], codec: Codec) -> Iterator[State]:
    """Give the named states in the dtype of the arithmetic, and keep what became of them."""
    plain = {name: load(state, name, codec) for name in names if name in state}
    yield plain
    for name, value in plain.items():
        store(state, name, value, codec)
