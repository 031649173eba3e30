# SPDX-License-Identifier: Apache-2.0
"""The frozen configuration of a run, and its way in and out of TOML, JSON and `section.key=value` overrides."""

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steepest.nn.decoder_config import DecoderConfig
from steepest.nn.families import family_preset, in_family
from steepest.nn.llama_config import preset
from steepest.train.data.config import DataConfig

#: Settings of `train` that a resumed run keeps.
KEPT = ("batch", "accumulation", "precision", "seed")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """Which optimizer takes the steps.

    Args:
        name: Any optimizer of `steepest.optim` with its settings: `"muon"`, `"adamw"`, `"sinkgd alpha=0.1"`,
            `"steepest:norm=schatten4"`. Methods for matrices step the hidden ones; AdamW steps the rest.
        lr: Largest learning rate; None takes the one in `name`, else `DEFAULT_LR`, else the optimizer's default. With
            a method for matrices it is theirs.
        adam_lr: With a method for matrices: largest learning rate of the parameters that AdamW keeps.
        betas: Of AdamW.
        eps: Of AdamW, added to the root of the second moment.
        weight_decay: Decoupled, times the learning rate; for matrices only.

    Raises:
        ValueError: If a value is out of its range.
    """

    name: str = "muon"
    lr: float | None = None
    adam_lr: float = 2e-2
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in DEFAULT_LR:
            from steepest.optim.spec import Spec  # imports torch, which most configurations do without

            try:
                Spec.parse(self.name)
            except ValueError as error:
                raise ValueError(f"optim.name: {error}") from None
        for name in ("lr", "adam_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"optim.{name}: expected a finite number above 0, got {value}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"optim.betas: expected two numbers in [0, 1), got {self.betas}")
        if not self.eps > 0:
            raise ValueError(f"optim.eps: expected a number above 0, got {self.eps}")
        if not 0 <= self.weight_decay < float("inf"):
            raise ValueError(f"optim.weight_decay: expected a finite number of at least 0, got {self.weight_decay}")

    @property
    def method(self) -> str:
        """The optimizer's name without its settings."""
        return re.split(r"[\s:]", self.name.strip())[0].lower()


#: Largest learning rate by optimizer, found on the default run (development log).
DEFAULT_LR = {"muon": 0.02, "adamw": 3e-3}

#: As `steepest.optim.Schedule` has them.
SCHEDULES = ("linear", "cosine", "wsd", "1-sqrt", "constant")
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long and in what pieces a run trains, and what it writes on the way.

    Args:
        steps: Optimizer steps.
        batch: Sequences of a step, over all processes and accumulation rounds.
        accumulation: Rounds in which a process computes its share of a step, to save memory; divides that share.
        schedule: Course of the learning rate after the warm-up: `"linear"` or `"cosine"` to `final_lr`, `"wsd"` (stays,
            then falls linearly over the last `decay_fraction`), `"1-sqrt"` (the same, falling faster at first), or
            `"constant"`.
        warmup: Steps over which the learning rate rises from 0.
        decay_fraction: Of `"wsd"` and `"1-sqrt"`: last part of the steps, in (0, 1].
        final_lr: Learning rate at the end, as a fraction of the largest.
        clip: Largest norm of the whole gradient; 0 leaves it alone.
        diagnose_every: Steps between records of each layer (sizes, ratios, spectra of gradient and update); 0 for none.
        precision: `"float32"`, `"bfloat16"` (autocast; weights and optimizer stay float32), or `"auto"`: bfloat16 where
            this machine multiplies matrices faster in it.
        seed: Of the initial weights, the order of the data and the sample.
        threads: Of torch; 0 takes all cores that the process may use.
        log_every: Steps between lines of training metrics.
        eval_every: Steps between evaluations; 0 evaluates at the end alone.
        eval_tokens: Tokens of an evaluation; the one at the end takes the whole validation split.
        checkpoint_every: Steps between checkpoints; 0 writes one at the end alone.
        keep_last: Newest checkpoints to keep, besides the best one.
        baselines: Compute `xz -9` and back-off n-gram models on the same split.
        sample_prompt: Start of the sample text written at the end; empty takes the start of the validation text.
        sample_tokens: Length of that text; 0 writes none.
        tensorboard: Also write TensorBoard event files (extra `tensorboard`).

    Raises:
        ValueError: If a value is out of its range.
    """

    steps: int = 1700
    batch: int = 8
    accumulation: int = 1
    schedule: str = "linear"
    warmup: int = 100
    decay_fraction: float = 0.2
    final_lr: float = 0.0
    clip: float = 1.0
    diagnose_every: int = 0
    precision: str = "auto"
    seed: int = 0
    threads: int = 0
    log_every: int = 5
    eval_every: int = 200
    eval_tokens: int = 32768
    checkpoint_every: int = 500
    keep_last: int = 2
    baselines: bool = True
    sample_prompt: str = ""
    sample_tokens: int = 160
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "accumulation", "log_every", "keep_last", "eval_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"train.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("warmup", "threads", "diagnose_every", "eval_every", "checkpoint_every", "sample_tokens", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name}: expected at least 0, got {getattr(self, name)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"train.schedule: expected one of {', '.join(SCHEDULES)}, got {self.schedule!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"train.precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        if not 0 < self.decay_fraction <= 1:
            raise ValueError(f"train.decay_fraction: expected a number in (0, 1], got {self.decay_fraction}")
        if not 0 <= self.final_lr <= 1:
            raise ValueError(f"train.final_lr: expected a fraction in [0, 1], got {self.final_lr}")
        if not 0 <= self.clip < float("inf"):
            raise ValueError(f"train.clip: expected a finite number of at least 0, got {self.clip}")
        if self.batch % self.accumulation:
            raise ValueError(
                f"train.accumulation={self.accumulation} does not divide train.batch={self.batch}; change one of them"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes.

    Args:
        model: Family, shape and initialization; its `vocab_size` is set by the tokenizer.
        data: Text and tokens.
        optim: Optimizer.
        train: Steps, schedule and records.
    """

    model: DecoderConfig = field(default_factory=lambda: preset("tiny", context=128))
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def to_dict(config: RunConfig) -> dict[str, dict[str, Any]]:
    """Return the configuration as nested dicts of plain values."""
    values = dataclasses.asdict(config)
    values["model"] = {"family": config.model.family, **values["model"]}
    return values


