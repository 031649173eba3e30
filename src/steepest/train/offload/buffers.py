# SPDX-License-Identifier: Apache-2.0
"""Memory that a disk may write into directly, and not too much of it."""

import mmap
import threading
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

#: What addresses, offsets and lengths are multiples of, so that the page cache can be passed by.
BLOCK = 4096


def blocks(nbytes: int) -> int:
    """Return a number of bytes rounded up to whole blocks."""
    return -(-nbytes // BLOCK) * BLOCK


@final
class Buffer:
    """Page-aligned memory, zeros at first.

    Args:
        nbytes: Multiple of `BLOCK`, above 0.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._memory = mmap.mmap(-1, nbytes)
        self.view = memoryview(self._memory)

    def tensor(self, offset: int, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Return a tensor that shares the memory.

        Args:
            offset: Bytes before it.
            shape: Of the tensor.
            stride: Of the tensor; its entries fill the memory without gaps.
            dtype: Of the tensor.
        """
        count = torch.Size(shape).numel()
        if not count:
            return torch.empty(tuple(shape), dtype=dtype)
        flat = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=offset)
        return flat.as_strided(tuple(shape), tuple(stride))


@final
class BufferPool:
    """Buffers of at most so many bytes together.

    Who takes a buffer must not wait for another one before giving it back; then no two can wait for each other.

    Args:
        limit: Bytes. One buffer that is larger is given out when no other is in use.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = self.most = 0
        self._idle: list[Buffer] = []
        self._changed = threading.Condition()

    def take(self, nbytes: int) -> Buffer:
        """Return a buffer of that size, with any content; waits until there is room.

        Args:
            nbytes: Rounded up to blocks.
        """
        nbytes = max(BLOCK, blocks(nbytes))
        with self._changed:
            while self.in_use and self.in_use + nbytes > self.limit:
                self._changed.wait()
            self.in_use += nbytes
            found = next((buffer for buffer in self._idle if buffer.nbytes == nbytes), None)
            if found is not None:
                self._idle.remove(found)
            while self._idle and self.in_use + sum(b.nbytes for b in self._idle) > self.limit:
                del self._idle[0]
            self.most = max(self.most, self.in_use + sum(b.nbytes for b in self._idle))
        return found or Buffer(nbytes)

    def give(self, buffer: Buffer) -> None:
        """Return a buffer to the pool."""
        with self._changed:
            self.in_use -= buffer.nbytes
            if self.in_use + sum(b.nbytes for b in self._idle) + buffer.nbytes <= self.limit:
                self._idle.append(buffer)
            self._changed.notify_all()
