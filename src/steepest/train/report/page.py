# SPDX-License-Identifier: Apache-2.0
"""The report of one run: a single HTML file to keep, send and print."""

from pathlib import Path

from steepest.train import files
from steepest.train.report import html, units
from steepest.train.report.charts import Chart, Curve, Level
from steepest.train.report.figure import half_width, loss_range
from steepest.train.report.html import Markup
from steepest.train.report.layers import layer_charts
from steepest.train.report.metrics import Column, Metrics, last, smooth
from steepest.train.report.run import HTML_REPORT, Run, read_run


def write_html_report(run_folder: str | Path) -> Path:
    """Write `report.html` of a run: one file that asks the network for nothing.

    It holds the validation loss beside each baseline, the loss over tokens, steps or time, the learning rate and the
    gradient norm, speed and memory, what the steps did to each layer where that was recorded, where the time went, the
    sample text, the configuration and the environment. A run that is still going, or was killed, gets a report of what
    is there and a note that says so.

    Args:
        run_folder: A run folder, live or finished.

    Returns:
        The path of the page, of about 5 MB: plotly is inside.

    Raises:
        FileNotFoundError: The folder holds no metrics.
        ValueError: A file of the folder is damaged.
        OSError: The folder is not writable; an older report stays.
    """
    run = read_run(run_folder)
    target = run.path / HTML_REPORT
    files.write_bytes(target, render(run).encode())
    return target


def render(run: Run) -> str:
    """Return the report of a run as one HTML document."""
    first = [loss_chart(run), *_panels(run.metrics)]
    layers = layer_charts({"median": (run.metrics.layers, 0)}, each=True)
    body = [
        head(run.name, str(run.path.resolve())),
        *(html.paragraph(note, class_="note") for note in notes(run)),
        _headline(run),
        html.section("Training", html.axis_switch(), html.figures(first)),
        *([html.section("Layers", html.figures(layers, first=len(first)))] if layers else []),
        *_time_split(run),
        _sample(run),
        html.section("Configuration", html.nested(run.config) if run.config else _absent("config.json")),
        html.section("Environment", html.nested(run.environment) if run.environment else _absent("environment.json")),
        footer(),
    ]
    return html.page(f"{run.name} · steepest", body, [*first, *layers])


def head(title: str, where: str) -> Markup:
    """Return the heading of a page and, smaller, where it comes from."""
    return html.element(
        "header", html.join([html.element("h1", html.text(title)), html.paragraph(where, class_="where")])
    )


def footer() -> Markup:
    """Return the last line of a page."""
    from steepest import __version__

    return html.element("footer", html.text(f"Written by steepest {__version__}. This file is complete in itself."))


def notes(run: Run) -> list[str]:
    """Return what a reader must know before trusting the numbers of a run."""
    found = []
    if run.summary is None:
        found.append(
            "This run has not written its summary: it is still going, or it was killed. The numbers are those of its "
            "last log line."
        )
    elif run.status != "finished":
        found.append(f"This run is {run.status}: it did not reach its last step.")
    if run.metrics.truncated:
        found.append("metrics.jsonl ends in the middle of a line; that half line is left out.")
    return found


def _absent(name: str) -> Markup:
    return html.paragraph(f"The run folder has no {name}.", class_="absent")


def _headline(run: Run) -> Markup:
    bits = run.bits_per_byte
    value = [
        html.paragraph("–" if bits is None else f"{bits:.3f}", class_="value"),
        html.paragraph("bits per byte on the validation text", class_="unit"),
        html.paragraph(verdict(run), class_="verdict"),
    ]
    rows = [(name, score, _against(bits, score)) for name, score in run.baselines.items()]
    if bits is not None:
        rows.append(("this model", bits, f"{bits:.3f}"))
    rows.sort(key=lambda row: -row[1])
    parts = [html.element("div", html.join(value)), html.bars(rows, marked="this model")]
    top = html.element("div", html.join(parts), class_="headline")
    return html.element("section", html.join([top, html.facts(_facts(run))]))


def verdict(run: Run) -> str:
    """Return one sentence that sets the model against the best baseline."""
    bits, baselines = run.bits_per_byte, run.baselines
    if bits is None:
        return "No evaluation yet."
    if not baselines:
        return "No baseline was measured."
    name, best = min(baselines.items(), key=lambda item: item[1])
    change = abs(bits / best - 1)
    side = "below" if bits < best else "above"
    return f"{change:.1%} {side} the best baseline, {name} ({best:.3f})."


