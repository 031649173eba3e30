# SPDX-License-Identifier: Apache-2.0
"""`steepest tune`."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from steepest.lab.transfer import Transfer
    from steepest.lab.tuning import Recommendation


def tune(
    method: str = typer.Argument("muon", metavar="OPTIMIZER", help="For example: adamw, 'sinkgd alpha=1'."),
    out: Path = typer.Option(Path("tuning"), "--out", "-o", help="Folder; one that exists is continued."),
    width: int = typer.Option(None, help="Larger width of the text model to carry the rate to, by muP."),
    model: str = typer.Option("nano", help="Size of the text model: nano, micro, tiny, mini, small, ..."),
    task: str = typer.Option("text", help="`text`, `digits`, `tabular`, or module:function of your own."),
    steps: int = typer.Option(None, help="Optimizer steps of a run."),
    trials: int = typer.Option(None, help="Runs of the search."),
    seeds: int = typer.Option(None, help="Runs of the best rate with fresh seeds."),
    workers: int = typer.Option(0, help="Runs at a time; 0 takes one a core. They do not change the outcome."),
    storage: str = typer.Option("", help="Optuna storage URL, for machines that share no folder. Default: search.db."),
    set_: list[str] = typer.Option([], "--set", metavar="SECTION.KEY=VALUE", help="Any setting of the runs."),
) -> None:
    """Find a learning rate, and say how sure it is.

    A short run with a rising rate says where to look, a search over that range finds the best, and fresh seeds tell how
    far a difference of losses can be trusted. Call it again to continue after an interruption.

    Examples:
    * `steepest tune` finds a rate for Muon on the shipped text

    * `steepest tune adamw --width 256` also says what each kind of parameter gets in a model four times as wide

    * `steepest tune adamw --task digits --steps 300`
    """
    from steepest.cli._modules import modules_from_here
    from steepest.lab import setup, tuning
    from steepest.train.machine import cores

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that its processes end with it
    if workers < 0:
        raise ValueError(f"--workers: expected a number of at least 0, got {workers}")
    if task != "text" and width is not None:
        raise ValueError("--width carries the rate of the text model; leave it out for other tasks")
    (one,) = setup.methods_of([method])
    modules_from_here()
    run, _ = setup.with_task(setup.base_config(model, setup.DEFAULT_STEPS if steps is None else steps, set_), task)
    budget = tuning.Budget(
        trials=setup.DEFAULT_TRIALS if trials is None else trials,
        extra_trials=setup.DEFAULT_EXTRA,
        seeds=setup.DEFAULT_SEEDS if seeds is None else seeds,
        workers=workers or cores(),
        storage=storage,
    )
    _show(tuning.tune(out, one, run, task=task, budget=budget, width=width, tell=typer.echo))
    typer.echo(out / tuning.RECOMMENDATION)


def _show(found: "Recommendation") -> None:
    from rich.console import Console

    best, console = found.optimum, Console()
    console.print(f"[bold]{found.method}: lr {best.lr:.3g}[/bold], adam_lr {found.adam_lr:.3g}")
    console.print(best.explained)
    if best.flat:
        console.print(f"Rates from {best.flat[0]:.3g} to {best.flat[1]:.3g} are within the seeds' spread of the best.")
    loss = "a run with a fresh seed failed" if found.loss is None else f"mean final loss {found.loss:.4f}"
    console.print(
        f"At {best.tried:.3g}, the best rate that was run: {loss}. The range test turned at {found.turning:.3g}."
    )
    if found.transfer:
        console.print(_table(found.transfer))
        console.print(
            "Carried over by theory, not tried at that width; depth, batch and training length stay. Initial values "
            "and rates are multiplied as `steepest.lab.scaling_of` builds and groups them."
        )


def _table(transfer: "Transfer") -> "Table":
    from rich.table import Table

    table = Table(title=f"Width {transfer.base} to {transfer.width}, {transfer.parametrization}")
    for column in ("parameters", "how many", "lr", "lr times", "initial values times"):
        table.add_column(column, justify="left" if column == "parameters" else "right")
    for row in transfer.rows:
        numbers = (f"{value:.4g}" for value in (row.lr, row.lr_factor, row.init_factor))
        table.add_row(row.role, str(row.count), *numbers)
    return table
