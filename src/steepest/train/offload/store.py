# SPDX-License-Identifier: Apache-2.0
"""Tiles of bytes in a file, each in two versions, of which a commit chooses one for all tiles at once."""

import errno
import fcntl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from steepest.kernels.checksum import checksum
from steepest.train.offload.buffers import blocks
from steepest.train.offload.data_file import DataFile
from steepest.train.offload.journal import FORMAT, Journal

#: The journal is written anew, with its last commit alone, when it is longer.
_LONGEST_JOURNAL = 16 << 20


class DamagedTileError(OSError):
    """The disk gave back other bytes than were written."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(errno.EIO, message, str(path))


@final
@dataclass(frozen=True)
class Tile:
    """Where a tile lies.

    Args:
        number: Its place in the store.
        name: For people.
        nbytes: Whole blocks.
        offset: Of its first version; the second one follows it.
        scratch: It has one version, and no commit keeps it.
    """

    number: int
    name: str
    nbytes: int
    offset: int
    scratch: bool = False


@final
class TileStore:
    """Tiles in a folder: `tiles.bin` holds the bytes, `journal.jsonl` says which of them count.

    A tile has two places in the file. `write` goes to the one that the last commit does not name, so that a process
    that dies, a disk that fills or a step that is given up leaves the committed bytes alone; `commit` makes all writes
    since the last one valid at once. Every read is checked against the checksum of what was written.

    Args:
        folder: Made if missing.
        direct: Pass the page cache by; None where the file system allows it.

    Raises:
        OSError: If the folder cannot be used, or another process uses it.
        ValueError: If its journal is damaged.

    Example:
        >>> import tempfile
        >>> from steepest.train.offload.buffers import Buffer
        >>> folder = tempfile.TemporaryDirectory()
        >>> store, buffer = TileStore(Path(folder.name)), Buffer(4096)
        >>> tile = store.add("numbers", 4096)
        >>> store.open_new({})
        >>> buffer.view[:5] = b"first"
        >>> store.write(tile, buffer.view)
        >>> store.commit(1)
        >>> buffer.view[:5] = b"other"
        >>> store.write(tile, buffer.view)
        >>> store.rollback()
        >>> store.read(tile, buffer.view)
        >>> bytes(buffer.view[:5])
        b'first'
        >>> store.close()
        >>> folder.cleanup()
    """

    def __init__(self, folder: Path, *, direct: bool | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock_file = (folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock_file.close()
            raise OSError(errno.EBUSY, "another process keeps its states here; choose another", str(folder)) from None
        self.tiles: list[Tile] = []
        self.step = -1
        self.commits = 0
        self.note: dict[str, Any] = {}
        self.heading: dict[str, Any] = {}
        self._kept: dict[int, tuple[int, int]] = {}
        self._written: dict[int, tuple[int, int]] = {}
        self._guard = threading.Lock()
        self._end = 0
        try:
            self._journal = Journal(folder / "journal.jsonl")
            self._file = DataFile(folder / "tiles.bin", direct=direct)
        except BaseException:
            self._lock_file.close()
            raise

    @property
    def direct(self) -> bool:
        """Whether the page cache is passed by."""
        return self._file.direct

    @property
    def nbytes(self) -> int:
        """Bytes that the tiles take on the disk, both versions."""
        return self._end

    def add(self, name: str, nbytes: int, *, scratch: bool = False) -> Tile:
        """Plan a tile; `open_new` or `open_existing` makes the plan real.

        Args:
            name: For people.
            nbytes: Rounded up to blocks.
            scratch: For what a restart computes again: one version, and no commit keeps it.

        Returns:
            The tile.
        """
        tile = Tile(len(self.tiles), name, blocks(nbytes), self._end, scratch)
        self.tiles.append(tile)
        self._end += tile.nbytes * (1 if scratch else 2)
        return tile

    def open_new(self, heading: dict[str, Any]) -> None:
        """Reserve the room of all tiles and forget what was in the folder before.

        Args:
            heading: What `open_existing` has to find again; plain values.

        Raises:
            OSError: If there is not enough room.
        """
        self._journal.replace([])
        self._file.grow(self._end)
        self.heading = {"format": FORMAT, **heading}
        self._journal.replace([self.heading])

    def open_existing(self) -> None:
        """Make sure that the file holds all planned tiles.

        Raises:
            OSError: If there is not enough room for scratch tiles that are new.
        """
        self._file.grow(self._end)

    def committed(self) -> dict[str, Any] | None:
        """Read the journal; return its heading, None if the folder holds no finished commit.

        Raises:
            ValueError: If it is damaged.
        """
        records = self._journal.read()
        if len(records) < 2:
            return None
        self._take(records)
        return {key: value for key, value in self.heading.items() if key != "format"}

    def read(self, tile: Tile, view: memoryview) -> None:
        """Read the newest bytes of a tile: those written since the last commit, else the committed ones.

        Args:
            tile: Which.
            view: Filled; of the tile's length.

        Raises:
            DamagedTileError: If they are not what was written.
            OSError: If the disk refuses.
        """
        with self._guard:
            slot, expected = self._written.get(tile.number) or self._kept[tile.number]
        self._file.read(view, tile.offset + slot * tile.nbytes)
        found = checksum(view)
        if found != expected:
            raise DamagedTileError(
                f"tile {tile.number} ({tile.name}) at byte {tile.offset + slot * tile.nbytes} does not match its "
                f"checksum (expected {expected:016x}, got {found:016x}): the disk or the memory changed it; continue "
                "from a checkpoint",
                self._file.path,
            )

    def write(self, tile: Tile, view: memoryview) -> None:
        """Write a tile beside its committed bytes.

        Args:
            tile: Which.
            view: Of the tile's length.

        Raises:
            OSError: If the disk refuses.
        """
        with self._guard:
            slot = 0 if tile.scratch else 1 - self._kept.get(tile.number, (1, 0))[0]
            self._written.pop(tile.number, None)  # until all of it is there, the committed bytes are the newest
        self._file.write(view, tile.offset + slot * tile.nbytes)
        with self._guard:
            self._written[tile.number] = (slot, checksum(view))

    def commit(self, step: int, note: dict[str, Any] | None = None) -> None:
        """Make everything valid that was written since the last commit, all or nothing, for good.

        Args:
            step: Number of the commit.
            note: Plain values that belong to it.

        Raises:
            OSError: If the disk refuses; the last commit then stands.
        """
        if self._journal.nbytes > _LONGEST_JOURNAL:  # first, so that the commit before this one is still there after it
            self._journal.replace([self.heading, self._record(self.step, self.commits, self._kept, self.note)])
        self._file.flush()
        new = {n: entry for n, entry in self._written.items() if not self.tiles[n].scratch}
        self._journal.append(self._record(step, self.commits + 1, new, note or {}))
        self._kept.update(new)
        self._written.clear()
        self.step, self.commits, self.note = step, self.commits + 1, note or {}

    def flush(self) -> None:
        """Wait until the disk has what was written.

        Raises:
            OSError: If it does not.
        """
        self._file.flush()

    def undo(self) -> None:
        """Take the last commit back for good: the one before stands again, if nothing was written since.

        Raises:
            OSError: If the disk refuses.
        """
        self._written.clear()
        records = self._journal.read()
        self._journal.drop_last()
        if len(records) > 2:
            self._take(records[:-1])
        else:
            self.forget()

    def _take(self, records: list[dict[str, Any]]) -> None:
        self.heading, last = records[0], records[-1]
        self._kept.clear()
        for record in records[1:]:
            self._kept.update({int(number): (slot, sum_) for number, (slot, sum_) in record["tiles"].items()})
        self.step, self.commits, self.note = last["step"], last["commit"], last["note"]

    def forget(self) -> None:
        """Forget what `committed` found, to begin anew."""
        self.step, self.commits, self.note, self.heading = -1, 0, {}, {}
        self._kept.clear()

    def rollback(self) -> None:
        """Forget everything that was written since the last commit."""
        self._written.clear()

    def remove(self) -> None:
        """Remove the files, and the folder if nothing else is in it; after `close`."""
        for name in ("tiles.bin", "journal.jsonl", ".lock"):
            (self.folder / name).unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def close(self) -> None:
        """Close the files; what was not committed is lost."""
        self._file.close()
        self._journal.close()
        self._lock_file.close()

    @staticmethod
    def _record(step: int, commit: int, tiles: dict[int, tuple[int, int]], note: dict[str, Any]) -> dict[str, Any]:
        return {"step": step, "commit": commit, "tiles": {str(n): entry for n, entry in tiles.items()}, "note": note}
