# SPDX-License-Identifier: Apache-2.0
"""How states are kept between steps: as they are, or the entrywise ones in fewer bits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from steepest.optim.rule import State


class Codec(NamedTuple):
    """How the states of one parameter are kept in this step.

    Args:
        dtype: `"float32"`, `"bfloat16"` or `"8bit"`.
        entry_states: Names of those that it concerns.
        seed: For stochastic rounding.
    """

    dtype: str
    entry_states: tuple[str, ...]
    seed: int


def is_part(key: str) -> bool:
    """Whether a key of a state is a part of another one, like the scales of its blocks."""
    return ":" in key


def load(state: State, name: str, codec: Codec) -> Tensor:
    """Return a state in the dtype of the arithmetic; the stored tensor itself where it is kept so."""
    return state[name]


def store(state: State, name: str, value: Tensor, codec: Codec) -> None:
    """Keep a state for the next step."""
    kept = state.get(name)
    if kept is None:
        state[name] = value
    elif kept is not value:
        kept.copy_(value)


@contextmanager
def opened(state: State, names: Sequence[str], codec: Codec) -> Iterator[State]:
    """Give the named states in the dtype of the arithmetic, and keep what became of them."""
    plain = {name: load(state, name, codec) for name in names if name in state}
    yield plain
    for name, value in plain.items():
        store(state, name, value, codec)
