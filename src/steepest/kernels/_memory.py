# SPDX-License-Identifier: Apache-2.0
"""New outputs whose first touch is cheap: large ones lie in huge pages, in memory that earlier ones have left.

A fresh tensor of 200 MB costs 50,000 page faults, and zeroing its pages takes longer than the sweep that fills it. So
outputs of 4 MiB and more are mapped here, 2 MB pages are asked for, and
when the last tensor that uses such a block is gone, the block waits for the next output of about its size. While it
waits, the system may take its pages back at any time (MADV_FREE): nothing is withheld from a machine that needs memory.
Elsewhere than on Linux, outputs are torch's.
"""

import contextlib
import ctypes
import mmap
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Smaller outputs come from memory that the allocator already holds, in pages that cost little.
_LARGE = 4 << 20
#: Smaller tensors that stay are not worth whole huge pages.
_ADVISED = 32 << 20
_HUGE_PAGE = 2 << 20
_MADV_HUGEPAGE = 14
#: Blocks that wait are not more than this, in bytes; the one that has waited longest goes first.
_MOST_WAITING = 1 << 30

_waiting: list[mmap.mmap] = []
_leases: dict[int, weakref.ref[Any]] = {}
#: Told the bytes of each lease that begins, and minus the bytes when it ends.
_watcher: Callable[[int], None] | None = None
_LINUX = sys.platform == "linux" and hasattr(mmap, "MADV_FREE")


def _find_madvise() -> Callable[..., Any] | None:
    function: Any = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


_madvise = _find_madvise()

if hasattr(os, "register_at_fork"):  # a child that wrote to a block would copy it first
    os.register_at_fork(after_in_child=_waiting.clear)


def empty(shape: tuple[int, ...], dtype: torch.dtype, stride: tuple[int, ...] | None = None) -> Tensor:
    """Return a new tensor on the CPU, uninitialized.

    Args:
        shape: Its shape.
        dtype: Its dtype.
        stride: Of a dense layout; row-major if None.

    Returns:
        The tensor; the storage of a large one cannot be resized.
    """
    out = torch.empty(0, dtype=dtype, device="cpu")
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size < _LARGE or not _LINUX:
        if stride is None:
            return torch.empty(shape, dtype=dtype, device="cpu")
        return torch.empty_strided(shape, stride, dtype=dtype, device="cpu")
    storage = torch.from_numpy(_lease(size)).untyped_storage()
    if stride is None:
        stride = torch.empty(shape, dtype=dtype, device="meta").stride()
    return out.set_(storage, 0, shape, stride)


def empty_like(x: Tensor) -> Tensor:
    """Return `torch.empty_like(x)` for a tensor on the CPU: dense, with x's order of dimensions.

    Args:
        x: The model.

    Returns:
        The tensor, uninitialized.
    """
    if x.nbytes < _LARGE:
        return torch.empty_like(x)
    stride = None if x.is_contiguous() else torch.empty_like(x, device="meta").stride()
    return empty(x.shape, x.dtype, stride)


def empty_rows(x: Tensor) -> Tensor:
    """Return a new contiguous tensor of x's shape, dtype and device, uninitialized.

    Args:
        x: The model; on the CPU.

    Returns:
        The tensor.
    """
    if x.nbytes < _LARGE:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    return empty(x.shape, x.dtype)


def release_memory() -> int:
    """Give the memory that waits for the next large outputs back to the system.

    It is rarely needed: the system takes these pages by itself when it runs short. It lowers what tools report as the
    process's resident memory.

    Returns:
        How many bytes waited.

    Example:
        >>> from steepest.kernels import release_memory
        >>> waited = release_memory()
    """
    total = 0
    while _waiting:
        total += len(_waiting.pop())
    return total


@contextlib.contextmanager
def leases_watched(watcher: Callable[[int], None]) -> Iterator[None]:
    """Call a function with the bytes of each lease that begins, and minus the bytes when it ends.

    Args:
        watcher: Called in whatever thread it happens.

    Yields:
        Nothing.
    """
    global _watcher
    _watcher = watcher
    try:
        yield
    finally:
        _watcher = None


def _lease(size: int) -> np.ndarray:
    """Return `size` bytes as an array; when nobody refers to it any longer, its block waits for the next lease."""
    step = max(_HUGE_PAGE, 1 << (size.bit_length() - 4))  # at most an eighth too much, and untouched
    capacity = -(-size // step) * step + _HUGE_PAGE
    block = _waiting_block(capacity)
    if block is None:
        block = mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            block.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(block, dtype=np.uint8)
    first = -whole.ctypes.data % _HUGE_PAGE
    lease = whole[first : first + size]

    # Runs whenever and wherever the last tensor goes: no locks, only operations of a list or dict that are one step.
    def give_back(_: weakref.ref[Any], block: mmap.mmap = block) -> None:
        _leases.pop(id(block), None)
        if _watcher is not None:
            _watcher(-size)
        with contextlib.suppress(OSError):  # a kernel without it: the pages just stay
            block.madvise(mmap.MADV_FREE)
        _waiting.append(block)
        while sum(map(len, list(_waiting))) > _MOST_WAITING:
            try:
                _waiting.pop(0)
            except IndexError:
                return

    _leases[id(block)] = weakref.ref(lease, give_back)
    if _watcher is not None:
        _watcher(size)
    return lease


def _waiting_block(capacity: int) -> mmap.mmap | None:
    for block in reversed(list(_waiting)):
        if len(block) == capacity:
            try:
                _waiting.remove(block)
            except ValueError:  # another thread was quicker
                continue
            return block
    return None


def advise_huge_pages(out: Tensor) -> Tensor:
    """Ask for huge pages for a tensor whose memory nobody has touched, if it is large; return it.

    Args:
        out: Contiguous, on the CPU; one that stays, so that a block of its own would not pay.
    """
    size = out.numel() * out.element_size()
    if size >= _ADVISED and _madvise is not None:
        # Whole huge pages only: the advice must not reach a neighbour's memory.
        first = -(-out.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
        last = (out.data_ptr() + size) // _HUGE_PAGE * _HUGE_PAGE
        _madvise(first, last - first, _MADV_HUGEPAGE)
    return out
