# SPDX-License-Identifier: Apache-2.0
"""Tables and curves of `steepest design`; everything heavy is imported inside."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steepest.geometry.certify import Certificate, Coefficients
    from steepest.geometry.polar_iteration import PolarIteration

_COLUMNS = 5
_WINDOW = 400


def published_rows(name: str, steps: int) -> "Coefficients":
    """Return the rows of a published list, a repeated one for the wanted number of steps.

    Args:
        name: A key of `PUBLISHED`.
        steps: Used where the list allows it.

    Returns:
        One row a step.

    Raises:
        ValueError: When the name is unknown, or there are no steps.
    """
    from steepest.geometry.polar_coefficients import PUBLISHED

    if steps < 1:
        raise ValueError(f"steps must be 1 to 20, got {steps}")

    if name not in PUBLISHED:
        raise ValueError(f"--compare must be all or one of {', '.join(PUBLISHED)}, got {name!r}")
    entry = PUBLISHED[name]
    if entry.steps == "fixed":
        return entry.coefficients
    return (*entry.coefficients[:steps], *(entry.coefficients[-1],) * (steps - len(entry.coefficients)))


def check_figure(path: pathlib.Path) -> None:
    """Refuse a figure that cannot be written, before anything is computed.

    Args:
        path: Where it shall go.

    Raises:
        ValueError: When Matplotlib cannot write that kind of file, or there is no such folder.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kinds = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in kinds:
        raise ValueError(f"--out must end in .png, .svg or .pdf, got {path}")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"--out: there is no folder {path.resolve().parent}; make it first")


def print_coefficients(iteration: "PolarIteration") -> None:
    """Print one row of coefficients a step, as Python can read them.

    Args:
        iteration: What was designed.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{iteration.name}: a x + b x³ + c x⁵ + …")
    table.add_column("step", justify="right")
    width = max(map(len, iteration.coefficients))
    for letter in "abcde"[:width]:
        table.add_column(letter, justify="right")
    for number, row in enumerate(iteration.coefficients, 1):
        table.add_row(str(number), *(f"{value:.6f}" for value in row), *[""] * (width - len(row)))
    Console().print(table)


def print_certificates(certificates: Mapping[str, "Certificate"]) -> None:
    """Print what each list does to a singular value.

    Args:
        certificates: By name.
    """
    from rich.console import Console
    from rich.table import Table

    low, high = next(iter(certificates.values())).interval
    table = Table(title=f"singular values from [{low:g}, {high:g}]")
    for column in ("list", "steps", "slope at 0", "smallest out", "largest out", "rms error", "verdict"):
        justify = "left" if column in {"list", "verdict"} else "right"
        table.add_column(column, justify=justify, no_wrap=column == "list")
    for name, found in certificates.items():
        numbers = (f"{found.slope:.1f}", f"{found.min_out:.4f}", f"{found.max_out:.4f}", f"{found.rms:.4f}")
        table.add_row(name, str(found.steps), *numbers, "accepted" if found.accepted else found.reasons[0])
    Console().print(table)


def draw(
    curves: Mapping[str, Sequence[Sequence[float]]], path: pathlib.Path, *, lower: float, upper: float = 1.0
) -> None:
    """Draw the error of every list over the spectrum, and under it what comes out, one panel a list.

    Args:
        curves: Coefficient lists by name.
        path: Ends in .png or .svg (or another format of Matplotlib).
        lower: Smallest singular value for which the lists are judged; drawn as a line.
        upper: Largest singular value drawn.

    Raises:
        ValueError: When Matplotlib cannot write that kind of file.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from steepest.geometry.certify import compose

    columns = min(_COLUMNS, len(curves))
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(13, 4.2 + 1.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 1, height_ratios=(4.2, 1.8 * rows))
    top, bottom = (figure.add_subfigure(grid[part]) for part in (0, 1))
    overview = top.subplots()
    panels = bottom.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    x, least = np.geomspace(lower / 10, upper, 6000), 1.0
    for number, (name, coefficients) in enumerate(curves.items()):
        with np.errstate(over="ignore", invalid="ignore"):
            y = np.nan_to_num(compose(coefficients, x), nan=10).clip(-10, 10)
        # The running maximum: the error oscillates too quickly to be drawn itself.
        error = np.lib.stride_tricks.sliding_window_view(np.abs(1 - y), _WINDOW).max(1)
        label = f"{name} ({len(coefficients)} steps)"
        color, dashes = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]
        middle = x[: error.size] * (x[_WINDOW // 2] / x[0])
        least = min(least, float(error.min()))
        overview.plot(middle, np.maximum(error, 1e-9), label=label, color=color, linestyle=dashes)
        panels[number].plot(x, y, color=color, linewidth=0.9)
        panels[number].axhline(1, color="gray", linewidth=0.5)
        panels[number].axhline(0, color="gray", linewidth=0.5)
        panels[number].axvline(lower, color="gray", linewidth=0.8)
        panels[number].set_title(label, fontsize=9)
    for panel in panels[len(curves) :]:
        panel.set_axis_off()
    panels[0].set(xscale="log", ylim=(-1.3, 1.6))
    bottom.supxlabel("singular value in (vertical line: lower end of the interval)", fontsize=9)
    bottom.supylabel("singular value out", fontsize=9)
    overview.axvline(lower, color="gray", linewidth=0.8)
    overview.set(xscale="log", yscale="log", xlabel="singular value in", ylim=(max(1e-5, least / 3), 3))
    overview.set_ylabel(f"largest |1 − out| within a factor of {x[_WINDOW] / x[0]:.2g}")
    overview.grid(alpha=0.25)
    top.legend(*overview.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)
