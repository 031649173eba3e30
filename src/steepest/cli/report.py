# SPDX-License-Identifier: Apache-2.0
"""`steepest report`."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, live or finished.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The page that compares several runs.")] = Path(
        "comparison.html"
    ),
) -> None:
    """Draw the picture and the page of a run again, or compare several runs on one page.

    `steepest report runs/first` writes `loss.png` and `report.html` into the folder; it also works while the run is
    going.

    `steepest report runs/first runs/second --out comparison.html` lays the curves of the runs over one another, and
    lists their final numbers and what differed in their configurations.

    Every page is one file that needs no network: open it in a browser, send it, print it.
    """
    from steepest.train.report import write_comparison, write_html_report, write_loss_figure

    if len(runs) > 1:
        typer.echo(write_comparison(runs, out))
        return
    typer.echo(write_loss_figure(runs[0]))
    typer.echo(write_html_report(runs[0]))
