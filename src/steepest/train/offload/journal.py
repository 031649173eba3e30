# SPDX-License-Identifier: Apache-2.0
"""A file of lines, each whole or ignored: which version of each tile belongs to which step."""

import errno
import json
import os
import zlib
from pathlib import Path
from typing import Any, final

from steepest.train import files

#: Raised when the lines change their meaning.
FORMAT = 3


@final
class Journal:
    """Appends records and reads them back; what a crash left half written at the end is cut off.

    Each line is the CRC-32 of a JSON text, and that text. The first one, the heading, stays.

    Args:
        path: The file.

    Raises:
        OSError: If it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        self._end = self._last = 0

    def read(self) -> list[dict[str, Any]]:
        """Return all whole records from the start, and cut off what stands after them.

        Raises:
            ValueError: If the file has lines and the first one is damaged, or of another format.
        """
        content = self.path.read_bytes()
        records, end = [], 0
        for line in content.splitlines(keepends=True):
            record = _parse(line)
            if record is None:
                break
            records.append(record)
            self._last, end = end, end + len(line)
        if content and not records:
            raise ValueError(f"{self.path} is damaged: its first line does not match its checksum")
        if records and records[0].get("format") != FORMAT:
            raise ValueError(
                f"{self.path} has format {records[0].get('format')}, this version of steepest reads {FORMAT}"
            )
        os.ftruncate(self._descriptor, end)
        self._end = end
        return records

    def append(self, record: dict[str, Any]) -> None:
        """Write one record and wait until the disk has it.

        Raises:
            OSError: If the disk refuses; the file is then as before.
        """
        line = _line(record)
        try:
            if os.pwrite(self._descriptor, line, self._end) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            os.fdatasync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, self._end)
            raise
        self._last, self._end = self._end, self._end + len(line)

    def drop_last(self) -> None:
        """Take the last record away, and wait until the disk knows.

        Raises:
            OSError: If the disk refuses.
        """
        os.ftruncate(self._descriptor, self._last)
        os.fdatasync(self._descriptor)
        self._end = self._last

    def replace(self, records: list[dict[str, Any]]) -> None:
        """Write the whole file anew, at once.

        Args:
            records: The heading first.

        Raises:
            OSError: If the disk refuses; the file is then as before.
        """
        lines = [_line(record) for record in records]
        content = b"".join(lines)
        files.write_bytes(self.path, content)
        os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
        self._end = len(content)
        self._last = self._end - len(lines[-1]) if lines else 0

    @property
    def nbytes(self) -> int:
        """Length of the file."""
        return self._end

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _line(record: dict[str, Any]) -> bytes:
    text = json.dumps(record, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if it is not whole."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    return json.loads(text)
