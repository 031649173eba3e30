# SPDX-License-Identifier: Apache-2.0
"""The families of decoders, found rather than listed: every subclass of `DecoderConfig` that there is."""

import dataclasses
import importlib
import pkgutil
from typing import Any

from steepest.nn.decoder_config import DecoderConfig
from steepest.nn.llama_config import PRESETS, preset


def families() -> dict[str, type[DecoderConfig]]:
    """Return the class of the configuration of each family by name.

    The files `*_config.py` of `steepest.nn` are imported for it; a family of yours counts once its class exists.

    Example:
        >>> sorted(families())
        ['llama', 'ngpt']
    """
    package = importlib.import_module("steepest.nn")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("_config"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return {found.family: found for found in DecoderConfig.__subclasses__()}


def family_preset(name: str) -> DecoderConfig:
    """Return a named shape of a family.

    Args:
        name: A key of `PRESETS` for a Llama (`"tiny"`), or with the family before it (`"ngpt-tiny"`).

    Raises:
        ValueError: If there is no such preset or family.

    Example:
        >>> family_preset("ngpt-tiny").width
        192
    """
    if name in PRESETS:
        return preset(name)
    family, dash, size = name.partition("-")
    if not dash or family not in families() or size not in PRESETS:
        raise ValueError(
            f"no model preset {name!r}; there are {', '.join(PRESETS)}, each also with a family before it "
            f"({', '.join(sorted(families()))}), for example 'ngpt-tiny'"
        )
    return in_family(PRESETS[size], family)


def in_family(config: DecoderConfig, family: str) -> DecoderConfig:
    """Return the same shape in another family; fields that are the other family's own have their defaults.

    Args:
        config: The shape.
        family: A key of `families()`.

    Raises:
        ValueError: If there is no such family, or it does not allow the shape.
    """
    known = families()
    if not isinstance(family, str) or family not in known:
        raise ValueError(f"model.family: expected one of {', '.join(sorted(known))}, got {family!r}")
    if family == config.family:
        return config
    return known[family](**{field.name: getattr(config, field.name) for field in dataclasses.fields(DecoderConfig)})


def config_from_json(content: dict[str, Any]) -> DecoderConfig:
    """Return the shape that a `config.json` describes, in the family that its `model_type` names.

    Args:
        content: Of the file; without a `model_type` it is a Llama's.

    Raises:
        ValueError: If the family is unknown, or does not have what the file asks for.
    """
    known, kind = families(), content.get("model_type", "llama")
    for family in known.values():
        if kind == family.family or kind in family.more_model_types:
            try:
                return family.from_json(content)
            except (KeyError, TypeError, AttributeError, ZeroDivisionError, OverflowError) as error:
                raise ValueError(
                    f"this config.json does not describe a {family.family}: {type(error).__name__} {error}"
                ) from None
    raise ValueError(f"this config.json has model_type {kind!r}; there are {', '.join(sorted(known))}")
