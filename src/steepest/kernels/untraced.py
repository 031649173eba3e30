# SPDX-License-Identifier: Apache-2.0
"""Functions that code under `torch.compile` calls and does not look into."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_T = TypeVar("_T")


def untraced(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a function that has kernels of its own, or decides by values, so that compilers leave it as it is.

    It is `torch.compiler.disable`, but the compiler's frontend, a second of imports, is not loaded with the module: it
    is when the function is first called, which torch's optimizers have done by then when they were made.

    Args:
        function: Any function or method.

    Returns:
        The same function; compiled code is interrupted where it is called.

    Example:
        >>> import torch
        >>> from steepest.kernels.untraced import untraced
        >>> @untraced
        ... def sign_of_sum(x):
        ...     return 1.0 if x.sum().item() > 0 else -1.0
        >>> torch.compile(lambda x: x * sign_of_sum(x), backend="eager")(-torch.ones(2))
        tensor([1., 1.])
    """
    made: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        if not made:
            made.append(torch.compiler.disable(function))
        return made[0](*args, **kwargs)

    return call
