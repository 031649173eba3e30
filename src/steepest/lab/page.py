# SPDX-License-Identifier: Apache-2.0
"""The outcome of a comparison as one self-contained page, and its figure for print."""

import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steepest.lab.comparison import FILE, Comparison
from steepest.lab.measures import loss_column
from steepest.lab.table import COLUMNS, Outcome, Row, cells, flops_per_token, outcome
from steepest.lab.trial import folder_of
from steepest.train import files
from steepest.train.report import html, units
from steepest.train.report.charts import AXES, FLOPS, OWN, Chart, Curve, Level
from steepest.train.report.html import Markup
from steepest.train.report.layers import layer_charts
from steepest.train.report.metrics import Column
from steepest.train.report.page import footer, head
from steepest.train.report.palette import BASELINE_DASHES, CURVES
from steepest.train.report.run import METRICS_FILE, Run, read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE, FIGURE, TABLE = "report.html", "comparison", "table.json"
_MARKERS = "osD^Px"
#: Where the columns begin that say what a method takes rather than what it reaches.
_COSTS = COLUMNS.index("state B/param")

#: Method -> its final runs that have measured something.
Finals = Mapping[str, Sequence[Run]]


def write_page(root: Path, comparison: Comparison) -> list[Path]:
    """Write the page, the figures (PNG and SVG) and the table (JSON) of a comparison, finished or going.

    Args:
        root: Its folder.
        comparison: Its rules.

    Returns:
        The files, the page first.

    Raises:
        ValueError: If a run was made under other rules.
        OSError: If they cannot be written.
    """
    result = outcome(root, comparison)
    finals = final_runs(root, result)
    page = root / PAGE
    files.write_bytes(page, render(root, result, finals).encode())
    figures = [root / f"{FIGURE}.{kind}" for kind in ("png", "svg")]
    for path in figures:
        files.write_bytes(path, _draw(result, finals, path.suffix[1:]))
    rows = [{key: _plain(value) for key, value in dataclasses.asdict(row).items()} for row in result.rows]
    about = next((run.environment for runs in finals.values() for run in runs), {})
    record = {"digest": comparison.digest, "done": result.done, "due": result.due, "target": result.target}
    files.write_json(root / TABLE, {**record, "rows": rows, "about": about, "rules": comparison.to_dict()})
    return [page, *figures, root / TABLE]


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def final_runs(root: Path, result: Outcome) -> dict[str, list[Run]]:
    """Return the final runs of each method, ranked, that have measured something."""
    finals: dict[str, list[Run]] = {row.name: [] for row in result.rows}
    for trial in result.trials:
        folder = folder_of(root, trial)
        if trial.stage == "final" and (folder / METRICS_FILE).is_file():
            run = read_run(folder)
            if len(run.metrics.eval["step"]):
                finals[trial.method].append(run)
    return finals


def render(root: Path, result: Outcome, finals: Finals) -> str:
    """Return the page as one HTML document."""
    rules = result.comparison
    first = [_curves(result, finals), _training(result, finals)]
    second = [_lr_chart(result), *_pareto(result)]
    third = _layer_charts(result, finals)
    charts = [*first, *second, *third]
    rows = cells(result)
    marked = next((i for i, row in enumerate(rows) if row[4] == "baseline"), None)
    environment = next((run.environment for runs in finals.values() for run in runs), {})
    layers = [html.section("Layers", html.figures(third, first=len(first) + len(second)))] if third else []
    body = [
        head(f"{', '.join(method.name for method in rules.methods)} compared", str(root.resolve())),
        *(html.paragraph(note, class_="note") for note in _notes(result)),
        html.section("Outcome", html.paragraph(_explained(result)), _table(rows, slice(1, _COSTS), marked)),
        html.section("Cost", _table(rows, slice(_COSTS, None), marked)),
        html.section("Learning", html.axis_switch(AXES | FLOPS), html.figures(first)),
        html.section("Tuning, memory and time", html.figures(second, first=len(first))),
        *layers,
        html.section("All runs", _all_runs(result)),
        html.section("Rules", html.nested({**rules.to_dict(), "methods": _spaces(rules), "digest": rules.digest})),
        html.section(f"The rule file, {FILE}", html.element("pre", html.text(json.dumps(rules.to_dict(), indent=1)))),
        html.section("Environment", html.nested(environment)),
        footer(),
    ]
    return html.page(f"{len(rules.methods)} methods compared · steepest", body, charts)


