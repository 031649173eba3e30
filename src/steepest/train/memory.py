# SPDX-License-Identifier: Apache-2.0
"""Keeping the memory of a training step from one step to the next."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_DEFAULTS = {_M_TRIM_THRESHOLD: 128 * 1024, _M_MMAP_MAX: 65536}
_KEEP = {_M_TRIM_THRESHOLD: 2**31 - 1, _M_MMAP_MAX: 0}
#: glibc raises the threshold by itself, up to the second value, and from then on keeps what is smaller.
_GIVEN_BACK_FROM, _KEPT_BELOW = 1 << 20, 32 << 20


def keep_freed_memory(keep: bool = True) -> bool:
    """Ask the C library to keep freed memory for the next allocation instead of giving it back to the system.

    A training step frees and allocates the same large blocks again and again. By default each of them is mapped anew,
    and the system hands out zeroed pages one fault at a time: a fifth of the step's time on a small model
    (`benchmarks/results/train_step_*.json`). The process's memory then stays at its peak, which a training run needs
    anyway.

    Args:
        keep: False restores the C library's defaults and gives back what is free.

    Returns:
        Whether the C library took the settings: glibc does; elsewhere nothing happens.
    """
    library = _glibc()
    if library is None:
        return False
    taken = all(library.mallopt(name, value) == 1 for name, value in (_KEEP if keep else _DEFAULTS).items())
    if not keep:
        library.malloc_trim(0)
    return taken


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory while entered, and give it back afterwards; see `keep_freed_memory`.

    Yields:
        Nothing.
    """
    keep_freed_memory()
    try:
        yield
    finally:
        keep_freed_memory(False)


@contextmanager
def memory_given_back() -> Iterator[None]:
    """Give freed memory back to the system at once while entered, so that the process takes what its tensors take.

    By default the C library keeps blocks of up to 32 MiB that were freed, and the process's memory stays up to a third
    above what is in use. Each block is mapped anew instead, which costs time (see `keep_freed_memory`).

    Yields:
        Nothing.
    """
    keep_freed_memory(False)
    _set_threshold(_GIVEN_BACK_FROM)
    try:
        yield
    finally:
        _set_threshold(_KEPT_BELOW)


def _set_threshold(nbytes: int) -> None:
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, nbytes)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version") else None
