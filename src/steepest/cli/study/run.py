# SPDX-License-Identifier: Apache-2.0
"""`steepest study run`."""

from pathlib import Path
from typing import Any

import typer


def run(
    names: list[str] = typer.Argument(None, metavar="KEY...", help="Of studies; `steepest study list` has them."),
    every: bool = typer.Option(False, "--all", help="All studies."),
    full: bool = typer.Option(False, "--full", help="Minutes to an hour in place of seconds."),
    seed: int = typer.Option(0, help="Of everything random. Kept records have 0."),
    out: Path = typer.Option(Path("studies"), "--out", "-o", help="Folder for the record and the figure."),
    record: bool = typer.Option(
        False, "--record", help="In a checkout: replace the kept record, then `steepest study ledger --write .`."
    ),
) -> None:
    """Measure the claims of a study; print their number, ours, and whether it held.

    Writes `STUDY.BUDGET.json` (numbers, seed, versions, hardware, duration) and `STUDY.png`. A full run keeps its parts
    beside them and goes on after an interruption. Exits with 1 if a verdict is not that of the kept record.

    Examples:
    * `steepest study run exp_accuracy`

    * `steepest study run --all` all of them in a minute, as the tests do

    * `steepest study run muon_vs_adamw --full --out studies`
    """
    from steepest import studies

    if bool(names) == every:
        raise ValueError("give the keys of studies, or --all; `steepest study list` has them")
    budget = "full" if full else "quick"
    chosen = studies.find() if every else [studies.get(name) for name in names]
    different = []
    for study in chosen:
        if full and not study.has_full:
            continue
        typer.echo(f"{study.key}: {study.question}")
        made = studies.run(study, budget, seed=seed, folder=out / study.key if full else None, tell=_tell)
        _print(study, made)
        different += [] if record else studies.changed(made)
        typer.echo(studies.save(made, studies.RECORDS if record else out))
        if studies.numbers(made) and not record:
            studies.save_figure(study.draw(studies.numbers(made)), out / f"{study.key}.png")
            typer.echo(out / f"{study.key}.png")
    for line in different:
        typer.echo(f"changed: {line}", err=True)
    if different:
        raise typer.Exit(1)


def _tell(line: str) -> None:
    typer.echo(f"  {line}", err=True)


def _print(study: Any, made: dict[str, Any]) -> None:
    for claim in study.claims:
        entry = made["claims"][claim.key]
        ours = claim.ours.format(**entry["numbers"]) if entry["numbers"] else entry["why"]
        typer.echo(f"  {claim.statement}")
        typer.echo(f"    theirs: {claim.number}")
        typer.echo(f"    ours:   {ours}")
        typer.echo(f"    {entry['verdict']}")
    typer.echo(f"  {made['seconds']:.1f} s")