def _table(rows: Sequence[Sequence[str]], which: slice, marked: int | None) -> Markup:
    """The methods and some of the columns: all of them are wider than a page."""
    return html.table(["method", *COLUMNS[which]], [[row[0], *row[which]] for row in rows], marked=marked)


def _notes(result: Outcome) -> list[str]:
    notes = []
    if not result.finished or not result.rows[0].losses:
        notes.append(f"The comparison is not finished: {result.done} of {result.due} known runs are done.")
    edge = [row.name for row in result.rows if row.at_edge]
    if edge and result.finished:
        notes.append(f"The best setting of {', '.join(edge)} lies at the edge of what was tried: it may do better.")
    failed = [row.name for row in result.rows if row.failed]
    if failed:
        notes.append(f"A final run of {', '.join(failed)} diverged or failed, which counts as a failure of the method.")
    return notes


def _explained(result: Outcome) -> str:
    rules = result.comparison
    target = "" if result.target is None else f" The target is {result.target:.4f}."
    return (
        f"Each method was tuned with {rules.trials} runs (seed {rules.search_seed}) and its best setting run with "
        f"seeds {', '.join(map(str, rules.seeds))}. The order is that of mean final loss; a star marks p of at most "
        f"{rules.alpha:g} in a paired test against {rules.baseline}, corrected for {len(rules.methods) - 1} "
        f"comparisons. Times are recorded and decide nothing.{target}{_pruning(rules)}"
    )


def _pruning(rules: Comparison) -> str:
    if rules.pruning is None:
        return ""
    return (
        " Every second run of the search and the last went to their ends; the others were stopped once "
        f"{rules.pruning.after:.0%} of their steps were done and none of their evaluations was within the best "
        f"{rules.pruning.percentile:g} % of those runs' at that step."
    )


def _color(result: Outcome, name: str) -> int:
    return [method.name for method in result.comparison.methods].index(name)


def _bands(runs: Sequence[Run], kind: str) -> tuple[dict[str, Column], Column, tuple[Column, Column]]:
    """Places, mean over seeds, and lowest and highest seed; of the part that all seeds have."""
    losses = [loss_column(run, kind) for run in runs]
    n = min(map(len, losses))
    stack = np.array([values[:n] for values in losses])
    columns = [run.metrics.eval if kind == "eval" else run.metrics.train for run in runs]
    x = {key: np.mean([c[key][:n] for c in columns], axis=0) for key in AXES}
    x["flops"] = x["tokens"] * flops_per_token(runs[0])
    return x, stack.mean(axis=0), (stack.min(axis=0), stack.max(axis=0))


