# SPDX-License-Identifier: Apache-2.0
"""What `steepest discover --precision float32` shows: errors in ulp, speed, a figure."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from steepest.discover import Program, Target
from steepest.discover.float32 import exhaustive, largest_error, polynomials
from steepest.discover.kernel import relative_time
from steepest.discover.plot import draw_fronts
from steepest.discover.printing import formula, numba_kernel
from steepest.evolve import Member
from steepest.train.files import write_json

_POINTS, _HIGHEST_DEGREE, _WORTH_ALL = 50001, 8, 2.0


def publish(target: Target, front: Sequence[Member[Program]], folder: Path, *, code: bool, every: bool) -> None:
    """Judge the front on many float32 numbers, time it, print it, and write `front.json` and `front.png`.

    Args:
        target: What is approximated.
        front: What the search found.
        folder: Gets the files.
        code: Print the Numba kernel of the most accurate program too.
        every: Try every float32 of the interval for programs below 2 ulp.

    Raises:
        ValueError: If the search found nothing.
    """
    if not front:
        raise ValueError("the search found no program that works: give it more generations")
    found = [_row(member.genome, target, every) for member in front]
    compared = [_row(program, target, False) for program in polynomials(target, _HIGHEST_DEGREE)]
    console = Console(soft_wrap=True)
    console.print(_table(found, "found"), _table(compared, "Horner, fused, last bits tuned"))
    write_json(folder / "front.json", {"function": target.name, "interval": list(target.ends), "programs": found})
    series = {
        "found": [(row["relative_time"], row["ulp"]) for row in found],
        "minimax polynomial, Horner in fma": [(row["relative_time"], row["ulp"]) for row in compared],
    }
    labels = ("time of the compiled loop, degree-6 polynomial = 1", "largest error, ulp of float32")
    title = f"{target.name} on {list(target.ends)} in float32"
    draw_fronts(series, folder / "front.png", title=title, labels=labels)
    console.print(f"{folder / 'front.json'}, {folder / 'front.png'}", highlight=False)
    if code:
        best = min(front, key=lambda member: member.objectives[0])
        console.print(numba_kernel(best.genome, target.name), markup=False)


def _row(program: Program, target: Target, every: bool) -> dict:
    x = np.linspace(*target.ends, _POINTS, dtype=np.float32)
    error = largest_error(program, target, np.append(x, np.float32(0)) if x[0] <= 0 <= x[-1] else x)
    proof = asdict(exhaustive(program, target)) if every and error < _WORTH_ALL else None
    return {
        "program": program.to_json(),
        "formula": formula(program),
        "ulp": error,
        "exhaustive": proof,
        "relative_time": relative_time(program, target.ends),
    }


def _table(rows: Sequence[dict], title: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("time", "ulp, sampled", "ulp, every float32", "program"):
        table.add_column(column, overflow="fold")
    for row in rows:
        proven = f"{row['exhaustive']['ulp']:.4f}" if row["exhaustive"] else "not tried"
        table.add_row(f"{row['relative_time']:.2f}", f"{row['ulp']:.4g}", proven, row["formula"])
    return table
