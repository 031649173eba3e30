# SPDX-License-Identifier: Apache-2.0
"""Where the states and weights of an optimizer lie in a store, and the way there and back."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from steepest.optim.engine import Engine
from steepest.optim.sharding import cut_like, is_sharded, local
from steepest.train.offload.buffers import Buffer, BufferPool
from steepest.train.offload.pieces import Part, Piece, Share, StateField
from steepest.train.offload.ranks import Ranks
from steepest.train.offload.store import Tile, TileStore


class Kept(NamedTuple):
    """What a state of a parameter is.

    Args:
        shape: Of the whole.
        dtype: Of the tensor.
        sharded: Whether it is cut as its parameter is.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    sharded: bool


@final
class States:
    """The states and weights of an optimizer in a store.

    Args:
        engine: The optimizer.
        store: Where they lie.
        pool: Memory on the way.
        pieces: What it was cut into.
        ranks: The processes that hold it.
    """

    def __init__(self, engine: Engine, store: TileStore, pool: BufferPool, pieces: list[Piece], ranks: Ranks) -> None:
        self._engine, self._store, self._pool, self._pieces, self._ranks = engine, store, pool, pieces, ranks
        self._tiles: dict[Piece, tuple[Tile | None, list[Tile]]] = {}
        self._places: dict[Tensor, list[tuple[Piece, int]]] = {}
        for piece in pieces:
            for index, part in enumerate(piece.parts):
                self._places.setdefault(part.param, []).append((piece, index))

    @property
    def nbytes(self) -> int:
        """Bytes of the states, once."""
        return sum(piece.state_bytes for piece in self._pieces)

    def make(self) -> None:
        """Find the layout of the states; what the optimizer has in memory stays there until `take_over`."""
        for piece in self._pieces:
            piece.make_states(self._engine, self._ranks)

    def plan(self) -> None:
        """Plan a tile for the states of each piece, and those for its weights."""
        for piece in self._pieces:
            state = self._store.add(f"states of {piece.label}", piece.state_bytes) if piece.state_bytes else None
            shares = [share for share in piece.shares() if share.nbytes]
            weights = [self._store.add(f"weights of {share.parts[0].label}", share.nbytes) for share in shares]
            self._tiles[piece] = state, weights

    @torch.no_grad()
    def take(self, state_of: Callable[[Tensor], Mapping[str, Any]]) -> None:
        """Write states, and the weights that are in the model.

        Args:
            state_of: The state of a parameter, such as an optimizer keeps; empty for what it is before the first step.
                Called once for each, in an order that is the same in all processes.
        """
        last: tuple[Tensor | None, Mapping[str, Any]] = None, {}
        for piece in self._pieces:
            fresh = Piece(piece.group, [dataclasses.replace(part, state={}) for part in piece.parts])
            values = fresh.make_states(self._engine, self._ranks)
            buffer = self._pool.take(piece.state_bytes + piece.param_bytes)
            try:
                for index, (part, new) in enumerate(zip(piece.parts, fresh.parts, strict=True)):
                    if part.param is not last[0]:  # the pieces of a parameter follow each other
                        last = part.param, state_of(part.param)
                    own = last[1]
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
        value = local(value)
        here = local(part.param).shape
        if isinstance(value, Tensor) and whole and part.span is not None and value.shape == here:
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
        tile, _ = self._tiles[piece]
        if tile is not None:
            self._store.write(tile, buffer.view[: piece.state_bytes])
        for share, weights in self._shares(piece):
            start = piece.state_bytes + share.offset
            self._store.write(weights, buffer.view[start : start + share.nbytes])

    def write_weights(self) -> None:
        """Write the weights of the model, as they are."""
        for piece in self._pieces:
            for share, tile in self._shares(piece):
                buffer = self._pool.take(share.nbytes)
                try:
                    for part, room in share.copies(buffer, 0):
                        room.copy_(part.weights())
                    self._store.write(tile, buffer.view[: share.nbytes])
                finally:
                    self._pool.give(buffer)

    def _shares(self, piece: Piece) -> Iterator[tuple[Share, Tile]]:
        return zip([share for share in piece.shares() if share.nbytes], self._tiles[piece][1], strict=True)

    def read_weights(self, piece: Piece, buffer: Buffer) -> None:
        """Bring the weights of a piece that a step begins with to their place in a buffer, behind the states."""
        for share, tile in self._shares(piece):
            if any(part.stepped_from_disk for part in share.parts):
                start = piece.state_bytes + share.offset
                self._store.read(tile, buffer.view[start : start + share.nbytes])

    @torch.no_grad()
    def weights_of(self, param: Tensor) -> Tensor:
        """Return the weights that the disk has, in memory of their own: float32 ones where it keeps those."""
        piece, index = self._places[param][0]
        found = torch.empty(local(param).shape, dtype=piece.parts[index].dtype)
        self._read_weights(param, found)
        return found

    @torch.no_grad()
    def bring_weights(self, param: Tensor) -> None:
        """Fill a parameter with the weights that the disk has; its version stays, as they are those it had before."""
        # `data` has a version of its own. Parameters that are views of one mapped file share theirs, so that a thread
        # that counted it up would make autograd believe that another weight, just in use, had changed.
        self._read_weights(param, local(param.data))

    def _read_weights(self, param: Tensor, out: Tensor) -> None:
        for piece, index in self._places[param]:
            wanted = piece.parts[index]
            for share, tile in self._shares(piece):
                for part, room in self._in_share(share, tile) if wanted in share.parts else ():
                    if part is wanted:
                        part.of(out).copy_(room)

    @torch.no_grad()
    def restore_weights(self, pieces: Iterable[Piece]) -> None:
        """Put the committed weights of some pieces into the model."""
        for piece in pieces:
            for share, tile in self._shares(piece):
                for part, room in self._in_share(share, tile):
                    if not part.away:
                        part.weights().copy_(room)

    def _in_share(self, share: Share, tile: Tile) -> Iterator[tuple[Part, Tensor]]:
        buffer = self._pool.take(share.nbytes)
        try:
            self._store.read(tile, buffer.view[: share.nbytes])
            yield from share.copies(buffer, 0)
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

    def kept(self, param: Tensor) -> dict[str, Kept]:
        """Return the tensors of a parameter's state, unread."""
        found: dict[str, Kept] = {}
        for piece, index in self._places[param]:
            for place in (place for place in piece.fields if place.part == index):
                of_param = place.sharded or piece.parts[index].span is not None
                shape = tuple(param.shape) if of_param else place.shape
                found[place.key] = Kept(shape, getattr(torch, place.dtype), place.sharded and is_sharded(param))
        return found

    def numbers(self, param: Tensor) -> dict[str, Any]:
        """Return the numbers of a parameter's state."""
        piece, index = self._places[param][0]
        return piece.parts[index].state

    def described(self) -> list[tuple[Tensor, dict[str, Any], dict[str, Kept]]]:
        """Return each parameter that has stepped, its numbers, and what its tensors are; reads nothing."""
        stepped = [param for param in self._places if self.numbers(param)["step"]]
        return [(param, dict(self.numbers(param)), self.kept(param)) for param in stepped]

    def each(self) -> Iterator[tuple[Tensor, dict[str, Any]]]:
        """Yield each parameter that has stepped, with its state in memory of its own: one after another.

        A large parameter's state is as large as in memory; a caller that keeps one at a time needs no more than that.
        """
        for param in self._places:
            if self.numbers(param)["step"]:
                yield param, self.state_of(param)

    def state_of(self, param: Tensor) -> dict[str, Any]:
        """Return the state of a parameter as the optimizer in memory has it, this process's shards of it."""
        state: dict[str, Any] = dict(self.numbers(param))
        for piece, index in self._places[param]:
            buffer = self._pool.take(piece.state_bytes)
            try:
                self.read(piece, buffer)
                span = piece.parts[index].span
                for place in (place for place in piece.fields if place.part == index):
                    value = place.tensor(buffer)
                    if span is None:
                        state[place.key] = torch.empty_like(value).copy_(value)
                    else:
                        home = state.setdefault(place.key, torch.empty(local(param).shape, dtype=value.dtype))
                        home.view(-1)[slice(*span)] = value
            finally:
                self._pool.give(buffer)
        for key, kept in self.kept(param).items():
            if kept.sharded:
                state[key] = cut_like(state[key], param)
        return state

    def bring_all(self) -> None:
        """Bring all states into the optimizer's memory."""
        for param, state in self.each():
            self._engine.state[param] = state

    def drop_all(self) -> None:
        """Drop what `bring_all` brought."""
        self._engine.state.clear()
