# SPDX-License-Identifier: Apache-2.0
"""New outputs whose first touch is cheap: large ones ask the system for huge pages.

A fresh tensor of 200 MB costs 50,000 page faults, which take longer than the sweep that fills it. With 2 MB pages there
are 100. Linux grants them on request where `transparent_hugepage` is "madvise" or "always"; elsewhere nothing changes.
"""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

#: Smaller outputs come from memory that the allocator already holds.
_LARGE = 32 << 20
_HUGE_PAGE = 2 << 20
_MADV_HUGEPAGE = 14


def _find_madvise() -> Callable[..., Any] | None:
    function: Any = getattr(ctypes.CDLL(None), "madvise", None) if sys.platform == "linux" else None
    if function is not None:
        function.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return function


_madvise = _find_madvise()


def empty_rows(x: Tensor) -> Tensor:
    """Return a new contiguous tensor of x's shape, dtype and device, uninitialized.

    Args:
        x: The model; on the CPU.

    Returns:
        The tensor.
    """
    return advised(torch.empty_like(x, memory_format=torch.contiguous_format))


def advised(out: Tensor) -> Tensor:
    """Return a new contiguous tensor after asking for huge pages, if it is large.

    Args:
        out: Uninitialized, on the CPU.

    Returns:
        The same tensor.
    """
    size = out.numel() * out.element_size()
    if size >= _LARGE and _madvise is not None:
        # Whole huge pages only: the advice must not reach a neighbour's memory.
        first = -(-out.data_ptr() // _HUGE_PAGE) * _HUGE_PAGE
        last = (out.data_ptr() + size) // _HUGE_PAGE * _HUGE_PAGE
        _madvise(first, last - first, _MADV_HUGEPAGE)
    return out
