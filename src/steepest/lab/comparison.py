# SPDX-License-Identifier: Apache-2.0
"""The rules of a comparison of optimizers, fixed in a file before the first run."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import steepest
from steepest.optim.spec import Spec
from steepest.train import files
from steepest.train.config import DEFAULT_LR, OptimConfig, RunConfig, from_dict, to_dict

#: Raised when the meaning of the file changes.
FORMAT = 1
FILE = "comparison.json"
#: How far the search goes to either side of a method's usual learning rate: the same ratio for every method.
REACH = 8.0


@final
@dataclasses.dataclass(frozen=True)
class Range:
    """The values of one setting that a search may try, evenly spread over their logarithms.

    Args:
        low: Smallest, above 0.
        high: Largest.

    Raises:
        ValueError: If not `0 < low < high`, both finite.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high < math.inf:
            raise ValueError(f"expected a range 0 < low < high, got {self.low} to {self.high}")

    def at(self, place: float) -> float:
        """Return the value at a place from 0 (`low`) to 1 (`high`), with six significant digits.

        Args:
            place: May lie outside [0, 1]: a widened search leaves the range.
        """
        return float(f"{self.low * (self.high / self.low) ** place:.6g}")


@final
@dataclasses.dataclass(frozen=True)
class Method:
    """One side of a comparison.

    Args:
        name: What tables and figures call it; unique in the comparison.
        spec: The optimizer and its fixed settings, as `steepest train --optim` reads them.
        space: Setting -> range. `lr` is the method's learning rate; any other name is a setting of the optimizer, or
            `adam_lr`.
        adam_lr_ratio: Learning rate of the parameters that a method for matrices leaves to AdamW, as a multiple of
            `lr`, unless `space` holds `adam_lr`.
        share: Part of the steps that it gets, in (0, 1]; its schedule ends there.
    """

    name: str
    spec: str
    space: Mapping[str, Range]
    adam_lr_ratio: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        Spec.parse(self.spec)
        if "lr" not in self.space:
            raise ValueError(f"{self.name}: expected a range of lr among those searched, got {sorted(self.space)}")
        if not 0 < self.share <= 1:
            raise ValueError(f"{self.name}: expected a share in (0, 1], got {self.share}")


@final
@dataclasses.dataclass(frozen=True)
class Pruning:
    """When a run of a search is stopped: its best evaluation so far is not among the best of the references' here.

    Args:
        percentile: Of the references' evaluations at the same step, in (0, 100): a run above it is stopped.
        after: Part of a run before which none is, in [0, 1).

    Raises:
        ValueError: If a value is out of its range.
    """

    percentile: float = 50.0
    after: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.percentile < 100:
            raise ValueError(f"pruning: expected a percentile in (0, 100), got {self.percentile}")
        if not 0 <= self.after < 1:
            raise ValueError(f"pruning: expected the part of a run that is left alone in [0, 1), got {self.after}")


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that decides the outcome of a comparison.

    Args:
        task: `"text"`, another name of `steepest.lab.tasks`, or `module:function`.
        run: What every run shares: model, data, batch, steps, schedule, threads.
        methods: At least one.
        trials: Runs of each method's search.
        extra_trials: Further runs of each method, taken by all if the best of any lies at the edge of its range.
        search_seed: Seed of the runs of the search.
        seeds: Seeds of the final runs; none of them is the search's, for the best of many is lucky with its seed.
        baseline: Name of the method that the others are tested against.
        target: Loss whose tokens are counted; None takes the mean final loss of the baseline.
        alpha: Largest corrected p at which a difference is called one.
        data: Fingerprint of the data.
        pruning: Stops runs of the search, by one rule for all methods; None lets all of them end.

    Raises:
        ValueError: If a value is out of its range or names clash.
    """

    task: str = "text"
    run: RunConfig
    methods: tuple[Method, ...]
    trials: int = 5
    extra_trials: int = 2
    search_seed: int = 0
    seeds: tuple[int, ...] = (1, 2, 3)
    baseline: str
    target: float | None = None
    alpha: float = 0.02
    data: str = ""
    pruning: Pruning | None = None

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected methods of different names, got {names or 'none'}")
        if self.baseline not in names:
            raise ValueError(f"baseline: expected one of {', '.join(names)}, got {self.baseline!r}")
        if self.trials < 2 or self.extra_trials < 0:
            raise ValueError(f"expected at least 2 trials and 0 extra ones, got {self.trials}, {self.extra_trials}")
        if len(set(self.seeds)) < len(self.seeds) or self.search_seed in self.seeds or len(self.seeds) < 2:
            raise ValueError(
                f"seeds: expected at least two different ones other than the search's {self.search_seed}, "
                f"got {list(self.seeds)}"
            )
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha: expected a number in (0, 1), got {self.alpha}")

    def method(self, name: str) -> Method:
        """Return the method of a name."""
        return next(method for method in self.methods if method.name == name)

    def steps(self, method: Method) -> int:
        """Return how many steps a method gets."""
        return max(1, round(self.run.train.steps * method.share))

    @property
    def references(self) -> frozenset[int]:
        """Numbers of the search's trials that the others are judged against: every second one and the last."""
        return frozenset([*range(0, self.trials, 2), self.trials - 1])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; without `pruning` if there is none, as in files from before there was."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        methods = [dataclasses.asdict(method) for method in self.methods]
        pruning = values.pop("pruning")
        more = {} if pruning is None else {"pruning": dataclasses.asdict(pruning)}
        plain = {"run": to_dict(self.run), "methods": methods, "seeds": list(self.seeds), **more}
        return {"format": FORMAT, **values, **plain}

    @property
    def digest(self) -> str:
        """A hash of all of it: runs belong together only if theirs are equal."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def method_of(text: str, *, space: Mapping[str, Range] | None = None, share: float = 1.0, name: str = "") -> Method:
    """Return a method with the usual search space of its optimizer.

    Args:
        text: An optimizer and its settings: `"muon"`, `"sinkgd alpha=0.1"`. An `lr` in it is the middle of its range.
        space: Ranges to use in place of the usual ones; `lr` from an eighth of the usual rate to eight times it.
        share: See `Method`.
        name: What tables call it; the text when empty.

    Returns:
        The method.

    Raises:
        ValueError: If there is no such optimizer or setting.

    Example:
        >>> method_of("adamw").space["lr"]
        Range(low=0.000375, high=0.024)
    """
    spec = Spec.parse(text)
    lr = spec.settings.get("lr") or DEFAULT_LR.get(spec.name) or _usual(spec)
    for setting in space or {}:
        if setting not in ("lr", "adam_lr") and not spec.accepts(setting):
            raise ValueError(f"{spec.name} has no setting {setting!r} to search, or {text!r} fixes it")
    words = [word for word in text.split() if not word.startswith("lr=")]
    found = {"lr": Range(lr / REACH, lr * REACH)} | dict(space or {})
    return Method(
        name=name or text,
        spec=" ".join(words),
        space=found,
        adam_lr_ratio=_adam_ratio(spec.name, float(lr)),
        share=share,
    )


def _usual(spec: Spec) -> float:
    from steepest.optim.catalogue import example

    return example(spec.kind, **spec.settings).param_groups[0]["lr"]


def _adam_ratio(name: str, lr: float) -> float:
    """What is left to AdamW starts at the usual rate of that, and moves along with the method's."""
    return 1.0 if name in ("adam", "adamw") else float(f"{OptimConfig().adam_lr / lr:.6g}")


