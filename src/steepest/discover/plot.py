# SPDX-License-Identifier: Apache-2.0
"""The picture of a search: largest error against cost, beside the textbooks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from steepest.train.report.palette import BLUE, GREEN, ORANGE, PURPLE, VERMILLION

_LOOKS = [(BLUE, "o", "-"), (GREEN, "^", ":"), (ORANGE, "D", ":"), (PURPLE, "v", "--"), (VERMILLION, "s", "--")]
_MARKS = ("*", "P", "X")
_SPARE = ("0.35", "P", "--")


def draw_fronts(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    *,
    title: str,
    stars: Mapping[str, tuple] | None = None,
    labels: tuple[str, str] = ("cost of the operations", "largest error"),
) -> None:
    """Draw fronts into a .png or .svg file.

    Args:
        series: Name to points (cost, largest error), the found programs first.
        path: Where to.
        title: Of the figure.
        stars: At most three single programs to mark: name to (cost, error).
        labels: Of the axes.

    Raises:
        ValueError: If the file's ending is neither .png nor .svg.

    Example:
        >>> import tempfile
        >>> draw_fronts({"found": [(1, 0.1), (2, 0.01)]}, Path(tempfile.mkdtemp()) / "front.png", title="2^x")
    """
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"figures are .png or .svg, got {path.name}")
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "steepest"}):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        for i, (name, points) in enumerate(series.items()):
            color, marker, line = _LOOKS[i] if i < len(_LOOKS) else _SPARE
            xs, ys = zip(*sorted(points), strict=True) if points else ((), ())
            axes.plot(xs, ys, color=color, marker=marker, linestyle=line, label=name, linewidth=1.6, markersize=5)
        for (name, (cost, error)), marker in zip((stars or {}).items(), _MARKS, strict=False):
            axes.plot([cost], [error], marker, color="black", markersize=11, label=name, linestyle="none")
        axes.set_yscale("log")
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.set_title(title, loc="left", fontsize=11)
        axes.locator_params(axis="x", integer=True)
        axes.grid(True, which="major", color="0.9")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
        figure.savefig(path)
