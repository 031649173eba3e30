# SPDX-License-Identifier: Apache-2.0
"""What the steps of runs did to their layers, as charts: the median of the layers, and each of them or their range."""

from collections.abc import Mapping, Sequence

import numpy as np

from steepest.train.report.charts import OWN, Chart, Curve

#: Quantity of a layer's record -> title of its chart, and what the values are.
QUANTITIES = {
    "update_to_weight": ("Update to weight", "ratio"),
    "spectral_norm": ("Spectral norm of the weights", "norm"),
    "effective_rank": ("Effective rank of the gradients", "rank"),
    "update_effective_rank": ("Effective rank of the updates", "rank"),
}
#: Records as `read_metrics` returns them: (step, layer -> quantity -> value).
Records = Sequence[tuple[int, Mapping[str, Mapping[str, float]]]]


def layer_charts(recorded: Mapping[str, tuple[Records, int]], *, each: bool = False) -> list[Chart]:
    """Return a chart of each quantity that was recorded.

    Only matrices count, for a vector has rank one; a record of vectors alone is shown as it is.

    Args:
        recorded: Name of a run -> its records and its color.
        each: Draw every layer as a faint line of its own, in place of the range.
    """
    charts = []
    for key, (title, unit) in QUANTITIES.items():
        curves = [
            curve for name, (records, color) in recorded.items() for curve in _curves(name, records, key, color, each)
        ]
        if curves:
            what = "median of the matrices, and each" if each else "median and range of the matrices"
            charts.append(Chart(f"{title}, {what}", unit, curves, x_title="step"))
    return charts


def _curves(name: str, records: Records, key: str, color: int, each: bool) -> list[Curve]:
    matrices = {layer for _, layers in records for layer, values in layers.items() if "spectral_norm" in values}
    kept = [
        (step, {n: v[key] for n, v in layers.items() if key in v and (n in matrices or not matrices)})
        for step, layers in records
    ]
    kept = [(step, values) for step, values in kept if values]
    if not kept:
        return []
    steps = np.array([step for step, _ in kept], dtype=np.float64)
    low, middle, high = np.array([np.quantile(list(values.values()), [0, 0.5, 1]) for _, values in kept]).T
    median = Curve(name, {OWN: steps}, middle, color, "points", None if each else (low, high))
    if not each:
        return [median]
    layers = dict.fromkeys(layer for _, values in kept for layer in values)
    lines = [np.array([values.get(layer, np.nan) for _, values in kept]) for layer in layers]
    faint = [Curve(layer, {OWN: steps}, line, color, "faint") for layer, line in zip(layers, lines, strict=True)]
    return [*faint, median]
