# SPDX-License-Identifier: Apache-2.0
"""Several runs on one page: their curves over one another, their final numbers, and what differed between them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steepest.train import files
from steepest.train.report import html, units
from steepest.train.report.charts import Chart, Curve, Level
from steepest.train.report.figure import half_width, loss_range
from steepest.train.report.html import Markup
from steepest.train.report.metrics import last, smooth
from steepest.train.report.page import footer, head, notes
from steepest.train.report.run import Run, read_run


def write_comparison(run_folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write one self-contained HTML page that compares runs.

    Args:
        run_folders: At least two run folders, live or finished.
        out: The page to write; its folder must exist.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: A folder holds no metrics, or the folder of `out` does not exist.
        ValueError: Fewer than two folders, the same folder twice, or a damaged file.
        OSError: The page cannot be written; an older one stays.
    """
    folders = [Path(folder).resolve() for folder in run_folders]
    if len(folders) < 2:
        raise ValueError(f"a comparison needs at least 2 run folders, got {len(folders)}; write_html_report shows one")
    if len(set(folders)) < len(folders):
        raise ValueError(f"expected different run folders, got one twice among {[str(folder) for folder in folders]}")
    path = Path(out)
    if not path.parent.is_dir():
        raise FileNotFoundError(2, "No such folder to write the comparison into", str(path.parent))
    files.write_bytes(path, render([read_run(folder) for folder in folders]).encode())
    return path


def render(runs: Sequence[Run]) -> str:
    """Return the comparison as one HTML document."""
    names = short_names(runs)
    charts = _charts(runs, names)
    warnings = [f"{name}: {note}" for name, run in zip(names, runs, strict=True) for note in notes(run)]
    body = [
        head(f"{len(runs)} runs compared", ", ".join(str(run.path) for run in runs)),
        *(html.paragraph(warning, class_="note") for warning in warnings),
        html.section("Final numbers", _final(runs, names)),
        html.section("Training", html.axis_switch(), html.figures(charts)),
        html.section("What differs in the configuration", _differences([run.config for run in runs], names)),
        html.section("What differs in the environment", _differences([run.environment for run in runs], names)),
        footer(),
    ]
    return html.page(f"{len(runs)} runs · steepest", body, charts)


def short_names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: its folder's, with parents where two folders share one."""
    parts = [run.path.resolve().parts for run in runs]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(parts) and depth < max(map(len, parts)):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def _charts(runs: Sequence[Run], names: Sequence[str]) -> list[Chart]:
    validation, training, speed, norm = [], [], [], []
    for index, (name, run) in enumerate(zip(names, runs, strict=True)):
        train, evaluation = run.metrics.train, run.metrics.eval
        half = half_width(len(train["step"]))
        validation.append(Curve(name, evaluation, evaluation["bits_per_byte"], index, "points"))
        training.append(Curve(name, train, smooth(train["bits_per_byte"], half), index))
        for curves, column in ((speed, "tokens_per_second"), (norm, "grad_norm")):
            if column in train:
                curves.append(Curve(name, train, smooth(train[column], half), index))
    window = _window(runs)
    return [
        Chart("Validation loss", "bits per byte", validation, _shared_levels(runs), window, tall=True),
        Chart("Training loss, moving average", "bits per byte", training, (), window, tall=True),
        Chart("Speed", "tokens per second", speed, from_zero=True),
        Chart("Gradient norm", "before clipping", norm, from_zero=True),
    ]


def _window(runs: Sequence[Run]) -> tuple[float, float] | None:
    """Return the closest view of any run that still shows where every run ended."""
    views = [view for run in runs if (view := loss_range(run)) is not None]
    if not views:
        return None
    low = min(view[0] for view in views)
    ends = [run.bits_per_byte for run in runs if run.bits_per_byte is not None]
    return low, max(min(view[1] for view in views), *(end + 0.1 * (end - low) for end in ends), low)


def _shared_levels(runs: Sequence[Run]) -> list[Level]:
    # A baseline belongs to a split of a text: across runs on different texts it would mean nothing.
    first = runs[0].baselines
    same = all(run.baselines == first for run in runs)
    return [Level(name, value) for name, value in first.items()] if same else []


def _final(runs: Sequence[Run], names: Sequence[str]) -> Markup:
    columns: list[tuple[str, Callable[[Run], float | None], units.Form]] = [
        ("bits per byte", lambda run: run.bits_per_byte, lambda value: f"{value:.4f}"),
        ("best", lambda run: run.number("best_bits_per_byte"), lambda value: f"{value:.4f}"),
        ("against best baseline", _against_baseline, units.change),
        ("parameters", lambda run: run.number("parameters"), units.count),
        ("steps", lambda run: run.number("steps", last(run.metrics.train["step"])), lambda value: f"{value:,.0f}"),
        ("tokens", lambda run: run.number("tokens", last(run.metrics.train["tokens"])), units.count),
        ("time", lambda run: run.number("seconds", last(run.metrics.train["seconds"])), units.duration),
        ("tokens/s", lambda run: run.number("tokens_per_second"), units.count),
        ("peak memory", lambda run: run.number("peak_rss_bytes"), units.size),
    ]
    rows = []
    for name, run in zip(names, runs, strict=True):
        values = [(get(run), form) for _, get, form in columns]
        rows.append([name, run.status, *("–" if value is None else form(value) for value, form in values)])
    scores = [run.bits_per_byte for run in runs]
    best = min((score for score in scores if score is not None), default=None)
    marked = None if best is None else scores.index(best)
    return html.table(["run", "status", *(title for title, _, _ in columns)], rows, marked=marked)


def _against_baseline(run: Run) -> float | None:
    if run.bits_per_byte is None or not run.baselines:
        return None
    return run.bits_per_byte / min(run.baselines.values()) - 1


def _differences(values: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Markup:
    flat = [html.flatten(value) for value in values]
    keys = dict.fromkeys(key for value in flat for key in value)
    differing = [key for key in keys if len({html.shown(value.get(key)) for value in flat}) > 1]
    if not differing:
        return html.paragraph("Nothing.", class_="absent")
    return html.table(["key", *names], [[key, *(html.shown(value.get(key)) for value in flat)] for key in differing])
