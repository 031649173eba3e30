# SPDX-License-Identifier: Apache-2.0
"""The look of the studies' figures."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from steepest.train import files

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 130


def figure(title: str, panels: int = 1, *, height: float = 4.2) -> "tuple[Figure, list[Axes]]":
    """Return an empty figure of the studies' look.

    Args:
        title: Says what is to be seen.
        panels: Axes beside each other.
        height: Inches.

    Returns:
        The figure and its axes; give these labels, curves with labels, and call `axes.legend(frameon=False)`.
    """
    # A figure of its own, not pyplot: no global state, no window, safe beside the caller's own figures.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(7.4 if panels == 1 else 4.4 * panels, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(made)
    made.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = [made.add_subplot(1, panels, i + 1) for i in range(panels)]
    for one in axes:
        one.grid(True, which="major", color="0.9", linewidth=0.8)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return made, axes


def save_figure(made: "Figure", path: Path) -> None:
    """Write a figure as a PNG file; its folder is made if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    files.write_bytes(path, buffer.getvalue())
