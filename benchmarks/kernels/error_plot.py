# SPDX-License-Identifier: Apache-2.0
"""Draws the error of the elementary functions against their input, for docs/images/kernels-error.png.

Run `python -m benchmarks.kernels.error_plot` from the repository's root; half a minute.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from steepest import functional
from steepest.train.report.palette import BLUE, VERMILLION
from tests.kernels.accuracy import REFERENCES

FIGURE = Path(__file__).parents[2] / "docs" / "images" / "kernels-error.png"
#: Function to the interval that is drawn: where its result is neither 0 nor inf nor a constant.
INTERVALS = {
    "exp": (-104, 88.7), "exp2": (-150, 128), "expm1": (-20, 88.7), "log": (0.01, 100), "log1p": (-0.999, 20),
    "sigmoid": (-104, 20), "tanh": (-10, 10), "erf": (-4.2, 4.2), "softplus": (-104, 30),
    "silu": (-106, 20), "gelu": (-14.2, 8),
}  # fmt: skip
BINS, PER_BIN = 300, 2000


def errors(function: Callable[[torch.Tensor], torch.Tensor], reference: Any, x: torch.Tensor) -> np.ndarray:
    """Return the largest error in ulp within each row of x; 2^24 ulp, a lost value, is the most that is shown."""
    exact = reference(x.double()).numpy()
    exponent = np.maximum(np.frexp(exact)[1] - 1, -126)
    error = np.abs(function(x).double().numpy() - exact) * np.exp2(23.0 - exponent)
    return np.minimum(np.nan_to_num(error, nan=2.0**24, posinf=2.0**24).max(axis=1), 2.0**24)


def main() -> None:
    """Draw and save."""
    torch.set_num_threads(1)
    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(4, 3).ravel()
    generator = torch.Generator().manual_seed(0)
    for axes, (name, (low, high)) in zip(panels, INTERVALS.items(), strict=False):
        edges = torch.linspace(low, high, BINS + 1)
        x = edges[:-1, None] + (edges[1] - edges[0]) * torch.rand(BINS, PER_BIN, generator=generator)
        plain = getattr(torch, name, None) or getattr(torch.nn.functional, name)
        reference, bound = REFERENCES[name]
        looks = (("torch", plain, VERMILLION, 0.9), ("steepest", getattr(functional, name), BLUE, 1.2))
        for label, function, color, width in looks:
            axes.plot(x.mean(1), errors(function, reference, x), color=color, linewidth=width, label=label)
        axes.axhline(bound, color="0.4", linestyle="--", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_ylim(0.3, max(4.0, axes.get_ylim()[1]))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2) if axes.get_ylim()[1] < 10 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_title(name, fontsize=10, loc="left")
        axes.grid(color="0.92", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    for axes in panels[len(INTERVALS) :]:
        axes.set_axis_off()
    figure.supylabel("largest error, ulp", fontsize=10)
    figure.supxlabel("x", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", bbox_to_anchor=(0.95, 0.12), frameon=False)
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=100)
    print(FIGURE, FIGURE.stat().st_size)


if __name__ == "__main__":
    main()
