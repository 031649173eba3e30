# SPDX-License-Identifier: Apache-2.0
"""`steepest compare`."""

from pathlib import Path
from typing import Any

import typer


def compare(
    methods: list[str] = typer.Argument(None, metavar="OPTIMIZER...", help="For example: adamw muon 'sinkgd alpha=1'."),
    out: Path = typer.Option(Path("comparison"), "--out", "-o", help="Folder; one that exists is continued."),
    workers: int = typer.Option(0, help="Runs at a time; 0 takes one a core. They do not change the outcome."),
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
    from steepest.lab.comparison import read, write
    from steepest.lab.page import write_page
    from steepest.lab.runner import run_all
    from steepest.lab.table import outcome, rich_table
    from steepest.train.machine import cores

    if methods:
        count = {"steps": steps, "trials": trials, "extra": extra, "seeds": seeds}
        rest = {"task": task, "target": target, "alpha": alpha, "baseline": baseline or methods[0]}
        write(_rules(methods, model, count, rest, (space, share, set_)), out)
    rules = read(out)
    typer.echo(f"{out / 'comparison.json'}  the rules, {rules.digest[:12]}")
    if freeze:
        return
    run_all(out, rules, workers=workers or cores(), tell=typer.echo)
    _show(rich_table(outcome(out, rules)))
    for path in write_page(out, rules):
        typer.echo(path)


def _rules(
    methods: list[str], model: str, count: dict[str, Any], rest: dict[str, Any], lists: tuple[list[str], ...]
) -> Any:
    from steepest.lab import setup
    from steepest.lab.comparison import Comparison

    space, share, set_ = lists
    run = setup.base_config(model, count["steps"] or setup.DEFAULT_STEPS, set_)
    if rest["task"] == "text":
        run, rest["data"] = setup.with_data(run)
    seeds = count["seeds"] or setup.DEFAULT_SEEDS
    return Comparison(
        run=run,
        methods=setup.methods_of(methods, space, share),
        trials=count["trials"] or setup.DEFAULT_TRIALS,
        extra_trials=setup.DEFAULT_EXTRA if count["extra"] is None else count["extra"],
        seeds=tuple(range(1, seeds + 1)),
        **rest,
    )


def _show(table: Any) -> None:
    from rich.console import Console

    Console().print(table)
