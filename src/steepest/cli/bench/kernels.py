# SPDX-License-Identifier: Apache-2.0
"""`steepest bench kernels`."""

from pathlib import Path
from typing import Annotated

import typer


def kernels(
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="A group (softmax, elementary, ...) or a function (exp, ...); repeat for several."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads, and processors that may be used.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Half a minute: fewer and smaller cases, and no torch.compile.")
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the results (JSON) and the figure (PNG).")] = Path(
        "bench-kernels"
    ),
) -> None:
    """Time each CPU kernel beside torch, torch.compile (with a C++ compiler), onnxruntime and jax (if installed).

    `steepest bench kernels --quick` gives a first answer; without `--quick` it takes several minutes, on a machine
    that should do nothing else (`steepest doctor` says whether it does).

    `steepest bench kernels --only softmax --only exp --threads 2` times some of them with two threads.

    The table shows ns/element, the useful traffic in GB/s and as a share of what copying memory reaches on this
    machine, and how many times as long each peer takes. All run in one process, in turn; times are medians. The
    quartiles, versions and the processor are in the JSON file.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from steepest.bench import Record, show
    from steepest.bench import kernels as theme

    wanted = theme.chosen(only or [], quick=quick)
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring the machine", total=len(wanted))
        record = Record(f"kernels_threads{threads}", threads=threads)
        for done, case in enumerate(theme.measure(record, wanted, quick=quick)):
            progress.update(task, completed=done, description=" ".join(list(case.key.values())[1:]))
    console.print(show.table(record))
    path = record.save(out)
    figure = path.with_suffix(".png")
    show.plot(record, figure)
    console.print(f"{path}\n{figure}")
