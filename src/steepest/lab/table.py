# SPDX-License-Identifier: Apache-2.0
"""The outcome of a comparison: one row a method, ranked by mean final loss, and its tests."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from steepest.lab import measures
from steepest.lab.comparison import Comparison, Method
from steepest.lab.pruning import curve_of
from steepest.lab.results import losses_of, results_of
from steepest.lab.search import Losses, Trial, chosen, due
from steepest.lab.statistics import bootstrap_interval, holm, paired_p
from steepest.lab.trial import folder_of
from steepest.train.report.run import METRICS_FILE, Run, read_run
from steepest.train.report.units import count, duration, size

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


_UNITS = ("tokens", "seconds")


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """What a comparison says about one method.

    Args:
        name: Of the method.
        losses: Final loss by seed; empty if no trial of the search ended with a finite loss.
        failed: Final runs that diverged or failed.
        best: Lowest evaluation of any final run.
        interval: Bootstrap interval of the mean over seeds.
        p: Corrected p of the test against the baseline; None for it, and where a run is missing.
        values: Chosen settings.
        at_edge: Whether the optimum may lie outside of what was tried.
        sensitivity: Rise of the loss within a decade around the best learning rate.
        diverged: Trials of the search that diverged or failed.
        pruned: Trials of the search that the rules stopped.
        spikes: Of the training loss, per final run.
        tokens: Tokens until the mean curve of the seeds reaches the target; None if it does not.
        seconds: Seconds to the target, likewise.
        flops: Floating-point operations of the model to the target, likewise.
        state_bytes: Of the optimizer, per parameter.
        peak_memory: Largest of the final runs, bytes.
        run_seconds: Mean length of a final run.
        step_seconds: Part -> median seconds a step.
    """

    name: str
    losses: tuple[float, ...]
    failed: int
    best: float | None
    interval: tuple[float, float] | None
    p: float | None
    values: dict[str, float]
    at_edge: bool
    sensitivity: float | None
    diverged: int
    pruned: int
    spikes: float
    tokens: float | None
    seconds: float | None
    flops: float | None
    state_bytes: float | None
    peak_memory: float | None
    run_seconds: float | None
    step_seconds: dict[str, float]

    @property
    def mean(self) -> float:
        """Mean final loss; infinity if a final run failed."""
        return statistics.mean(self.losses) if self.losses and not self.failed else math.inf

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else None


@final
@dataclasses.dataclass(frozen=True)
class Outcome:
    """A comparison as far as it has come.

    Args:
        comparison: The rules.
        rows: Ranked: lowest mean final loss first. Times never decide.
        target: Loss whose tokens are counted; None before the baseline's final runs.
        done: Trials that are done.
        due: Trials that are known to be needed.
        trials: All of those.
        losses: Of those that are done.
        pruned: Of those that the rules stopped, the step.
    """

    comparison: Comparison
    rows: tuple[Row, ...]
    target: float | None
    done: int
    due: int
    trials: tuple[Trial, ...]
    losses: Losses
    pruned: Mapping[str, int]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to run."""
        return self.done == self.due


def outcome(root: Path, comparison: Comparison) -> Outcome:
    """Return what a comparison says so far.

    Args:
        root: Its folder.
        comparison: Its rules.

    Returns:
        The rows and what they rest on.

    Raises:
        ValueError: If a run was made under other rules.
    """
    results, losses = results_of(root, comparison), losses_of(root, comparison)
    trials = due(comparison, losses)
    finals = {m.name: [t for t in trials if t.stage == "final" and t.method == m.name] for m in comparison.methods}
    base = [losses.get(trial.name, math.inf) for trial in finals[comparison.baseline]]
    target = comparison.target
    if target is None and base and all(map(math.isfinite, base)):
        target = statistics.mean(base)
    ps = {}
    for name, runs in finals.items():
        theirs = [losses.get(trial.name, math.inf) for trial in runs]
        if name != comparison.baseline and base and all(map(math.isfinite, [*base, *theirs])) and theirs:
            ps[name] = paired_p(theirs, base)
    corrected = holm(ps)
    rows = [
        _row(root, comparison.method(name), trials, finals[name], results, losses, (target, corrected.get(name)))
        for name in finals
    ]
    rows.sort(key=lambda row: row.mean)
    done = sum(trial.name in losses for trial in trials)
    pruned = {name: max(curve_of(r), default=0) for name, r in results.items() if r["status"] == "pruned"}
    return Outcome(comparison, tuple(rows), target, done, len(trials), tuple(trials), losses, pruned)


