# SPDX-License-Identifier: Apache-2.0
"""A user's default dtype and default device, which must not reach what the library allocates for itself."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch


@contextlib.contextmanager
def _doubles() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


#: Name to what makes a context in which the default is another than the CPU and float32.
DEFAULTS: dict[str, Callable[[], AbstractContextManager]] = {
    "float64": _doubles,
    "another device": lambda: torch.device("meta"),
}
