# SPDX-License-Identifier: Apache-2.0
"""What a run measured: its `metrics.jsonl`, read into columns, and the smoothing that its pictures use."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

Column = npt.NDArray[np.float64]

METRICS_FILE = "metrics.jsonl"
KINDS = ("train", "eval", "layers")
#: What every line has; without these a curve has no place on the page.
REQUIRED = ("step", "tokens", "seconds", "bits_per_byte")


@final
@dataclasses.dataclass(frozen=True)
class Metrics:
    """The measurements of one run, as columns of equal length.

    Attributes:
        train: Column name -> values, one value a logged training step; NaN where a line lacks the column.
        eval: The same for the evaluations on the validation set.
        truncated: The file ends in the middle of a line, as that of a killed (or still writing) run may.
        layers: (step, layer -> quantity -> value) of the steps whose layers were recorded.
    """

    train: Mapping[str, Column]
    eval: Mapping[str, Column]
    truncated: bool = False
    layers: tuple[tuple[int, Mapping[str, Mapping[str, float]]], ...] = ()


def read_metrics(run: str | Path) -> Metrics:
    """Read the metrics of a run folder.

    A half line at the very end is left out and reported in `truncated`. Steps that a resumed run did again replace the
    first attempt, so that every step counts once.

    Args:
        run: A run folder that holds `metrics.jsonl`.

    Returns:
        The columns, in order of steps. A run that has logged nothing yet gives columns of length 0.

    Raises:
        FileNotFoundError: The folder has no `metrics.jsonl`.
        ValueError: A line other than an unfinished last one is not a JSON object with the expected keys; the message
            names the file and the line.
    """
    path = Path(run) / METRICS_FILE
    text = path.read_bytes()
    truncated = bool(text) and not text.endswith(b"\n")
    lines = text.split(b"\n")
    tail = lines.pop() if lines else b""
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _append(rows, _parse(line, f"{path}:{number}"))
    if truncated:
        try:  # only the newline may be missing: then the line is whole
            _append(rows, _parse(tail, str(path)))
            truncated = False
        except ValueError:
            pass
    layers = tuple((int(row["step"]), row["layers"]) for row in rows["layers"] if isinstance(row.get("layers"), dict))
    return Metrics(_columns(rows["train"]), _columns(rows["eval"]), truncated, layers)


_LARGEST_STEP = 2**63


def _parse(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{place}: expected one JSON object a line, got {line[:60]!r} ({error}); remove the line"
        ) from None
    if not isinstance(row, dict) or row.get("kind") not in KINDS:
        raise ValueError(f"{place}: expected an object whose `kind` is one of {KINDS}, got {line[:60]!r}")
    for key in REQUIRED:
        if not isinstance(row.get(key), int | float | None) or (key == "step" and row.get(key) is None):
            raise ValueError(f"{place}: expected a number for `{key}`, got {row.get(key)!r}")
    if not abs(row["step"]) < _LARGEST_STEP:
        raise ValueError(f"{place}: expected a step below {_LARGEST_STEP}, got {line[:60]!r}")
    return row


def _append(rows: dict[str, list[dict[str, Any]]], row: dict[str, Any]) -> None:
    column = rows[row["kind"]]
    # A resumed run starts again at its checkpoint: what the first attempt logged from there on is done again.
    while column and column[-1]["step"] >= row["step"]:
        column.pop()
    column.append(row)


def _columns(rows: list[dict[str, Any]]) -> dict[str, Column]:
    names = dict.fromkeys((*REQUIRED, *(name for row in rows for name in row if name != "kind")))
    return {name: np.array([as_float(row.get(name)) for row in rows], dtype=np.float64) for name in names}


def as_float(value: object) -> float:
    """Return a number of a file as a float; NaN for what is none, or has more digits than a float can hold."""
    try:
        return float(value) if isinstance(value, int | float) else float("nan")
    except OverflowError:
        return float("nan")


def smooth(values: Column, half_width: int) -> Column:
    """Return a moving average that neither lags nor flattens the steep beginning of a loss curve.

    The window is centred and `half_width` wide on either side; near the start it shrinks on both sides alike, near the
    end it keeps its left side.

    Args:
        values: One curve; NaN and infinite entries are left out of the averages they would be part of.
        half_width: Points on either side, at least 0; 0 returns the values.

    Returns:
        An array of the same length; NaN where a window holds no finite value.

    Raises:
        ValueError: `half_width` is negative.
    """
    if half_width < 0:
        raise ValueError(f"half_width must be at least 0, got {half_width}")
    n = len(values)
    index = np.arange(n)
    half = np.minimum(index, half_width)
    low, high = index - half, np.minimum(index + half, n - 1) + 1
    finite = np.isfinite(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    count = np.concatenate([[0], np.cumsum(finite)])
    inside = count[high] - count[low]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(inside > 0, (total[high] - total[low]) / np.maximum(inside, 1), np.nan)


def thin(n: int, most: int) -> npt.NDArray[np.intp]:
    """Return at most `most` evenly spread indices below `n`, the first and the last among them.

    Args:
        n: Length of the curve, at least 0.
        most: How many points to keep, at least 2.

    Returns:
        Increasing indices.
    """
    if n <= most:
        return np.arange(n)
    return np.unique(np.linspace(0, n - 1, most).round().astype(np.intp))


def last(column: Column | None) -> float | None:
    """Return the last finite value of a column, or None."""
    if column is None:
        return None
    finite: Iterator[float] = (float(value) for value in column[::-1] if np.isfinite(value))
    return next(finite, None)
