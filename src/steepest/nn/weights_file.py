# SPDX-License-Identifier: Apache-2.0
"""Reads the files of a model as data: whole, or an error that names them."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Args:
        path: The file.

    Raises:
        ValueError: If it is not whole, or is something else.
        OSError: If it cannot be read.
    """
    try:
        return load_file(path)
    except (SafetensorError, KeyError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: it is no whole safetensors file ({error})") from None


def read_model_config(path: Path) -> dict[str, Any]:
    """Read the JSON object that describes a model.

    Args:
        path: The file.

    Raises:
        ValueError: If it holds something else.
        OSError: If it cannot be read.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
