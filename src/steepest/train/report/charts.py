# SPDX-License-Identifier: Apache-2.0
"""Interactive charts as data: Python says what is drawn, `report.js` draws it with plotly inside the page."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np

from steepest.train.report.metrics import Column, thin

#: The x-axes that a reader can switch between: key -> (what the switch says, the axis title).
AXES: dict[str, tuple[str, str]] = {
    "tokens": ("tokens", "training tokens"),
    "step": ("steps", "step"),
    "seconds": ("time", "seconds"),
}
#: An axis that only comparisons of methods have.
FLOPS = {"flops": ("FLOPs", "floating-point operations of the model, forward and backward")}
#: Axis key of a chart that has an x-axis of its own, which the switch leaves alone.
OWN = "own"
#: More points than pixels only make the page slow.
MOST_POINTS = 2000


@final
@dataclasses.dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        name: What the legend says.
        x: Axis key (of `AXES`) -> places, each as long as `y`.
        y: Values; what is not finite leaves a gap.
        color: Index into the page's palette.
        style: `line`, `faint` (thin and pale, not in the legend), `points` (a line with markers) or `marks` (markers
            with their names).
        band: Low and high ends of a shaded band, each as long as `y`.
    """

    name: str
    x: Mapping[str, Column]
    y: Column
    color: int = 0
    style: str = "line"
    band: tuple[Column, Column] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `report.js` reads."""
        keep = thin(len(self.y), MOST_POINTS)
        x = {key: numbers(self.x[key][keep]) for key in (*AXES, *FLOPS, OWN) if key in self.x}
        band = None if self.band is None else [numbers(end[keep]) for end in self.band]
        y = numbers(self.y[keep])
        return {"name": self.name, "x": x, "y": y, "color": self.color, "style": self.style, "band": band}


@final
@dataclasses.dataclass(frozen=True)
class Level:
    """A horizontal line, such as a baseline: its name and its height."""

    name: str
    y: float


@final
@dataclasses.dataclass(frozen=True)
class Chart:
    """One chart of a page.

    Attributes:
        title: Its heading.
        y_title: What the values are and their unit.
        curves: What it shows.
        levels: Horizontal lines across it.
        y_range: (low, high) at first; the reader can zoom out. None shows everything.
        from_zero: Start the values at zero, for a quantity whose relative size is the point.
        tall: Over the whole width of the page, and taller.
        x_title: Title of an x-axis of its own (axis key `OWN` of the curves); empty for the axis that is switched.
        x_log: Whether that one is logarithmic.
    """

    title: str
    y_title: str
    curves: Sequence[Curve]
    levels: Sequence[Level] = ()
    y_range: tuple[float, float] | None = None
    from_zero: bool = False
    tall: bool = False
    x_title: str = ""
    x_log: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return what `report.js` reads."""
        return {
            "yTitle": self.y_title,
            "curves": [curve.to_json() for curve in self.curves if len(curve.y)],
            "levels": [{"name": level.name, "y": level.y} for level in self.levels],
            "yRange": self.y_range,
            "fromZero": self.from_zero,
            "xTitle": self.x_title,
            "xLog": self.x_log,
        }

    @property
    def empty(self) -> bool:
        """No curve has a finite value."""
        return not any(np.isfinite(curve.y).any() for curve in self.curves)


def numbers(values: Column) -> list[float | None]:
    """Return the values with six significant digits, as JSON knows them: None for what is not finite."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in values]
