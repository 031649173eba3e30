# SPDX-License-Identifier: Apache-2.0
"""Settings of a run from the options of a command."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steepest.train.config import RunConfig


def is_given(value: object) -> bool:
    """Whether an option differs from its default; 0 does (0 == False, so membership tests would not do)."""
    return value is not None and value is not False and value != "" and value != []


def settings_of(
    file: Path | None, model: str, flags: Mapping[str, Mapping[str, object]], overrides: list[str]
) -> "RunConfig":
    """Return the settings of a file, then a model's name, then flags, then overrides, each before the ones it follows.

    Args:
        file: TOML or JSON; None for the defaults.
        model: A preset; empty for the file's.
        flags: Section to key to value; those at their defaults are left out.
        overrides: Texts such as `train.batch=32`.

    Raises:
        ValueError: If one of them is refused.
    """
    from steepest.train.config import RunConfig, apply_overrides, from_dict, read_config

    settings = RunConfig() if file is None else read_config(file)
    if model:
        settings = from_dict({"model": model}, settings)
    given = {section: {k: v for k, v in values.items() if is_given(v)} for section, values in flags.items()}
    return apply_overrides(from_dict(given, settings), overrides)
