# SPDX-License-Identifier: Apache-2.0
"""The metrics of runs for other tools: a table (CSV, Parquet), TensorBoard, MLflow, Weights & Biases."""

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steepest.lab.comparison import FILE
from steepest.lab.trial import RUNS
from steepest.train import files
from steepest.train.report.comparison import short_names
from steepest.train.report.html import flatten
from steepest.train.report.run import METRICS_FILE, Run, read_run

COLUMNS = ("run", "kind", "step", "tokens", "seconds", "layer", "metric", "value")
_AXES = ("step", "tokens", "seconds")


def export(folders: Sequence[str | Path], to: str) -> Path:
    """Write all metrics of runs for another tool.

    Args:
        folders: Run folders; a comparison's folder stands for all of its runs.
        to: A file `*.csv` or `*.parquet`, or one of `tensorboard:FOLDER`, `mlflow:FOLDER`, `wandb:FOLDER`. MLflow
            writes the folder of a file store or, for `mlflow:FILE.db`, SQLite; Weights & Biases works offline: upload
            with `wandb sync`.

    Returns:
        The file or folder.

    Raises:
        FileNotFoundError: If a folder holds no run.
        ModuleNotFoundError: If the tool is not installed; the message says how to install it.
        ValueError: If `to` is none of these.

    Example:
        >>> export(["runs/first"], "metrics.csv")  # doctest: +SKIP
        PosixPath('metrics.csv')
    """
    tool, colon, place = to.partition(":")
    writers: dict[str, Callable[[dict[str, Run], Path], None]] = {
        "csv": _csv,
        "parquet": _parquet,
        "tensorboard": _tensorboard,
        "mlflow": _mlflow,
        "wandb": _wandb,
    }
    if not colon:
        tool, place = Path(to).suffix[1:], to
    if tool not in writers or not place or (colon and tool in ("csv", "parquet")):
        raise ValueError(
            f"--export: expected a file .csv or .parquet, tensorboard:FOLDER, mlflow:FOLDER or wandb:FOLDER, got {to!r}"
        )
    writers[tool](runs_of(folders), Path(place))
    return Path(place)


def runs_of(folders: Sequence[str | Path]) -> dict[str, Run]:
    """Return the runs of folders by short names; a comparison's folder stands for its runs that have begun."""
    found: list[Path] = []
    for folder in map(Path, folders):
        inner = sorted((folder / RUNS).glob(f"*/{METRICS_FILE}")) if (folder / FILE).is_file() else []
        found += [path.parent for path in inner] or [folder]
    runs = [read_run(folder) for folder in found]
    return dict(zip(short_names(runs), runs, strict=True))


def rows_of(name: str, run: Run) -> Iterator[tuple[Any, ...]]:
    """Return the measurements of a run, one a row as in `COLUMNS`; what is not finite is left out.

    Args:
        name: Of the run.
        run: The run.

    Yields:
        Training, then evaluations, then layers, by step. `tokens` and `seconds` of a layer's row are None.
    """
    for kind, columns in (("train", run.metrics.train), ("eval", run.metrics.eval)):
        for index in range(len(columns["step"])):
            step, tokens, seconds = (float(columns[axis][index]) for axis in _AXES)
            for metric, values in columns.items():
                if metric not in _AXES and math.isfinite(values[index]):
                    yield name, kind, int(step), tokens, seconds, "", metric, float(values[index])
    for step, layers in run.metrics.layers:
        for layer, values in layers.items():
            for metric, value in values.items():
                if math.isfinite(value):
                    yield name, "layers", step, None, None, layer, metric, float(value)


def _all_rows(runs: dict[str, Run]) -> Iterator[tuple[Any, ...]]:
    for name, run in runs.items():
        yield from rows_of(name, run)


def _csv(runs: dict[str, Run], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_all_rows(runs))
    files.write_bytes(path, text.getvalue().encode())


def _parquet(runs: dict[str, Run], path: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise _missing("parquet", "pyarrow") from None
    text, real = pa.string(), pa.float64()
    types = dict(zip(COLUMNS, (text, text, pa.int64(), real, real, text, text, real), strict=True))
    columns = list(zip(*_all_rows(runs), strict=True)) or [()] * len(COLUMNS)
    table = pa.table(
        {name: pa.array(column, types[name]) for name, column in zip(COLUMNS, columns, strict=True)},
        schema=pa.schema(list(types.items())),
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    files.write_bytes(path, buffer.getvalue())


def _tag(row: tuple[Any, ...]) -> str:
    _, kind, _, _, _, layer, metric, _ = row
    return "/".join(part for part in (kind, layer, metric) if part)


def _tensorboard(runs: dict[str, Run], folder: Path) -> None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise _missing("tensorboard", "tensorboard") from None
    for name, run in runs.items():
        with SummaryWriter(str(folder / name)) as writer:
            for row in rows_of(name, run):
                writer.add_scalar(_tag(row), row[-1], row[2])


def _mlflow(runs: dict[str, Run], place: Path) -> None:
    try:
        from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise _missing("mlflow", "mlflow") from None
    uri = f"sqlite:///{place.resolve()}" if place.suffix == ".db" else place.resolve().as_uri()
    client = MlflowClient(tracking_uri=uri)
    known = client.get_experiment_by_name("steepest")
    experiment = known.experiment_id if known else client.create_experiment("steepest")
    for name, run in runs.items():
        made = client.create_run(experiment, run_name=name).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in flatten(run.config).items()]
        metrics = [Metric(_tag(row), row[-1], int(1000 * (row[4] or 0)), row[2]) for row in rows_of(name, run)]
        for start in range(0, len(params), 100):
            client.log_batch(made, params=params[start : start + 100])
        for start in range(0, len(metrics), 1000):
            client.log_batch(made, metrics=metrics[start : start + 1000])
        client.set_terminated(made, "FINISHED" if run.summary is not None else "KILLED")


def _wandb(runs: dict[str, Run], folder: Path) -> None:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise _missing("wandb", "wandb") from None
    folder.mkdir(parents=True, exist_ok=True)
    for name, run in runs.items():
        steps: dict[int, dict[str, float]] = {}
        for row in rows_of(name, run):
            steps.setdefault(row[2], {})[_tag(row)] = row[-1]
        settings = {"mode": "offline", "dir": str(folder), "project": "steepest", "name": name}
        with wandb.init(config=flatten(run.config), **settings) as made:
            for step in sorted(steps):
                made.log(steps[step], step=step)


def _missing(extra: str, package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"--export needs {package}: pip install 'steepest[{extra}]'", name=package)
