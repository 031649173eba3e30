# SPDX-License-Identifier: Apache-2.0
"""The loss curve as a picture for a letter or a paper."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steepest.train import files
from steepest.train.report.metrics import Column, last, smooth
from steepest.train.report.palette import BASELINE_COLORS, BASELINE_DASHES, TRAIN, VALIDATION
from steepest.train.report.run import LOSS_FIGURE, Run, read_run
from steepest.train.report.units import count, duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (8.0, 5.0)
_DPI = 150
_INK, _FAINT = "#222222", "#777777"


def write_loss_figure(run_folder: str | Path) -> Path:
    """Draw the loss of a run into `loss.png` of its folder.

    Bits per byte over tokens: every logged training step faint, their moving average, the evaluations on the
    validation set, and a labelled line for each baseline. The axis above shows steps and time. The steep beginning
    leaves the picture at the top when it would flatten everything else; the picture then says where it started.

    Args:
        run_folder: A run folder, live or finished.

    Returns:
        The path of the picture, 8 x 5 inches at 150 dots an inch.

    Raises:
        FileNotFoundError: The folder holds no metrics.
        ValueError: A file of the folder is damaged.
        OSError: The folder is not writable; an older picture stays.
    """
    run = read_run(run_folder)
    target = run.path / LOSS_FIGURE
    files.write_bytes(target, _draw(run))
    return target


def _draw(run: Run) -> bytes:
    # A figure of its own, not pyplot: no global state, no window, safe beside the caller's own figures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.085, 0.115, 0.69, 0.69))
    ends = _draw_curves(axes, run)
    _frame(axes, run)
    _label_right(axes, ends)
    figure.text(0.085, 0.955, run.name, fontsize=12, fontweight="bold", color=_INK, va="center", parse_math=False)
    figure.text(0.97, 0.955, _state(run), fontsize=9, color=_FAINT, va="center", ha="right", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def _draw_curves(axes: "Axes", run: Run) -> list[tuple[float, str, str]]:
    """Draw the curves; return (height, label, colour) of what the right margin must name."""
    train, evaluation = run.metrics.train, run.metrics.eval
    ends: list[tuple[float, str, str]] = []
    for index, (name, value) in enumerate(sorted(run.baselines.items(), key=lambda item: item[1])):
        color = BASELINE_COLORS[index % len(BASELINE_COLORS)]
        axes.axhline(
            value, color=color, linewidth=1.2, linestyle=BASELINE_DASHES[index % len(BASELINE_DASHES)], zorder=2
        )
        ends.append((value, f"{name}  {value:.3f}", color))
    tokens, bits = train["tokens"], train["bits_per_byte"]
    if len(tokens):
        mean = smooth(bits, half_width(len(bits)))
        axes.plot(tokens, bits, color=TRAIN, linewidth=0.7, alpha=0.28, zorder=3)
        axes.plot(tokens, mean, color=TRAIN, linewidth=1.6, zorder=4, marker="o" if len(tokens) < 3 else "")
        value = last(mean)
        if value is not None:
            ends.append((value, f"training  {value:.3f}", TRAIN))
    if len(evaluation["tokens"]):
        axes.plot(
            evaluation["tokens"],
            evaluation["bits_per_byte"],
            color=VALIDATION,
            marker="o",
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.2,
            zorder=5,
        )
        value = last(evaluation["bits_per_byte"])
        if value is not None:
            ends.append((value, f"validation  {value:.3f}", VALIDATION))
    return ends


def half_width(points: int) -> int:
    """Return how many points on either side the moving average of a training curve takes: 2% of the curve."""
    return points // 50


def loss_range(run: Run) -> tuple[float, float] | None:
    """Return the bits per byte that a picture of this run should show.

    Everything from the lowest value up to the highest baseline or to the loss after a tenth of the run, whichever is
    higher: the first steps would otherwise take three quarters of the height and say nothing.

    Args:
        run: The run.

    Returns:
        (low, high) with a margin, or None when there is no finite value to show.
    """
    raw = run.metrics.train["bits_per_byte"]
    train = smooth(raw, half_width(len(raw)))
    evaluation = run.metrics.eval["bits_per_byte"]
    baselines = np.array(list(run.baselines.values()))
    late = [train[len(train) // 10 :], evaluation[len(evaluation) // 10 :], baselines]
    everything = _finite(np.concatenate([train, evaluation, baselines]))
    noise = _finite(raw)
    upper = _finite(np.concatenate(late))
    if not len(everything):
        return None
    low = float(min(everything.min(), np.percentile(noise, 1) if len(noise) else np.inf))
    high = float(upper.max()) if len(upper) else float(everything.max())
    margin = 0.06 * (high - low) or 0.05 * max(abs(high), 1.0)
    return low - margin, high + margin


def _finite(values: Column) -> Column:
    return values[np.isfinite(values)]


def _frame(axes: "Axes", run: Run) -> None:
    axes.set_ylabel("bits per byte", color=_INK)
    axes.set_xlabel("training tokens", color=_INK)
    axes.xaxis.set_major_formatter(lambda value, _: count(value, trim=True))
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9)
    bounds = loss_range(run)
    if bounds is None:
        axes.text(0.5, 0.5, "no measurement yet", transform=axes.transAxes, ha="center", color=_FAINT)
        return
    axes.set_ylim(*bounds)
    axes.set_xlim(left=0, right=1.008 * _span(run, "tokens") or 1)
    first = _finite(run.metrics.train["bits_per_byte"])
    if len(first) and first[0] > bounds[1]:
        note = f"starts at {first[0]:.2f}, off the top"
        axes.text(1.21, -0.135, note, transform=axes.transAxes, ha="right", fontsize=8.5, color=_FAINT)
    _steps_and_time(axes, run)


def _span(run: Run, column: str) -> float:
    values = np.concatenate([run.metrics.train[column], run.metrics.eval[column]])
    return float(_finite(values).max(initial=0.0))


def _steps_and_time(axes: "Axes", run: Run) -> None:
    """Put steps and elapsed time above the picture, at round step numbers."""
    from matplotlib.ticker import MaxNLocator

    rows = [np.concatenate([run.metrics.train[c], run.metrics.eval[c]]) for c in ("step", "tokens", "seconds")]
    order = np.argsort(rows[0], kind="stable")
    step, tokens, seconds = (row[order] for row in rows)
    if len(step) < 2 or not np.isfinite(tokens).all() or step[0] == step[-1]:
        return
    ticks = [t for t in MaxNLocator(6, integer=True).tick_values(0, step[-1]) if step[0] <= t <= step[-1]]
    above = axes.secondary_xaxis("top")
    above.set_xticks(list(np.interp(ticks, step, tokens)))
    times = np.interp(ticks, step, seconds)
    above.set_xticklabels([f"{t:,.0f}\n{duration(s)}" for t, s in zip(ticks, times, strict=True)])
    above.tick_params(colors=_FAINT, labelsize=8, length=3)
    above.spines["top"].set_color("#bbbbbb")
    above.set_xlabel("step, time", color=_FAINT, fontsize=8.5, labelpad=3)


def _label_right(axes: "Axes", ends: Sequence[tuple[float, str, str]]) -> None:
    """Name the lines in the right margin, each as near to its line as the others allow."""
    if not ends:
        return
    low, high = axes.get_ylim()
    ordered = sorted(ends)
    fractions = [(value - low) / (high - low) for value, _, _ in ordered]
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "axes fraction", "annotation_clip": False}
    for (_, label, color), at, place in zip(ordered, fractions, spread(fractions, gap=0.05), strict=True):
        axes.annotate(
            label,
            xy=(1.003, min(max(at, 0.0), 1.0)),
            xytext=(1.03, place),
            color=color,
            fontsize=9,
            va="center",
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 0},
            **style,
        )


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move increasing places apart to at least `gap`, as little as possible in the sum of squares.

    Args:
        places: Increasing numbers.
        gap: The least distance between neighbours, above 0.

    Returns:
        The new places, in the same order.
    """
    # With y_i = x_i - i*gap the constraint is y increasing: pool adjacent violators gives the least-squares answer.
    blocks: list[tuple[float, int]] = []
    for index, place in enumerate(places):
        mean, length = place - index * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, size = blocks.pop()
            mean = (mean * length + other * size) / (length + size)
            length += size
        blocks.append((mean, length))
    flat = [mean for mean, length in blocks for _ in range(length)]
    return [value + index * gap for index, value in enumerate(flat)]


def _state(run: Run) -> str:
    parts = [] if run.status == "finished" else [run.status]
    parameters = run.number("parameters")
    if parameters is not None:
        parts.append(f"{count(parameters)} parameters")
    if steps := _span(run, "step"):
        parts += [f"{steps:,.0f} step{'s' * (steps != 1)}", duration(_span(run, "seconds"))]
    return "  ·  ".join(parts)
