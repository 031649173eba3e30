# SPDX-License-Identifier: Apache-2.0
"""Optimizers by text: `"muon"`, `"sinkgd lr=0.02"`, `"steepest:norm=schatten4"`."""

import dataclasses
import difflib
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any, final

from steepest import geometry, optim
from steepest.geometry import Norm, exact_polar, published_iteration
from steepest.optim.engine import Engine, Params
from steepest.optim.options import Options

_CALL = re.compile(r"(?P<name>[a-z_0-9]*?)(?:\((?P<arguments>.*)\)|(?P<number>\d+(?:\.\d+)?))?", re.IGNORECASE)


def optimizers() -> dict[str, type[Engine]]:
    """Return every optimizer of the library by its name in lower case."""
    found = ((name, getattr(optim, name)) for name in optim.__all__)
    kinds = {name: kind for name, kind in found if inspect.isclass(kind) and issubclass(kind, Engine)}
    return {name: kind for name, kind in sorted((n.lower(), k) for n, k in kinds.items()) if kind is not Engine}


@final
@dataclasses.dataclass(frozen=True)
class Spec:
    """An optimizer and its settings, read from text.

    Args:
        name: In lower case.
        settings: Arguments of its constructor.
        options: Fields of `Options`.
    """

    name: str
    settings: Mapping[str, Any]
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read an optimizer from text.

        Args:
            text: A name, then `setting=value` separated by spaces or colons. Values are numbers, `true`, `false`,
                texts, several of them with commas between (`betas=0.9,0.95`), norms (`norm=schatten4`,
                `norm=rownorm(rms=true)`, `norms=rownorm+spectral`) and polar factors (`polar=svd`,
                `polar=polar-express`).

        Raises:
            ValueError: If there is no such optimizer, setting or norm; with the near names.

        Example:
            >>> Spec.parse("sinkgd lr=0.02 state_dtype=8bit")
            Spec(name='sinkgd', settings={'lr': 0.02}, options={'state_dtype': '8bit'})
        """
        name, *words = re.split(r"[\s:]+", text.strip())
        kind = optimizers().get(name.lower())
        if kind is None:
            raise ValueError(f"no optimizer {name!r}; {_near(name.lower(), optimizers())}")
        signature = inspect.signature(kind)
        known = {key for key in signature.parameters if key not in ("params", "options")}
        extra = {field.name for field in dataclasses.fields(Options)}
        settings: dict[str, Any] = {}
        options: dict[str, Any] = {}
        for word in words:
            key, equals, value = word.partition("=")
            if not equals:
                raise ValueError(f"{text!r}: expected setting=value, got {word!r}")
            if key not in known | extra:
                raise ValueError(f"{name} has no setting {key!r}; {_near(key, known | extra)}")
            (settings if key in known else options)[key] = _value(key, value)
        return cls(name.lower(), settings, options)

    @property
    def kind(self) -> type[Engine]:
        """The optimizer's class."""
        return optimizers()[self.name]

    def accepts(self, setting: str) -> bool:
        """Whether the constructor has a setting and the text does not give it.

        Args:
            setting: Its name.
        """
        return setting in inspect.signature(self.kind).parameters and setting not in self.settings

    def build(self, params: Params, **more: Any) -> Engine:
        """Return the optimizer.

        Args:
            params: A model, parameters or groups.
            **more: Further arguments of the constructor.

        Raises:
            ValueError: If a setting is out of its range, or one without a default is missing.
        """
        missing = [
            key
            for key, parameter in inspect.signature(self.kind).parameters.items()
            if parameter.default is parameter.empty and key != "params" and key not in {**self.settings, **more}
        ]
        if missing:
            raise ValueError(
                f"{self.name} needs {missing[0]}, for example {missing[0]}={_EXAMPLES.get(missing[0], '...')}"
            )
        arguments: dict[str, Any] = {**self.settings, **more, "options": Options(**self.options)}
        return self.kind(params, **arguments)


_EXAMPLES = {"L": "1", "mu": "0.01", "norm": "schatten4", "norms": "rownorm+spectral"}


def _value(key: str, text: str) -> Any:
    if key == "norm":
        return _norm(text)
    if key == "norms":
        return tuple(_norm(part) for part in text.split("+"))
    if key == "polar":
        return exact_polar if text in ("svd", "exact") else published_iteration(text)
    if "," in text:
        return tuple(_plain(part) for part in text.split(","))
    return _plain(text)


def _plain(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except (ValueError, RecursionError):
        return text


def _norm(text: str) -> Norm:
    found = ((name, getattr(geometry, name)) for name in geometry.__all__)
    norms = {
        name.lower(): kind
        for name, kind in found
        if inspect.isclass(kind) and issubclass(kind, Norm) and not inspect.isabstract(kind)
    }
    match = _CALL.fullmatch(text)
    name = text.lower()
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    if name not in norms and match:
        name = match["name"].replace("_", "").lower()
        arguments = [float(match["number"])] if match["number"] else []
        for part in filter(None, (match["arguments"] or "").split(",")):
            key, equals, value = part.partition("=")
            if equals:
                keywords[key.strip()] = _plain(value.strip())
            else:
                arguments.append(_plain(part.strip()))
    if name not in norms:
        raise ValueError(f"no norm {text!r}; {_near(name, norms)}")
    try:
        return norms[name](*arguments, **keywords)
    except TypeError as error:
        raise ValueError(f"norm {text!r}: {error}") from None


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(known))}"
