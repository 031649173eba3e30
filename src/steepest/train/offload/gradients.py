# SPDX-License-Identifier: Apache-2.0
"""Gradients as they come out of the backward pass: measured, and kept in memory or on the disk."""

import math
import threading
from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from steepest.optim.sharding import cut_like, is_sharded, local, whole
from steepest.train.offload.buffers import Buffer, BufferPool
from steepest.train.offload.pieces import SMALL, Part, Piece
from steepest.train.offload.pipeline import Pipeline
from steepest.train.offload.ranks import entries_here
from steepest.train.offload.store import Tile, TileStore


@final
class Gradients:
    """The gradients of one step.

    Args:
        store: Where they go.
        pool: Memory on the way.
        pieces: Whose gradients they are.
        on_disk: Whether they go.
    """

    def __init__(self, store: TileStore, pool: BufferPool, pieces: Iterable[Piece], *, on_disk: bool) -> None:
        self._store, self._pool, self.on_disk = store, pool, on_disk
        self._parts: dict[Tensor, list[Part]] = {}
        self._tiles: dict[Part, Tile] = {}
        for piece in pieces:
            for part in piece.parts:
                self._parts.setdefault(part.param, []).append(part)
                if on_disk and entries_here(part.param) > SMALL:
                    nbytes = part.entries * part.param.element_size()
                    self._tiles[part] = store.add(f"gradient of {part.label}", nbytes, scratch=True)
        self.lengths: dict[Tensor, Tensor] = {}
        self.largest: dict[Tensor, Tensor] = {}
        self._held: dict[Tensor, Tensor] = {}
        self._left: dict[Tensor, int] = {}
        self._written: dict[Part, threading.Event] = {}

    def has(self, param: Tensor) -> bool:
        """Whether a parameter has a gradient in this step."""
        return param in self.lengths or param in self._held or param.grad is not None

    def hold(self, param: Tensor) -> None:
        """Take a gradient away from its parameter: `grad` is not to be touched by two threads, nor read by another."""
        if param.grad is not None:
            self._held[param], param.grad = param.grad, None

    def measure(self, param: Tensor, grad: Tensor) -> None:
        """Keep the length of a gradient; that of this process's shard until all are added up.

        Raises:
            ValueError: If it is not sharded as its parameter is.
        """
        if is_sharded(param) and _placements(grad) != _placements(param):
            raise ValueError(f"expected a gradient sharded by {_placements(param)}, got {_placements(grad)}")
        self.lengths[param] = torch.linalg.vector_norm(grad.to(self._parts[param][0].dtype))

    def measure_largest(self, param: Tensor, grad: Tensor) -> None:
        """Keep the size of a gradient's largest entry in this process."""
        own = local(grad)
        self.largest[param] = torch.linalg.vector_norm(own, math.inf) if own.numel() else own.new_zeros(())

    def bytes_on_disk(self, part: Part) -> int:
        """Return the bytes of a part's gradient on the disk; 0 if it stays in memory."""
        tile = self._tiles.get(part)
        return tile.nbytes if tile else 0

    @torch.no_grad()
    def put_away(self, param: Tensor, pipeline: Pipeline) -> Tensor:
        """Add a gradient that has just come to what is on the disk, and free it.

        Args:
            param: Has the gradient; loses it if it is large.
            pipeline: Writes.

        Returns:
            The sum so far.
        """
        given = param.grad
        assert given is not None
        if entries_here(param) <= SMALL:
            return given
        before = param in self.lengths
        grad = local(given).contiguous()
        total = torch.empty_like(grad) if before else grad
        for part in self._parts[param]:
            buffer = self._pool.take(self._tiles[part].nbytes)
            room = buffer.tensor(0, (part.entries,), (1,), grad.dtype)
            new = part.of(grad).reshape(-1)
            if before:
                self._written[part].wait()
                if pipeline.error is not None:
                    self._pool.give(buffer)
                    pipeline.drain()
                self._store.read(self._tiles[part], buffer.view)
                room.add_(new)
                part.of(total).view(-1).copy_(room)
            else:
                room.copy_(new)
            self._written[part] = threading.Event()
            pipeline.submit(_PutAway(self._store, self._pool, self._tiles[part], buffer, self._written[part]))
        param.grad = None
        return cut_like(total, given)

    def take(self, part: Part, buffer: Buffer, offset: int) -> Tensor:
        """Return a part's gradient: from a buffer that `read` has filled, or from memory.

        Args:
            part: Which.
            buffer: Memory of its piece.
            offset: Of the gradient in it.
        """
        if part in self._tiles:
            return buffer.tensor(offset, (part.entries,), (1,), part.param.dtype).view(part.shape)
        own = local(self._held[part.param])
        return part.of(own if part.span is None else own.contiguous())

    def read(self, part: Part, buffer: Buffer, offset: int) -> None:
        """Bring a part's gradient from the disk, if it is there."""
        tile = self._tiles.get(part)
        if tile is not None:
            self._store.read(tile, buffer.view[offset : offset + tile.nbytes])

    def used(self, part: Part) -> None:
        """Free a gradient when the last of its parts was used."""
        left = self._left.setdefault(part.param, len(self._parts[part.param])) - 1
        self._left[part.param] = left
        if not left:
            self._held.pop(part.param, None)

    def parts_of(self, param: Tensor) -> list[Part]:
        """Return the parts of a parameter."""
        return self._parts[param]

    def length(self, params: Iterable[Tensor]) -> Tensor:
        """Return the length of the whole gradient, as `torch.nn.utils.get_total_norm` has it.

        Args:
            params: In the order in which to add up.
        """
        found = []
        for param in params:
            if param not in self.lengths and param.grad is not None:
                self.measure(param, param.grad)
            if param in self.lengths:
                found.append(self.lengths[param])
        return whole(torch.linalg.vector_norm(torch.stack(found))) if found else torch.zeros(())

    def forget(self) -> None:
        """Begin the next step."""
        self.lengths.clear()
        self.largest.clear()
        self._held.clear()
        self._left.clear()


def _placements(tensor: Any) -> tuple[Any, ...] | None:
    return tuple(tensor.placements) if is_sharded(tensor) else None


class _PutAway:
    """Writes a buffer."""

    meeting: int | None = None

    def __init__(self, *of: Any) -> None:
        self._store, self._pool, self._tile, self._buffer, self._done = of

    def reserve(self) -> None:
        """The memory is there."""

    def read(self) -> None:
        """Nothing is needed."""

    def compute(self) -> None:
        """Nothing changes."""

    def write(self) -> None:
        """Write."""
        self._store.write(self._tile, self._buffer.view)

    def release(self) -> None:
        """Give the buffer back."""
        self._pool.give(self._buffer)
        self._done.set()
