# SPDX-License-Identifier: Apache-2.0
"""What `steepest discover` shows: a live line, a table with proofs, a figure."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from steepest.discover import Options, Program, Settings, Target
from steepest.discover.baselines import fronts, known_exp2
from steepest.discover.found import Found, prove, sampled_error, sort_front
from steepest.discover.plot import draw_fronts
from steepest.discover.printing import c, formula, python
from steepest.discover.search import ProgramProblem
from steepest.evolve import Member, Processes, RayCluster, Serial, State, Workers, evolve
from steepest.train.files import write_json


def search(
    problem: ProgramProblem, settings: Settings, *, workers: int, ray: str | None, folder: Path
) -> list[Member[Program]]:
    """Run the search with a live table on standard error, and return its front.

    Args:
        problem: What is approximated, and what programs are made of.
        settings: Sizes and budget.
        workers: Processes.
        ray: Address of a Ray cluster, "local", or None.
        folder: Gets `checkpoint.json`.

    Returns:
        The front: programs with their objectives.
    """
    console = Console(stderr=True)
    checkpoint = folder / "checkpoint.json"
    pool = _pool(workers, ray)
    try:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            state = evolve(
                problem,
                settings,
                workers=pool,
                checkpoint=checkpoint,
                report=lambda state: live.update(_progress(problem, state, settings)),
            )
    finally:
        pool.close()
    console.print(f"{state.evaluations} programs in {state.generation} generations; {checkpoint}", highlight=False)
    return state.front


def _pool(workers: int, ray: str | None) -> Workers:
    if ray is not None:
        return RayCluster(None if ray == "local" else ray, workers)
    return Serial() if workers == 1 else Processes(workers)


def _progress(problem: ProgramProblem, state: State[Program], settings: Settings) -> Table:
    front = state.front
    table = Table(
        title=f"generation {state.generation}/{settings.generations} · {state.evaluations} tried · front {len(front)}",
        title_justify="left",
    )
    table.add_column("cost")
    table.add_column("largest error")
    for member in front:
        table.add_row(f"{member.objectives[1]:.4g}", problem.readable(member))
    return table


def publish(target: Target, options: Options, front: Sequence[Member[Program]], folder: Path, *, code: bool) -> None:
    """Polish and prove the front, print it, and write `front.json` and `front.png`.

    Args:
        target: What is approximated.
        options: Of the search.
        front: What it found.
        folder: Gets the files.
        code: Print Python and C of the most accurate program too.

    Raises:
        ValueError: If the search found nothing.
    """
    if not front:
        raise ValueError("the search found no program that works: give it more generations")
    found = sort_front([prove(member.genome, target, options.costs) for member in front])
    console = Console(soft_wrap=True)
    console.print(_table(found))
    write_json(folder / "front.json", [item.to_json() for item in found])
    most = max(2, int(options.max_cost))
    series = {"found": [(item.cost, item.error) for item in found]}
    for name, programs in fronts(target, most).items():
        series[name] = [(p.cost(options.costs), sampled_error(p, target)) for p in programs]
    stars = {}
    if target.name == "exp2":
        known = prove(known_exp2(), target, options.costs)
        stars = {"published, 10 operations": (known.cost, known.error)}
    draw_fronts(series, folder / "front.png", title=f"{target.name} on {list(target.ends)}", stars=stars)
    console.print(f"{folder / 'front.json'}, {folder / 'front.png'}", highlight=False)
    if code:
        console.print(python(found[-1].program, target.name), c(found[-1].program, target.name), markup=False)


def _table(found: Sequence[Found]) -> Table:
    table = Table(title="Largest error, proven where the column says so", title_justify="left")
    for column in ("cost", "error", "proven", "program"):
        table.add_column(column, overflow="fold")
    for item in found:
        proven = f"{item.certificate.bound:.3e}" if item.certificate else "no"
        table.add_row(f"{item.cost:g}", f"{item.error:.3e}", proven, formula(item.program))
    return table