def _curves(result: Outcome, finals: Finals) -> Chart:
    curves, ends = [], []
    for name, runs in finals.items():
        if runs:
            x, mean, band = _bands(runs, "eval")
            curves.append(Curve(name, x, mean, _color(result, name), "points", band))
            ends.append((mean[len(mean) // 4 :], band))
    levels = [] if result.target is None else [Level("target", result.target)]
    return Chart(
        "Validation loss, mean and range of the seeds", _unit(result), curves, levels, _window(ends), tall=True
    )


def _window(ends: Sequence[tuple[Column, Any]]) -> tuple[float, float] | None:
    """Leave out the steep beginning, which would flatten the rest."""
    values = np.concatenate([mean for mean, _ in ends]) if ends else np.empty(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    edge = 0.08 * max(high - low, 1e-6)
    return low - edge, high + edge


def _training(result: Outcome, finals: Finals) -> Chart:
    curves = []
    for name, runs in finals.items():
        if runs and all(len(run.metrics.train["step"]) for run in runs):
            x, mean, band = _bands(runs, "train")
            curves.append(Curve(name, x, mean, _color(result, name), "line", band))
    return Chart("Training loss, mean and range of the seeds", _unit(result), curves, tall=True)


def _unit(result: Outcome) -> str:
    return "bits per byte" if result.comparison.task == "text" else "loss"


def _points(result: Outcome, name: str) -> tuple[Column, Column]:
    tried = sorted(
        (t.values["lr"], result.losses[t.name])
        for t in result.trials
        if t.method == name and t.stage != "final" and math.isfinite(result.losses.get(t.name, math.inf))
    )
    return np.array([lr for lr, _ in tried]), np.array([loss for _, loss in tried])


def _lr_chart(result: Outcome) -> Chart:
    curves = []
    for row in result.rows:
        lr, loss = _points(result, row.name)
        curves.append(Curve(row.name, {OWN: lr}, loss, _color(result, row.name), "points"))
    return Chart(
        "Loss of the search against the learning rate", _unit(result), curves, x_title="learning rate", x_log=True
    )


def _pareto(result: Outcome) -> list[Chart]:
    def chart(title: str, x_title: str, places: Sequence[float | None]) -> Chart:
        curves = [
            Curve(row.name, {OWN: np.array([x])}, np.array([row.mean]), _color(result, row.name), "marks")
            for row, x in zip(result.rows, places, strict=True)
            if x is not None and math.isfinite(row.mean)
        ]
        return Chart(title, f"final {_unit(result)}", curves, x_title=x_title)

    rows: Sequence[Row] = result.rows
    return [
        chart("Loss against optimizer memory", "state bytes per parameter", [row.state_bytes for row in rows]),
        chart("Loss against time", "seconds of a run", [row.run_seconds for row in rows]),
    ]


def _layer_charts(result: Outcome, finals: Finals) -> list[Chart]:
    """Of the first final run of each method."""
    recorded = {name: (runs[0].metrics.layers, _color(result, name)) for name, runs in finals.items() if runs}
    return layer_charts(recorded)


def _all_runs(result: Outcome) -> Markup:
    rows = []
    for trial in result.trials:
        loss = result.losses.get(trial.name)
        shown = "–" if loss is None else "failed" if not math.isfinite(loss) else f"{loss:.4f}"
        if trial.name in result.pruned:
            shown = f"pruned at step {result.pruned[trial.name]}"
        values = ", ".join(f"{key}={value:g}" for key, value in trial.values.items())
        rows.append([trial.name, values, str(trial.seed), shown])
    return html.table(["run", "settings", "seed", "final loss"], rows)


def _spaces(rules: Comparison) -> dict[str, Any]:
    return {
        method.name: {
            "spec": method.spec,
            **{key: f"{edges.low:g} to {edges.high:g}" for key, edges in method.space.items()},
            "adam_lr / lr": method.adam_lr_ratio,
            "share": method.share,
        }
        for method in rules.methods
    }


def _draw(result: Outcome, finals: Finals, kind: str) -> bytes:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    chart = _curves(result, finals)
    _plot(left, chart, "tokens")
    if chart.y_range:
        left.set_ylim(*chart.y_range)
    left.set_xlabel("training tokens" if result.comparison.task == "text" else "training examples")
    left.xaxis.set_major_formatter(lambda value, _: units.count(value, trim=True))
    if result.target is not None:
        left.axhline(result.target, color="#777777", linewidth=1, linestyle="--")
    _plot(right, _lr_chart(result), OWN)
    right.set_xscale("log")
    right.set_xlabel("learning rate")
    for axes, title in ((left, "Validation loss, mean and range of seeds"), (right, "Search")):
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_ylabel(_unit(result))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#e6e7ea", linewidth=0.8)
    if left.get_legend_handles_labels()[1]:
        left.legend(frameon=False)
    buffer = io.BytesIO()
    metadata = {"Software": None} if kind == "png" else {"Date": None}
    with mpl.rc_context({"svg.hashsalt": result.comparison.digest}):
        figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()


def _plot(axes: "Axes", chart: Chart, axis: str) -> None:
    for curve in chart.curves:
        if not len(curve.y):
            continue
        index = curve.color
        color, dash = CURVES[index % len(CURVES)], ("-", *BASELINE_DASHES)[index % (1 + len(BASELINE_DASHES))]
        marker = _MARKERS[index % len(_MARKERS)]
        axes.plot(curve.x[axis], curve.y, color=color, linestyle=dash, marker=marker, markersize=4, label=curve.name)
        if curve.band is not None:
            axes.fill_between(curve.x[axis], *curve.band, color=color, alpha=0.18, linewidth=0)
