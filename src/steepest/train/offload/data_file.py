# SPDX-License-Identifier: Apache-2.0
"""One file of blocks, read and written past the page cache."""

import errno
import os
import shutil
from pathlib import Path
from typing import final

from steepest.train.offload.buffers import BLOCK

#: Bytes of one read or write; the kernel itself stops at 2 GiB.
_AT_A_TIME = 1 << 26


@final
class DataFile:
    """A file that is read and written in whole blocks at given places, by any number of threads at once.

    Where the file system allows, reads and writes go straight between the disk and the caller's memory (`O_DIRECT`).
    Else they go through the page cache, and what was written is flushed and dropped from it at once, so that the cache
    does not push out what the process needs.

    Args:
        path: The file; made if missing.
        direct: Whether to pass the page cache by; None tries.

    Raises:
        OSError: If it cannot be opened, or `direct` is asked for and refused.
    """

    def __init__(self, path: Path, *, direct: bool | None = None) -> None:
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self.direct = False
        if direct is not False and hasattr(os, "O_DIRECT"):
            try:
                self._descriptor = os.open(path, flags | os.O_DIRECT, 0o666)
                self.direct = True
            except OSError as error:
                if direct or error.errno != errno.EINVAL:
                    raise
        if not self.direct:
            if direct:
                raise OSError(errno.EINVAL, "this system has no O_DIRECT; use direct=None", str(path))
            self._descriptor = os.open(path, flags, 0o666)

    @property
    def nbytes(self) -> int:
        """Length of the file."""
        return os.fstat(self._descriptor).st_size

    def grow(self, nbytes: int) -> None:
        """Reserve room on the disk, so that a full one is found now and not in the middle of a step.

        Args:
            nbytes: New length; nothing happens if the file has it.

        Raises:
            OSError: If there is not so much room; says how much there is.
        """
        now = self.nbytes
        if nbytes <= now:
            return
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, now, nbytes - now)
            else:
                os.ftruncate(self._descriptor, nbytes)
        except OSError as error:
            os.ftruncate(self._descriptor, now)
            free = shutil.disk_usage(self.path.parent).free
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno or 0)}: {(nbytes - now) / 2**30:.2f} GiB more are needed and "
                f"{free / 2**30:.2f} GiB are free; choose a folder on another disk",
                str(self.path),
            ) from None

    def read(self, view: memoryview, offset: int) -> None:
        """Fill memory from the file.

        Args:
            view: Whole blocks, aligned.
            offset: Of the first block.

        Raises:
            OSError: If the disk refuses, or the file is too short.
        """
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done : done + _AT_A_TIME]], offset + done)
            if count == 0 or count % BLOCK:
                raise OSError(
                    errno.EIO,
                    f"the file ends at {self.nbytes}, {offset + len(view)} bytes were expected: it was cut off",
                    str(self.path),
                )
            done += count
        self._forget(offset, len(view))

    def write(self, view: memoryview, offset: int) -> None:
        """Write memory to the file; it is on the disk for certain after `flush`.

        Args:
            view: Whole blocks, aligned.
            offset: Of the first block.

        Raises:
            OSError: If the disk refuses or is full.
        """
        done = 0
        while done < len(view):
            count = os.pwrite(self._descriptor, view[done : done + _AT_A_TIME], offset + done)
            # A disk that is nearly full takes a part; the next try says why.
            count -= count % BLOCK
            if count == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            done += count
        if not self.direct:
            os.fdatasync(self._descriptor)
        self._forget(offset, len(view))

    def flush(self) -> None:
        """Wait until the disk has everything that was written.

        Raises:
            OSError: If it does not.
        """
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _forget(self, offset: int, nbytes: int) -> None:
        if not self.direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, nbytes, os.POSIX_FADV_DONTNEED)
