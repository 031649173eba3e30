# SPDX-License-Identifier: Apache-2.0
"""Training is steepest descent under a norm; steepest makes the norm a choice.

The layers, top down: `cli`, `train`, `nn`, `optim`, `geometry`, `kernels`. Each is imported when first used, so
`import steepest` costs almost nothing.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0.dev0"

_SUBPACKAGES = ("functional", "geometry", "kernels", "nn", "optim", "train")

__all__ = ["__version__"]


def __getattr__(name: str) -> ModuleType:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES])