def _against(bits: float | None, baseline: float) -> str:
    return f"{baseline:.3f}" if bits is None else f"{baseline:.3f} ({units.change(bits / baseline - 1)})"


def _facts(run: Run) -> list[tuple[str, str]]:
    train = run.metrics.train
    shown = [
        ("status", run.status),
        ("parameters", _format(run.number("parameters"), units.count)),
        ("steps", _format(run.number("steps", last(train["step"])), lambda value: f"{value:,.0f}")),
        ("tokens", _format(run.number("tokens", last(train["tokens"])), units.count)),
        ("time", _format(run.number("seconds", last(train["seconds"])), units.duration)),
        ("tokens/s", _format(run.number("tokens_per_second", last(train.get("tokens_per_second"))), units.count)),
        ("FLOP/s", _format(run.number("flops_per_second", last(train.get("flops_per_second"))), units.count)),
        ("peak memory", _format(run.number("peak_rss_bytes", _peak(train.get("rss_bytes"))), units.size)),
        ("best validation", _format(run.number("best_bits_per_byte"), lambda value: f"{value:.3f}")),
        ("training text", _format(run.number("train_bytes"), units.size)),
        ("validation text", _format(run.number("val_bytes"), units.size)),
    ]
    return [(label, value) for label, value in [*shown, *_planned(run)] if value != "–"]


def _planned(run: Run) -> list[tuple[str, str]]:
    """What was predicted of a run under a limit of memory, and the step that was measured."""
    plan = (run.summary or {}).get("plan")
    found = plan if isinstance(plan, dict) else {}
    shown: list[tuple[str, str, units.Form]] = [
        ("planned step", "predicted_step_seconds", lambda value: f"{value:.3g} s"),
        ("measured step", "measured_step_seconds", lambda value: f"{value:.3g} s"),
        ("planned memory", "predicted_peak_bytes", units.size),
        ("memory limit", "limit_bytes", units.size),
    ]
    return [(label, form(found[key])) for label, key, form in shown if isinstance(found.get(key), int | float)]


def _format(value: float | None, form: units.Form) -> str:
    return "–" if value is None else form(value)


def _peak(column: Column | None) -> float | None:
    return None if column is None or not len(column) else last(column[column == column.max()])


def loss_chart(run: Run) -> Chart:
    """Return the chart of training and validation loss with the baselines."""
    train, evaluation = run.metrics.train, run.metrics.eval
    bits = train["bits_per_byte"]
    return Chart(
        title="Loss",
        y_title="bits per byte",
        curves=[
            Curve("training, each step", train, bits, color=0, style="faint"),
            Curve("training", train, smooth(bits, half_width(len(bits))), color=0),
            Curve("validation", evaluation, evaluation["bits_per_byte"], color=1, style="points"),
        ],
        levels=[Level(name, value) for name, value in run.baselines.items()],
        y_range=loss_range(run),
        tall=True,
    )


def _panels(metrics: Metrics) -> list[Chart]:
    train = metrics.train

    def panel(title: str, unit: str, column: str, scale: float = 1.0) -> Chart:
        values = train.get(column)
        curves = [] if values is None else [Curve(title.lower(), train, values * scale)]
        return Chart(title=title, y_title=unit, curves=curves, from_zero=True)

    return [
        panel("Learning rate", "lr", "lr"),
        panel("Gradient norm", "before clipping", "grad_norm"),
        panel("Speed", "tokens per second", "tokens_per_second"),
        panel("Memory", "resident, MiB", "rss_bytes", 2.0**-20),
    ]


def _time_split(run: Run) -> list[Markup]:
    split = (run.summary or {}).get("time_split") or {}
    spent = {str(name): float(value) for name, value in split.items()}
    if not spent:
        return []
    total = max(run.number("seconds") or 0.0, sum(spent.values()))
    if total - sum(spent.values()) > 0.005 * total:
        spent["everything else"] = total - sum(spent.values())
    rows = [
        (name, seconds, f"{units.duration(seconds)} ({seconds / total:.0%})")
        for name, seconds in sorted(spent.items(), key=lambda item: -item[1])
    ]
    return [html.section("Where the time goes", html.bars(rows))]


def _sample(run: Run) -> Markup:
    body = _absent("sample.txt yet") if run.sample is None else html.element("pre", html.text(run.sample))
    return html.section("What the model writes", body)
