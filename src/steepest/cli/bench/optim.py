# SPDX-License-Identifier: Apache-2.0
"""`steepest bench optim`."""

from pathlib import Path
from typing import Annotated

import typer


def optim(
    only: Annotated[
        list[str] | None, typer.Option("--only", help="An optimizer (muon, 'torch Muon', ...); repeat for several.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Only the small sets, and less time for each.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results (JSON).")] = Path("bench-optim"),
) -> None:
    """Time a step of each optimizer beside torch's, on three sets of parameters.

    `steepest bench optim --quick` gives a first answer. `steepest bench optim --only muon --only 'torch Muon'` compares
    two; torch's fused AdamW is always there.

    The sets: 16 squares of 256, the parameters of a Llama of 58 million, 200 vectors of 64. All run in one process, in
    turn; times are medians, quartiles and versions are in the JSON file. Close other programs first
    (`steepest doctor` says whether something else is using the machine).
    """
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from steepest.bench import Record
    from steepest.bench import optim as theme

    names = theme.chosen(only or [])
    sets = [name for name in theme.SETS if not (quick and name.startswith("Llama"))]
    console = Console(highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring the machine")
        record = Record(f"optimizers_threads{threads}", threads=threads)
        for name in theme.measure(record, names, sets, seconds=0.3 if quick else 1.0):
            progress.update(task, description=name)
    console.print(theme.table(record))
    console.print(str(record.save(out)))
