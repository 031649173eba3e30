# SPDX-License-Identifier: Apache-2.0
"""Where the states and weights of an optimizer lie in a store, and the way there and back."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, final

import torch
from torch import Tensor

from steepest.optim.engine import Engine
from steepest.train.offload.buffers import Buffer, BufferPool
from steepest.train.offload.pieces import Part, Piece, StateField
from steepest.train.offload.store import Tile, TileStore


@final
class States:
    """The states and weights of an optimizer in a store.

    Args:
        engine: The optimizer.
        store: Where they lie.
        pool: Memory on the way.
        pieces: What it was cut into.
    """

    def __init__(self, engine: Engine, store: TileStore, pool: BufferPool, pieces: list[Piece]) -> None:
        self._engine, self._store, self._pool, self._pieces = engine, store, pool, pieces
        self._tiles: dict[Piece, tuple[Tile | None, Tile]] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of the states, once."""
        return sum(piece.state_bytes for piece in self._pieces)

    def make(self) -> None:
        """Find the layout of the states; what the optimizer has in memory stays there until `take_over`."""
        for piece in self._pieces:
            piece.make_states(self._engine)

    def plan(self) -> None:
        """Plan a tile for the states and one for the weights of each piece."""
        for piece in self._pieces:
            state = self._store.add(f"states of {piece.label}", piece.state_bytes) if piece.state_bytes else None
            self._tiles[piece] = state, self._store.add(f"weights of {piece.label}", piece.param_bytes)

    @torch.no_grad()
    def take(self, state_of: Callable[[Tensor], Mapping[str, Any]]) -> None:
        """Write states, and the weights that are in the model.

        Args:
            state_of: The state of a parameter, such as an optimizer keeps; empty for what it is before the first step.
        """
        for piece in self._pieces:
            fresh = Piece(piece.group, [Part(p.param, p.place, p.name, p.span) for p in piece.parts])
            values = fresh.make_states(self._engine)
            buffer = self._pool.take(piece.state_bytes + piece.param_bytes)
            try:
                for index, (part, new) in enumerate(zip(piece.parts, fresh.parts, strict=True)):
                    own = state_of(part.param)
                    for place in (place for place in piece.fields if place.part == index):
                        value = own.get(place.key) if own else values[index, place.key]
                        place.tensor(buffer).copy_(self._fitting(part, place, value, whole=bool(own)))
                    part.state.clear()
                    numbers = {key: value for key, value in own.items() if not isinstance(value, Tensor)}
                    part.state.update(numbers if own else new.state)
                for part, room in piece.copies(buffer, piece.state_bytes):
                    room.copy_(part.weights())
                self.write(piece, buffer)
            finally:
                self._pool.give(buffer)

    def _fitting(self, part: Part, place: StateField, value: Any, *, whole: bool) -> Tensor:
        """The part of a state that goes to a place."""
        if isinstance(value, Tensor) and whole and part.span is not None and value.shape == part.param.shape:
            value = value.contiguous().view(-1)[slice(*part.span)]
        if not isinstance(value, Tensor) or tuple(value.shape) != place.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else value
            raise ValueError(f"{part.label}: expected a state {place.key} of shape {place.shape}, got {got}")
        return value

    def take_over(self) -> None:
        """Write the states that the optimizer has in memory, and drop them there."""
        self.take(lambda param: self._engine.state.get(param) or {})
        self._engine.state.clear()

    def read(self, piece: Piece, buffer: Buffer) -> None:
        """Bring the states of a piece to the start of a buffer."""
        tile, _ = self._tiles[piece]
        if tile is not None:
            self._store.read(tile, buffer.view[: piece.state_bytes])

    def write(self, piece: Piece, buffer: Buffer) -> None:
        """Write states and weights of a piece from a buffer."""
        tile, weights = self._tiles[piece]
        if tile is not None:
            self._store.write(tile, buffer.view[: piece.state_bytes])
        self._store.write(weights, buffer.view[piece.state_bytes : piece.state_bytes + piece.param_bytes])

    @torch.no_grad()
    def restore_weights(self, pieces: Iterable[Piece]) -> None:
        """Put the committed weights of some pieces into the model."""
        for piece in pieces:
            buffer = self._pool.take(piece.param_bytes)
            try:
                self._store.read(self._tiles[piece][1], buffer.view[: piece.param_bytes])
                for part, room in piece.copies(buffer, 0):
                    part.weights().copy_(room)
            finally:
                self._pool.give(buffer)

    def note(self, more: dict[str, Any]) -> dict[str, Any]:
        """Return what belongs to a commit besides tiles: numbers of states and groups, and what the caller adds."""
        groups = [
            {key: value for key, value in group.items() if key not in ("params", "param_names")}
            for group in self._engine.param_groups
        ]
        numbers = [[part.state for part in piece.parts] for piece in self._pieces]
        return {"numbers": numbers, "groups": groups, "skipped": self._engine.skipped, "more": more}

    def restore(self, note: dict[str, Any]) -> None:
        """Put the weights, and the numbers of a commit, where they belong."""
        for piece, numbers in zip(self._pieces, note["numbers"], strict=True):
            for part, own in zip(piece.parts, numbers, strict=True):
                part.state.clear()
                part.state.update(own)
        for group, own in zip(self._engine.param_groups, note["groups"], strict=True):
            group.update({key: tuple(value) if isinstance(value, list) else value for key, value in own.items()})
        self._engine.skipped = note["skipped"]
        self.restore_weights(self._pieces)

    def described(self) -> list[tuple[Tensor, dict[str, Any], dict[str, tuple[tuple[int, ...], torch.dtype]]]]:
        """Return each parameter that has stepped, its numbers, and shape and dtype of its tensors; reads nothing."""
        found: dict[Tensor, tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], torch.dtype]]]] = {}
        for piece in self._pieces:
            for index, part in enumerate(piece.parts):
                if not part.state["step"]:
                    continue
                _, tensors = found.setdefault(part.param, (dict(part.state), {}))
                for place in (place for place in piece.fields if place.part == index):
                    shape = place.shape if part.span is None else tuple(part.param.shape)
                    tensors[place.key] = shape, getattr(torch, place.dtype)
        return [(param, *what) for param, what in found.items()]

    def each(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Yield each parameter that has stepped, with its state in memory of its own: one after another.

        A large parameter's state is as large as in memory; a caller that keeps one at a time needs no more than that.
        """
        by_param: dict[Tensor, list[tuple[Piece, int]]] = {}
        for piece in self._pieces:
            for index, part in enumerate(piece.parts):
                by_param.setdefault(part.param, []).append((piece, index))
        for param, places in by_param.items():
            if places[0][0].parts[places[0][1]].state["step"]:
                yield param, self._gather(param, places)

    def _gather(self, param: Tensor, places: list[tuple[Piece, int]]) -> dict[str, Any]:
        state: dict[str, Any] = dict(places[0][0].parts[places[0][1]].state)
        for piece, index in places:
            buffer = self._pool.take(piece.state_bytes)
            try:
                self.read(piece, buffer)
                span = piece.parts[index].span
                for place in piece.fields:
                    if place.part != index:
                        continue
                    value = place.tensor(buffer)
                    if span is None:
                        state[place.key] = torch.empty_like(value).copy_(value)
                    else:
                        home = state.setdefault(place.key, torch.empty(param.shape, dtype=value.dtype))
                        home.view(-1)[slice(*span)] = value
            finally:
                self._pool.give(buffer)
        return state

    def bring_all(self) -> None:
        """Bring all states into the optimizer's memory."""
        for param, state in self.each():
            self._engine.state[param] = state

    def drop_all(self) -> None:
        """Drop what `bring_all` brought."""
        self._engine.state.clear()