def write(comparison: Comparison, folder: Path) -> None:
    """Write the file of a comparison, once.

    Args:
        comparison: The rules.
        folder: Of the comparison; made if it is not there.

    Raises:
        ValueError: If the folder holds a comparison with other rules: they cannot be changed after the fact.
    """
    path = folder / FILE
    if path.is_file():
        old = read(folder)
        if old.digest != comparison.digest:
            raise ValueError(
                f"{path} has other rules ({_difference(old, comparison)}); its rules stay as they are: leave out the "
                "options to continue it, or choose another --out"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    written = {**comparison.to_dict(), "digest": comparison.digest, "steepest": steepest.__version__}
    files.write_json(path, written)


def read(folder: Path) -> Comparison:
    """Read the file of a comparison.

    Args:
        folder: Of the comparison.

    Raises:
        ValueError: If there is none, or it was changed after it was written.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a comparison: it holds no {FILE}; `steepest compare` makes one")
    values = files.read_json(path)
    if values.get("format") != FORMAT:
        raise ValueError(f"{path}: expected format {FORMAT}, got {values.get('format')!r}")
    digest = values.pop("digest", None)
    for key in ("format", "steepest"):
        values.pop(key, None)
    methods = [
        Method(**{**entry, "space": {key: Range(**edges) for key, edges in entry["space"].items()}})
        for entry in values.pop("methods")
    ]
    run, seeds = from_dict(values.pop("run")), tuple(values.pop("seeds"))
    pruning = Pruning(**values.pop("pruning")) if "pruning" in values else None
    comparison = Comparison(run=run, methods=tuple(methods), seeds=seeds, pruning=pruning, **values)
    if comparison.digest != digest:
        raise ValueError(f"{path} was changed after it was written; restore it or start a new comparison")
    return comparison


def _difference(old: Comparison, new: Comparison) -> str:
    left, right = old.to_dict(), new.to_dict()
    keys = dict.fromkeys([*left, *right])
    return "different " + ", ".join(key for key in keys if left.get(key) != right.get(key))


def same_rules(folders: Sequence[Path]) -> Comparison:
    """Return the rules that several folders share.

    Args:
        folders: Folders of comparisons, for example of several machines.

    Raises:
        ValueError: If their files differ: then their runs cannot be compared.
    """
    all_rules = [read(folder) for folder in folders]
    for folder, rules in zip(folders[1:], all_rules[1:], strict=True):
        if rules.digest != all_rules[0].digest:
            raise ValueError(
                f"{folders[0]} and {folder} were run under different rules ({_difference(all_rules[0], rules)}); "
                "their runs cannot be compared"
            )
    return all_rules[0]
