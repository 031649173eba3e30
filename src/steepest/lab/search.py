# SPDX-License-Identifier: Apache-2.0
"""Which runs a comparison takes: a function of its file and of the runs that are done, and of nothing else.

Points of one setting are evenly spread over its range; those of several are a scrambled Halton sequence. No point
depends on when, where or in which order others ran, so any number of workers, killed at any time, do the same runs.
"""

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np

from steepest.lab.comparison import Comparison, Method

STAGES = ("search", "extra", "final")
#: Of several settings: part of a range at either end that counts as its edge.
_EDGE = 0.1


@final
@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Args:
        method: Name of the method.
        stage: `"search"`, `"extra"` or `"final"`.
        number: Counts the trials of a method's stage from 0.
        values: Setting -> value.
        seed: Of weights and data order.
    """

    method: str
    stage: str
    number: int
    values: Mapping[str, float]
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        kept = "".join(c if c.isalnum() or c in "._-" else "-" for c in self.method)
        mark = hashlib.sha256(self.method.encode()).hexdigest()[:4] if kept != self.method else ""
        return f"{kept}{mark and '-' + mark}-{self.stage}-{self.number:02d}"


#: Name of a trial -> its final loss; infinity for one that diverged, failed or was stopped.
Losses = Mapping[str, float]


def places(count: int, dims: int, seed: int) -> np.ndarray:
    """Return points of the unit cube.

    Args:
        count: How many, at least 1.
        dims: Settings.
        seed: Of the scrambling; one setting needs none.

    Returns:
        float64, `(count, dims)`.

    Example:
        >>> places(3, 1, 0).ravel().tolist()
        [0.0, 0.5, 1.0]
    """
    if dims == 1:
        return np.linspace(0, 1, count)[:, None] if count > 1 else np.full((1, 1), 0.5)
    from scipy.stats import qmc

    return qmc.Halton(dims, scramble=True, rng=np.random.default_rng(seed)).random(count)


def due(comparison: Comparison, losses: Losses) -> list[Trial]:
    """Return the trials that can run now or have run: later stages appear when all runs of the earlier ones are done.

    Args:
        comparison: The rules.
        losses: Of the trials that are done.

    Returns:
        Search first, then what it led to. When all of them are done and nothing new appears, so is the comparison.
    """
    search = [trial for method in comparison.methods for trial in _search(comparison, method)]
    if comparison.pruning:
        references = [trial for trial in search if is_reference(comparison, trial)]
        if any(trial.name not in losses for trial in references):
            return references
    if any(trial.name not in losses for trial in search):
        return search
    extra: list[Trial] = []
    if comparison.extra_trials and any(_at_edge(_best(search, losses, m), m) for m in comparison.methods):
        extra = [trial for method in comparison.methods for trial in _extra(comparison, method, search, losses)]
    if any(trial.name not in losses for trial in extra):
        return search + extra
    final = []
    for method in comparison.methods:
        best = _best(search + extra, losses, method)
        if best is not None:
            final += [Trial(method.name, "final", i, best.values, seed) for i, seed in enumerate(comparison.seeds)]
    return search + extra + final


def is_reference(comparison: Comparison, trial: Trial) -> bool:
    """Whether a trial is one that others are judged against, if runs of the search are stopped early."""
    return trial.stage == "search" and trial.number in comparison.references


def chosen(trials: Sequence[Trial], losses: Losses, method: Method) -> tuple[Trial | None, bool]:
    """Return the best trial of a method's search and whether it still lies at the edge of all that was tried.

    Args:
        trials: From `due`.
        losses: Of those that are done.
        method: Whose.

    Returns:
        The trial, None if all failed; and whether its optimum may lie outside.
    """
    tried = [t for t in trials if t.stage != "final" and t.method == method.name]
    best = _best(tried, losses, method)
    if best is None:
        return None, True
    if len(method.space) == 1:
        lrs = sorted(t.values["lr"] for t in tried)
        return best, best.values["lr"] in (lrs[0], lrs[-1])
    return best, bool(_at_edge(best, method)) and best.stage == "search"


def _search(comparison: Comparison, method: Method) -> list[Trial]:
    points = places(comparison.trials, len(method.space), comparison.search_seed)
    return [_trial(comparison, method, "search", i, point) for i, point in enumerate(points)]


def _trial(comparison: Comparison, method: Method, stage: str, number: int, point: Iterable[float]) -> Trial:
    pairs = zip(method.space.items(), point, strict=True)
    values = {key: range_.at(float(x)) for (key, range_), x in pairs}
    return Trial(method.name, stage, number, values, comparison.search_seed)


def _best(trials: Sequence[Trial], losses: Losses, method: Method) -> Trial | None:
    done = [t for t in trials if t.method == method.name and math.isfinite(losses.get(t.name, math.inf))]
    return min(done, key=lambda t: (losses[t.name], t.stage, t.number), default=None)


def _place(trial: Trial, method: Method) -> np.ndarray:
    return np.array([math.log(trial.values[k] / r.low) / math.log(r.high / r.low) for k, r in method.space.items()])


def _at_edge(best: Trial | None, method: Method) -> list[int]:
    """For each setting -1, 0 or 1: its lower edge, inside, its upper edge; empty if inside in all."""
    if best is None:  # everything diverged: look lower
        return [-1] * len(method.space)
    edge = _EDGE if len(method.space) > 1 else 1e-4  # values have six digits
    signs = [-1 if x <= edge else 1 if x >= 1 - edge else 0 for x in _place(best, method)]
    return signs if any(signs) else []


def _extra(comparison: Comparison, method: Method, search: Sequence[Trial], losses: Losses) -> list[Trial]:
    """As many further points for every method: beyond the edge where its best lies at one, else around its best."""
    count, dims = comparison.extra_trials, len(method.space)
    best = _best(search, losses, method)
    centre = _place(best, method) if best else np.zeros(dims)
    signs = np.array(_at_edge(best, method) or [0] * dims)
    step = 1 / (comparison.trials - 1)
    if dims == 1 and signs[0]:
        points = [centre + signs * step * (i + 1) for i in range(count)]
    elif dims == 1:  # alternately below and above, between the best and its neighbours
        points = [centre + step * (-1) ** i * _between(i // 2, (count + 1 - i % 2) // 2) for i in range(count)]
    else:
        unit = places(count, dims, comparison.search_seed + 1) - 0.5
        points = list(centre + np.where(signs, signs * 0.25, 0) + unit * 0.5)
    return [_trial(comparison, method, "extra", i, point) for i, point in enumerate(points)]


def _between(index: int, count: int) -> float:
    return (index + 1) / (count + 1)


def values_of(trial: Trial) -> dict[str, Any]:
    """Return a trial as plain values."""
    return dataclasses.asdict(trial) | {"values": dict(trial.values)}
