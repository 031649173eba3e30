# SPDX-License-Identifier: Apache-2.0
"""`steepest compare`."""

import signal
import sys
from pathlib import Path
from typing import Any

import typer

#: Options that are rules of a comparison; the others only say how to run it.
_RULES = (
    *("task", "model", "steps", "trials", "extra", "seeds", "baseline", "target", "alpha"),
    *("space", "share", "prune", "set_"),
)


def compare(
    context: typer.Context,
    methods: list[str] = typer.Argument(None, metavar="OPTIMIZER...", help="For example: adamw muon 'sinkgd alpha=1'."),
    out: Path = typer.Option(Path("comparison"), "--out", "-o", help="Folder; one that exists is continued."),
    workers: int = typer.Option(0, help="Runs at a time; 0 takes one a core. They do not change the outcome."),
    storage: str = typer.Option("", help="Optuna storage URL, for machines that share no folder. Default: search.db."),
    task: str = typer.Option("text", help="`text`, `digits`, `tabular`, or module:function of your own."),
    model: str = typer.Option("nano", help="Size of the text model: nano, micro, tiny, mini, small, ..."),
    steps: int = typer.Option(None, help="Optimizer steps of a run."),
    trials: int = typer.Option(None, help="Runs of each method's search."),
    extra: int = typer.Option(None, help="More runs for each method if a best one lies at the edge of its range."),
    seeds: int = typer.Option(None, help="Final runs of each method, with seeds 1, 2, ..."),
    baseline: str = typer.Option("", help="Method that the others are tested against. Default: the first."),
    target: float = typer.Option(None, help="Loss whose tokens are counted. Default: the baseline's mean final loss."),
    alpha: float = typer.Option(0.02, help="Largest corrected p that counts as a difference."),
    space: list[str] = typer.Option([], help="'muon: lr=1e-3..0.1 momentum=0.8..0.98'; may be repeated."),
    share: list[str] = typer.Option([], help="'muon=0.667': part of the steps; may be repeated."),
    prune: float = typer.Option(
        None, metavar="PERCENT", help="Stop runs of the search that are not among this best part; 50 is the median."
    ),
    set_: list[str] = typer.Option([], "--set", metavar="SECTION.KEY=VALUE", help="Any setting of the runs."),
    freeze: bool = typer.Option(False, "--freeze", help="Write the file of rules and run nothing."),
) -> None:
    """Compare optimizers under rules that are fixed before the first run.

    Writes `comparison.json` (data, model, budget, search spaces, seeds, tests), tunes every method with equally many
    runs, runs the best of each with fresh seeds, and prints a table. Call it again to continue after an interruption.

    Examples:
    * `steepest compare adamw muon sinkgd` on the shipped text

    * `steepest compare --out comparison` continues

    * `steepest compare adamw muon --share muon=0.667` asks whether Muon gets there in two thirds of the steps

    * `steepest compare adamw sgd --task digits`
    """
    from steepest.lab.comparison import Pruning, read, write
    from steepest.lab.page import write_page
    from steepest.lab.runner import run_all
    from steepest.lab.table import outcome, rich_tables
    from steepest.train.machine import cores

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that its processes end with it
    if workers < 0:
        raise ValueError(f"--workers: expected a number of at least 0, got {workers}")
    if not methods:
        _continued(context, out)
    else:
        count = {"steps": steps, "trials": trials, "extra": extra, "seeds": seeds}
        rest = {"task": task, "target": target, "alpha": alpha, "baseline": baseline or methods[0]}
        rest["pruning"] = None if prune is None else Pruning(prune)
        write(_rules(methods, model, count, rest, (space, share, set_)), out)
    rules = read(out)
    typer.echo(f"{out / 'comparison.json'}  the rules, {rules.digest[:12]}")
    if freeze:
        return
    run_all(out, rules, workers=workers or cores(), storage=storage, tell=typer.echo)
    _show(rich_tables(outcome(out, rules)))
    for path in write_page(out, rules):
        typer.echo(path)


def _continued(context: typer.Context, out: Path) -> None:
    """Refuse to continue what is not there, and rules that would be ignored."""
    if not (out / "comparison.json").is_file():
        raise ValueError(
            f"expected optimizers to compare, as in `steepest compare adamw muon`, or --out with a comparison to "
            f"continue; {out} holds none"
        )
    given = [name for name in _RULES if context.get_parameter_source(name).name != "DEFAULT"]  # pyright: ignore[reportOptionalMemberAccess]
    if given:
        names = ", ".join(f"--{name.rstrip('_')}" for name in given)
        raise ValueError(
            f"{names}: the rules of {out} stay as they are; leave that out to continue it, or name the optimizers and "
            "another --out to start a new comparison"
        )


def _rules(
    methods: list[str], model: str, count: dict[str, Any], rest: dict[str, Any], lists: tuple[list[str], ...]
) -> Any:
    from steepest.cli._modules import modules_from_here
    from steepest.lab import setup
    from steepest.lab.comparison import Comparison

    space, share, set_ = lists
    default = {
        "steps": setup.DEFAULT_STEPS,
        "trials": setup.DEFAULT_TRIALS,
        "extra": setup.DEFAULT_EXTRA,
        "seeds": setup.DEFAULT_SEEDS,
    }
    count = {key: default[key] if value is None else value for key, value in count.items()}
    found = setup.methods_of(methods, space, share)
    modules_from_here()
    run, rest["data"] = setup.with_task(setup.base_config(model, count["steps"], set_), rest["task"])
    return Comparison(
        run=run,
        methods=found,
        trials=count["trials"],
        extra_trials=count["extra"],
        seeds=tuple(range(1, count["seeds"] + 1)),
        **rest,
    )


def _show(table: Any) -> None:
    from rich.console import Console

    Console().print(table)
