# SPDX-License-Identifier: Apache-2.0
"""A record as a table for the terminal and as a figure."""

from pathlib import Path
from typing import Any

from rich.table import Table

from steepest.bench.timing import Record
from steepest.train.report.palette import BLUE, GREEN, ORANGE, PURPLE, VERMILLION

#: Peer's name to colour and marker: told apart by eyes that see no colour too.
_LOOKS = {
    "steepest": (BLUE, "o"),
    "torch": (VERMILLION, "s"),
    "torch.compile": (GREEN, "^"),
    "onnxruntime": (ORANGE, "D"),
    "jax": (PURPLE, "v"),
}
_HEADINGS = {"torch.compile": "torch.\ncompile", "onnxruntime": "onnx-\nruntime"}
_NOT_CASE = {"name", "seconds", "quartiles", "fastest", "ns_per_element", "gb_per_second", "group"}


def by_case(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, dict[str, Any]]]:
    """Return rows by case and name.

    Args:
        rows: Of a record.

    Returns:
        Case to name to row, in the order measured.
    """
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        case = tuple(str(value) for key, value in row.items() if key not in _NOT_CASE)
        found.setdefault(case, {})[row["name"]] = row
    return found


def table(record: Record) -> Table:
    """Return a table with one line for each case.

    Args:
        record: Measured rows with one named "steepest" in each case.

    Returns:
        A rich table: our time and bandwidth, and how many times as long each peer takes.
    """
    copy = record.about["copy_bytes_per_second"] / 1e9
    shown = Table(
        title=f"{record.about['processor']}, {record.threads} thread{'s' * (record.threads > 1)}, copy {copy:.1f} GB/s",
        caption="The other columns: how many times as long they take (below 1: they are faster).",
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    names = [name for name in _LOOKS if name != "steepest" and any(row["name"] == name for row in record.rows)]
    for column in ("kernel", "shape", "type"):
        shown.add_column(column, no_wrap=True)
    for column in ("ns per\nelem.", "GB/s", "of\ncopy", *(_HEADINGS.get(name, name) for name in names)):
        shown.add_column(column, justify="right")
    for case, rows in by_case(record.rows).items():
        ours = rows["steepest"]
        ratios = [f"{rows[name]['seconds'] / ours['seconds']:.2f}" if name in rows else "" for name in names]
        share = f"{ours['gb_per_second'] / copy:.0%}"
        shown.add_row(
            *map(_short, case), f"{ours['ns_per_element']:.3f}", f"{ours['gb_per_second']:.1f}", share, *ratios
        )
    return shown


def _short(text: str) -> str:
    """What fits beside all peers in a terminal of 80 columns."""
    for long, short in (("bfloat", "bf"), ("float", "f"), (" + backward", " + grad"), (" x ", "x")):
        text = text.replace(long, short)
    return text


def plot(record: Record, path: Path) -> None:
    """Write a figure: ns/element, and GB/s beside what copying memory reaches, for each case and peer.

    Args:
        record: Measured rows.
        path: A PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    found = by_case(record.rows)
    figure = Figure(figsize=(11, 1.6 + 0.3 * len(found)), layout="constrained")
    FigureCanvasAgg(figure)
    times, rates = figure.subplots(1, 2, sharey=True)
    for name, (color, marker) in _LOOKS.items():
        places = [(i, rows[name]) for i, rows in enumerate(found.values()) if name in rows]
        if not places:
            continue
        heights = [i for i, _ in places]
        look: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "none", "alpha": 0.85}
        times.plot([row["ns_per_element"] for _, row in places], heights, label=name, **look)
        rates.plot([row["gb_per_second"] for _, row in places], heights, **look)
    times.set_yticks(range(len(found)), ["  ".join(case) for case in found], fontsize=8)
    times.invert_yaxis()
    times.set(xscale="log", xlabel="ns / element (less is better)")
    copy = record.about["copy_bytes_per_second"] / 1e9
    rates.axvline(copy, color="0.4", linestyle="--", linewidth=1)
    rates.annotate(f"copy {copy:.1f}", (copy, -0.6), fontsize=8, color="0.3", ha="right", annotation_clip=False)
    rates.set(xscale="log", xlabel="GB/s of useful traffic (more is better)")
    for axes in (times, rates):
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="both", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    about = record.about
    title = (
        f"{about['processor']} ({about['simd']}), {record.threads} thread{'s' * (record.threads > 1)}, {about['date']}"
    )
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    figure.legend(loc="outside lower center", ncols=len(_LOOKS), frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)