def kept_settings(config: RunConfig) -> dict[str, Any]:
    """Return what may not change while a run goes on, as `section.key` -> value as JSON has it.

    Where the text is may change, for its tokens are checked themselves.
    """
    values = json.loads(json.dumps(to_dict(config)))
    kept = {"model": values["model"], "optim": values["optim"], "train": {key: values["train"][key] for key in KEPT}}
    return {f"{section}.{key}": value for section, content in kept.items() for key, value in content.items()}


def from_dict(values: dict[str, Any], base: RunConfig | None = None) -> RunConfig:
    """Return a configuration with some values changed.

    Args:
        values: `{section: {key: value}}`; what is absent keeps its value. `{"model": "tiny"}` and
            `{"model": "ngpt-tiny"}` take a preset; `{"model": {"family": "ngpt"}}` changes the family alone.
        base: Where the other values come from; the defaults when None.

    Returns:
        The new configuration.

    Raises:
        ValueError: If a section or key does not exist (the near names are given) or a value has the wrong type.
    """
    config = base or RunConfig()
    sections = {f.name: f.type for f in dataclasses.fields(RunConfig)}
    for name, content in values.items():
        _check_name(name, sections, "section")
        section = getattr(config, name)
        if name == "model" and isinstance(content, str):
            config = dataclasses.replace(config, model=family_preset(content))
            continue
        if not isinstance(content, dict):
            raise ValueError(f"{name}: expected a table of settings, got {content!r}")
        if name == "model" and "family" in content:
            section = in_family(section, content["family"])
            content = {key: value for key, value in content.items() if key != "family"}
        hints = typing.get_type_hints(type(section))
        for key in content:
            _check_name(key, hints, "setting", prefix=f"{name}.")
        changed = {key: _typed(value, hints[key], f"{name}.{key}") for key, value in content.items()}
        config = dataclasses.replace(config, **{name: dataclasses.replace(section, **changed)})
    return config


def apply_overrides(config: RunConfig, overrides: list[str]) -> RunConfig:
    """Return the configuration after overrides of the form `section.key=value`.

    Args:
        config: Where to start.
        overrides: For example `["optim.lr=3e-3", "train.steps=500"]`. A value is read as JSON if it is JSON, else it is
            a string.

    Returns:
        The new configuration. All overrides of a section are applied at once, so their order does not matter.

    Raises:
        ValueError: If an override has another form, names nothing, or has a value of the wrong type.
    """
    values: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot or not key:
            raise ValueError(f"--set {override!r}: expected section.key=value, for example train.steps=500")
        values.setdefault(section, {})[key] = _parse(text.strip())
    return from_dict(values, config)


def read_config(path: str | Path, base: RunConfig | None = None) -> RunConfig:
    """Read a configuration from a `.toml` or `.json` file.

    Args:
        path: The file; what it does not set keeps its value.
        base: Where those values come from; the defaults when None.

    Returns:
        The configuration.

    Raises:
        ValueError: If the file is neither, is not well formed, or sets something unknown.
        OSError: If it cannot be read.
    """
    path = Path(path)
    try:
        if path.suffix == ".toml":
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
        else:
            raise ValueError(f"{path}: expected a .toml or .json file")
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not a well-formed {path.suffix[1:]} file: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected tables named model, data, optim, train, got {type(values).__name__}")
    try:
        return from_dict(values, base)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def to_toml(config: RunConfig) -> str:
    """Return the configuration as a TOML file that `read_config` reads back; unset values are left out."""
    lines = []
    for section, content in to_dict(config).items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in content.items() if value is not None]
        lines.append("")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    """JSON's strings, numbers, booleans and lists are TOML's too, but for surrogate pairs and the delete character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"True": True, "False": False, "None": None}.get(text, text)


def _check_name(name: str, known: dict[str, Any], kind: str, *, prefix: str = "") -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(prefix + n for n in near)}?" if near else f"there are {', '.join(known)}"
    raise ValueError(f"no {kind} {prefix + name!r}; {hint}")


def _typed(value: Any, hint: Any, name: str) -> Any:
    """Return `value` as the type `hint` asks for, where that loses nothing; else raise."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _typed(value, next(a for a in arguments if a is not type(None)), name)
    if origin is tuple:
        if isinstance(value, list | tuple):
            kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
            if len(kinds) == len(value):
                return tuple(_typed(item, kind, name) for item, kind in zip(value, kinds, strict=True))
        elif arguments == (str, Ellipsis) and isinstance(value, str):
            return (value,)
    elif hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(
                f"{name}: expected a number below 2^1024, got a whole number of {len(str(value))} digits"
            ) from None
    elif hint is float and isinstance(value, str):
        # TOML and JSON read 1e-3; a shell user also writes inf or .5, which only Python reads.
        try:
            return float(value)
        except ValueError:
            pass
    elif hint is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    wanted = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(hint, str(hint))
    raise ValueError(f"{name}: expected {wanted}, got {value!r}")
