# SPDX-License-Identifier: Apache-2.0
"""Training is steepest descent under a norm; steepest makes the norm a choice.

The layers, top down: `cli`, `train`, `nn`, `curvature`, `optim`, `geometry`, `kernels`. Each is imported when first
used, so `import steepest` costs almost nothing.
"""

import importlib
from typing import Any

__version__ = "0.1.0.dev0"

_SUBPACKAGES = ("curvature", "functional", "geometry", "kernels", "nn", "optim", "train")
_FUNCTIONS = {"cite": "_citations", "patch": "nn.hf", "patched": "nn.hf", "unpatch": "nn.hf"}

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES, *_FUNCTIONS])
