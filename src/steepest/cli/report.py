# SPDX-License-Identifier: Apache-2.0
"""`steepest report`."""

import time
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, live or finished.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page that compares several runs.")] = Path(
        "comparison.html"
    ),
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Draw again every few seconds until it ends.")] = False,
    export: Annotated[
        list[str] | None,
        typer.Option(
            help="Write all metrics to FILE.csv, FILE.parquet, or tensorboard: mlflow: wandb:FOLDER; repeatable."
        ),
    ] = None,
    every: Annotated[float, typer.Option(help="Seconds between drawings with --follow.")] = 20.0,
) -> None:
    """Draw the picture and the page of a run again, or compare several runs on one page.

    `steepest report runs/first` writes `loss.png` and `report.html` into the folder; it also works while the run is
    going.

    `steepest report runs/first runs/second --out comparison.html` lays the curves of the runs over one another, and
    lists their final numbers and what differed in their configurations.

    `steepest report comparison` draws the page, the figures and the table of a comparison (`steepest compare`);
    `steepest report machine-1 machine-2` refuses comparisons of different rules.

    `steepest report runs/first --export metrics.parquet` writes every measurement of the runs, or of all runs of a
    comparison, as one table, or for TensorBoard, MLflow or Weights & Biases, and draws nothing.

    `--follow` draws again while runs are going.

    Every page is one file that needs no network: open it in a browser, send it, print it.
    """
    if not every > 0:
        raise ValueError(f"--every: expected a number of seconds above 0, got {every:g}")
    if export:
        if follow:
            raise ValueError("--export writes what is there once; leave out --follow")
        from steepest.lab.exports import export as write

        for place in export:
            typer.echo(write(runs, place))
        return
    while True:
        ended = _draw(runs, out)
        if not follow or ended:
            return
        _tidy()
        time.sleep(every)


def _tidy() -> None:
    """Collect what a drawing leaves behind, figures in reference cycles among it, lest it adds up for days."""
    import gc

    from steepest.train.memory import keep_freed_memory

    gc.collect()
    keep_freed_memory(False)


def _draw(runs: list[Path], out: Path) -> bool:
    """Draw once; return whether nothing more is to come."""
    from steepest.train.report import read_run, write_comparison, write_html_report, write_loss_figure

    if all((run / "comparison.json").is_file() for run in runs):
        return _draw_comparisons(runs)
    if len(runs) > 1:
        typer.echo(write_comparison(runs, out))
    else:
        typer.echo(write_loss_figure(runs[0]))
        typer.echo(write_html_report(runs[0]))
    return all(read_run(run).summary is not None for run in runs)


def _draw_comparisons(folders: list[Path]) -> bool:
    from rich.console import Console

    from steepest.lab.comparison import same_rules
    from steepest.lab.page import write_page
    from steepest.lab.table import outcome, rich_tables

    rules = same_rules(folders)
    finished = True
    for folder in folders:
        result = outcome(folder, rules)
        Console().print(rich_tables(result))
        for path in write_page(folder, rules):
            typer.echo(path)
        finished &= result.finished
    return finished
