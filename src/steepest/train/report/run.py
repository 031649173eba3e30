# SPDX-License-Identifier: Apache-2.0
"""A run folder as its reports see it: whatever is there, and None for what is not there yet."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from steepest.train.report.metrics import METRICS_FILE, Metrics, as_float, last, read_metrics

LOSS_FIGURE = "loss.png"
HTML_REPORT = "report.html"


@final
@dataclasses.dataclass(frozen=True)
class Run:
    """One training run, read from its folder.

    Attributes:
        path: The folder.
        metrics: What it measured so far.
        config: Its frozen configuration; empty when the file is missing.
        environment: Versions and hardware; empty when the file is missing.
        summary: What the run wrote at its end; None while it is going or when it was killed.
        sample: Text that the model wrote at the end; None before that.
    """

    path: Path
    metrics: Metrics
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Mapping[str, Any] | None
    sample: str | None

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def status(self) -> str:
        """`finished`, `interrupted`, `failed`, or `unfinished` for a run without a summary."""
        return "unfinished" if self.summary is None else str(self.summary.get("status", "unfinished"))

    @property
    def bits_per_byte(self) -> float | None:
        """The validation loss in bits per byte: of the summary, else of the last evaluation."""
        return self.number("bits_per_byte", last(self.metrics.eval["bits_per_byte"]))

    @property
    def baselines(self) -> dict[str, float]:
        """Name -> bits per byte of the compressors and n-gram models measured on the same split."""
        baselines = (self.summary or {}).get("baselines")
        pairs = baselines.items() if isinstance(baselines, dict) else ()
        return {str(name): as_float(value) for name, value in pairs if isinstance(value, int | float)}

    def number(self, key: str, otherwise: float | None = None) -> float | None:
        """Return a number of the summary, or `otherwise` when it has none."""
        value = (self.summary or {}).get(key)
        return as_float(value) if isinstance(value, int | float) else otherwise


def read_run(folder: str | Path) -> Run:
    """Read a run folder, live or finished.

    Args:
        folder: The run folder; `metrics.jsonl` must be there, every other file may be missing.

    Returns:
        The run.

    Raises:
        FileNotFoundError: The folder or its `metrics.jsonl` does not exist.
        ValueError: A file is damaged; the message names it.
    """
    path = Path(folder)
    if not (path / METRICS_FILE).is_file():
        raise FileNotFoundError(2, "Not a run folder: there is no metrics.jsonl", str(path))
    sample = path / "sample.txt"
    return Run(
        path=path,
        metrics=read_metrics(path),
        config=_read_object(path / "config.json") or {},
        environment=_read_object(path / "environment.json") or {},
        summary=_read_object(path / "summary.json"),
        sample=sample.read_text(encoding="utf-8", errors="replace") if sample.is_file() else None,
    )


def _read_object(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected a JSON object ({error}); restore the file or remove it") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}; restore the file or remove it")
    return value
