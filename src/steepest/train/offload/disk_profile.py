# SPDX-License-Identifier: Apache-2.0
"""How fast a disk and the way to it are, in the pattern in which the store uses them."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, final

import torch

from steepest.train.offload.buffers import BLOCK, Buffer, BufferPool, blocks
from steepest.train.offload.cost import DiskRates
from steepest.train.offload.options import OffloadOptions
from steepest.train.offload.pipeline import Pipeline
from steepest.train.offload.store import Tile, TileStore

_COPIED = 1 << 20
_BYTES, _MOST_PIECES, _SLOW = 256 << 20, 24, 300e6


class _Piece(NamedTuple):
    state: Tile
    weights: Tile
    gradient: Tile


def profile_disk(folder: Path, *, state: int = 8 << 20, weights: int = 4 << 20) -> DiskRates:
    """Measure what a step does with the disk, without its arithmetic: tiles with checksums, through the pipeline.

    Args:
        folder: Made if missing; the files are removed again.
        state: Bytes of the states of a piece.
        weights: Bytes of its weights, and of its gradient.

    Returns:
        Bytes a second, checksums included.

    Raises:
        OSError: If the disk refuses or is too small.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = OffloadOptions()
    state, weights = max(BLOCK, blocks(state)), max(BLOCK, blocks(weights))
    count = max(4, min(_MOST_PIECES, _BYTES // (state + weights)))
    with tempfile.TemporaryDirectory(prefix="steepest-disk-", dir=folder) as place:
        store, pipeline = TileStore(Path(place)), Pipeline(threads=options.threads)
        try:
            pieces = [
                _Piece(store.add("state", state), store.add("weights", weights), store.add("g", weights, scratch=True))
                for _ in range(count)
            ]
            store.open_new({})
            return _Patterns(store, pipeline, BufferPool(options.buffer_bytes)).rates(pieces)
        finally:
            pipeline.close()
            store.close()


@final
class _Patterns:
    def __init__(self, store: TileStore, pipeline: Pipeline, pool: BufferPool) -> None:
        self._store, self._pipeline, self._pool = store, pipeline, pool

    def rates(self, pieces: list[_Piece]) -> DiskRates:
        written = sum(piece.state.nbytes + piece.weights.nbytes for piece in pieces)
        start = time.perf_counter()
        self._run(pieces[:2], lambda p: ((), (p.state, p.weights)))
        if written * (time.perf_counter() - start) > _SLOW * len(pieces) / 2:
            pieces = pieces[:4]
        states, weights = (sum(p[i].nbytes for p in pieces) for i in (0, 1))
        for _ in range(2):  # of each of the two places of a tile, the first touch is slower than any later one
            self._run(pieces, lambda p: ((), (p.state, p.weights, p.gradient)), commit=True)
        write = self._run(pieces, lambda p: ((), (p.gradient, p.state)))
        together = self._run(pieces, lambda p: ((p.state, p.gradient), (p.state, p.weights)), commit=True)
        read = self._run(pieces, lambda p: ((p.state, p.weights), ()))
        both = self._run(pieces, lambda p: ((p.state,), (p.state, p.weights)), commit=True)
        return DiskRates(
            read=(states + weights) / read,
            write=(states + weights) / write,
            both=(2 * states + weights) / both,
            with_gradients=2 * (states + weights) / together,
        )

    def _run(
        self,
        pieces: list[_Piece],
        what: Callable[[_Piece], tuple[Sequence[Tile], Sequence[Tile]]],
        *,
        commit: bool = False,
    ) -> float:
        """Read and write some tiles of each piece; return seconds."""
        start = time.perf_counter()
        for piece in pieces:
            self._pipeline.submit(_Move(self._store, self._pool, *what(piece)))
        self._pipeline.drain()
        if commit:  # gradients of a step are forgotten by it
            self._store.commit(self._store.step + 1)
        return time.perf_counter() - start


class _Move:
    meeting: int | None = None

    def __init__(self, store: TileStore, pool: BufferPool, reads: Sequence[Tile], writes: Sequence[Tile]) -> None:
        self._store, self._pool, self._reads, self._writes = store, pool, reads, writes
        self._buffer: Buffer | None = None

    def reserve(self) -> None:
        nbytes = max(sum(tile.nbytes for tile in tiles) for tiles in (self._reads, self._writes))
        self._buffer = self._pool.take(nbytes)

    def read(self) -> None:
        self._each(self._reads, self._store.read)

    def compute(self) -> None:
        """Nothing."""

    def write(self) -> None:
        self._each(self._writes, self._store.write)

    def release(self) -> None:
        if self._buffer is not None:
            self._pool.give(self._buffer)

    def _each(self, tiles: Sequence[Tile], move: Callable[[Tile, memoryview], None]) -> None:
        assert self._buffer is not None
        place = 0
        for tile in tiles:
            move(tile, self._buffer.view[place : place + tile.nbytes])
            place += tile.nbytes


def copy_rate() -> float:
    """Return bytes a second at which gradients are measured and copied into buffers, as it is done with them."""
    source, pieces = torch.ones(8 * _COPIED), [Buffer(4 * _COPIED) for _ in range(4)]
    rooms = [piece.tensor(0, (_COPIED,), (1,), torch.float32) for piece in pieces]
    taken = 0.0
    for _ in range(2):  # the first touches the pages
        start = time.perf_counter()
        torch.linalg.vector_norm(source)
        for index, part in enumerate(source.split(_COPIED)):
            rooms[index % len(rooms)].copy_(part)
        taken = time.perf_counter() - start
    return source.nbytes / taken