def _row(
    root: Path,
    method: Method,
    trials: Sequence[Trial],
    finals: Sequence[Trial],
    results: dict[str, dict[str, Any]],
    losses: Losses,
    rest: tuple[float | None, float | None],
) -> Row:
    target, p = rest
    tried = [t for t in trials if t.method == method.name and t.stage != "final" and t.name in losses]
    best, at_edge = chosen(trials, losses, method)
    done = [t for t in finals if t.name in losses]
    finite = [t for t in done if math.isfinite(losses[t.name])]
    # The curves of a run that another machine did are there.
    runs = [read_run(folder_of(root, t)) for t in finite if (folder_of(root, t) / METRICS_FILE).is_file()]
    values = tuple(losses[t.name] for t in finite)
    complete = len(runs) == len(finals) > 0
    pruned = [t for t in tried if results[t.name]["status"] == "pruned"]
    points = [(t.values["lr"], losses[t.name]) for t in tried if t not in pruned]
    reach = {u: None if target is None or not complete else measures.first_at(runs, target, u) for u in _UNITS}
    tokens = reach["tokens"]
    return Row(
        name=method.name,
        losses=values,
        failed=len(done) - len(finite),
        best=min((float(measures.loss_column(run).min()) for run in runs), default=None),
        interval=bootstrap_interval(values) if len(values) > 1 else None,
        p=p,
        values=dict(best.values) if best else {},
        at_edge=at_edge,
        sensitivity=measures.sensitivity(points) if len(method.space) == 1 else None,
        diverged=sum(not math.isfinite(losses[t.name]) for t in tried) - len(pruned),
        pruned=len(pruned),
        spikes=statistics.mean([measures.spikes(measures.loss_column(r, "train")) for r in runs]) if runs else 0.0,
        tokens=tokens,
        seconds=reach["seconds"],
        flops=tokens * flops_per_token(runs[0]) if tokens and flops_per_token(runs[0]) else None,
        state_bytes=next((results[t.name].get("state_bytes_per_parameter") for t in finite), None),
        peak_memory=max((run.number("peak_rss_bytes") or 0.0 for run in runs), default=0.0) or None,
        run_seconds=statistics.mean([run.number("seconds") or 0.0 for run in runs]) if runs else None,
        step_seconds=measures.time_of_step([run.summary or {} for run in runs]),
    )


def flops_per_token(run: Run) -> float:
    """Return the floating-point operations of a run's model for a token, forward and backward; 0 if not recorded."""
    tokens, flops = run.number("tokens_per_second") or 0.0, run.number("flops_per_second") or 0.0
    return flops / tokens if tokens else 0.0


COLUMNS = (
    "method", "final loss", "sd", "95% of the mean", "p (Holm)", "lr", "at edge", "lr sensitivity", "failed",
    "spikes", "tokens to target", "state B/param", "peak memory", "run", "forward", "backward", "optimizer",
)  # fmt: skip
#: The first columns, which depend on nothing but the seeds; the others are measured.
REPRODUCIBLE = 12


def cells(result: Outcome) -> list[list[str]]:
    """Return the table as text, a row a method in `COLUMNS`."""
    return [_cells(row, result.comparison) for row in result.rows]


def _cells(row: Row, comparison: Comparison) -> list[str]:
    low_high = "–" if row.interval is None else f"{row.interval[0]:.4f} to {row.interval[1]:.4f}"
    verdict = "baseline" if row.name == comparison.baseline else "–"
    if row.p is not None:
        verdict = f"{row.p:.3g}{' *' if row.p <= comparison.alpha else ''}"
    parts = [row.step_seconds.get(part) for part in ("forward", "backward", "optimizer")]
    return [
        row.name,
        "failed" if row.failed else _or_dash(row.mean if row.losses else None, lambda x: f"{x:.4f}"),
        _or_dash(row.sd, lambda x: f"{x:.4f}"),
        low_high,
        verdict,
        ", ".join(f"{v:g}" if k == "lr" else f"{k}={v:g}" for k, v in row.values.items()) or "–",
        "yes" if row.at_edge else "no",
        "diverges" if row.sensitivity == math.inf else _or_dash(row.sensitivity, lambda x: f"+{x:.3f}"),
        f"{row.diverged + row.failed}{f', {row.pruned} pruned' if row.pruned else ''}",
        f"{row.spikes:.1f}",
        _or_dash(row.tokens, count),
        _or_dash(row.state_bytes, lambda x: f"{x:.2f}"),
        _or_dash(row.peak_memory, size),
        _or_dash(row.run_seconds, duration),
        *(_or_dash(value, lambda x: f"{1e3 * x:.1f} ms") for value in parts),
    ]


def _or_dash(value: float | None, form: Any) -> str:
    return "–" if value is None else form(value)


#: What a terminal shows, in two tables that fit into 80 characters; the page and the JSON have everything.
_SHOWN = (
    ("final loss", "p (Holm)", "lr", "at edge", "lr sensitivity", "failed", "tokens to target"),
    ("95% of the mean", "state B/param", "peak memory", "run", "optimizer"),
)


def rich_tables(result: Outcome) -> "Group":
    """Return the table for a terminal: what the methods reach, and what they take."""
    from rich.console import Group

    rules = result.comparison
    title = f"{len(rules.seeds)} seeds, {rules.run.train.steps} steps, {rules.trials} trials each"
    reached = "" if result.target is None else f"; target {result.target:.4f}"
    title = f"{title}: {result.done} of {result.due} runs done{reached}"
    return Group(*(_rich_table(result, names, text) for names, text in zip(_SHOWN, (title, None), strict=True)))


def _rich_table(result: Outcome, names: Sequence[str], title: str | None) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    kept = [0, *map(COLUMNS.index, names)]
    for index in kept:
        table.add_column(COLUMNS[index], justify="left" if index == 0 else "right")
    for row in cells(result):
        table.add_row(*(row[index] for index in kept), style="bold" if row[4] == "baseline" else "")
    return table
