# SPDX-License-Identifier: Apache-2.0
"""The rules' arithmetic through `torch.compile`, made at the first call and kept."""

import functools
from collections.abc import Callable
from typing import Any

import torch


@functools.cache
def compiled(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of a rule, compiled at its first call for all shapes and step counts.

    Args:
        method: Unbound, so that rules that differ in their numbers share what was compiled.
    """
    return torch.compile(method, dynamic=True)


def require_compiler() -> None:
    """Refuse to go on where `torch.compile` could not make code for the CPU.

    Raises:
        RuntimeError: If torch finds no C++ compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        raise RuntimeError(
            "compile=True needs a C++ compiler (g++ or clang++, or the one that CXX names) and torch finds none; "
            "install one, or leave compile at False: the steps are the same"
        ) from error
