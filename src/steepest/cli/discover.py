# SPDX-License-Identifier: Apache-2.0
"""`steepest discover`: search programs that compute a function with few operations."""

import pathlib
from typing import Annotated

import typer


def discover(
    function: Annotated[str, typer.Argument(help="exp2, exp, log2, erf, tanh, sigmoid or tan.")],
    interval: Annotated[
        tuple[float, float] | None, typer.Option(help="LOW HIGH; the function's own when left out.")
    ] = None,
    measure: Annotated[str | None, typer.Option(help="relative or absolute error.")] = None,
    operations: Annotated[
        str,
        typer.Option(help="Comma-separated: add, sub, mul, div, fma, sqrt, square, double, quadruple, half, quarter."),
    ] = "add,sub,mul,div,square",
    precision: Annotated[
        str, typer.Option(help="real: exact arithmetic; float32: every operation rounded, error in ulp.")
    ] = "real",
    costs: Annotated[
        str,
        typer.Option(
            help="count, textbook (fma is 2), port (vector cycles), or with float32 measured: time of the compiled"
            " loop relative to a degree-6 polynomial."
        ),
    ] = "count",
    max_cost: Annotated[float, typer.Option(help="Dearer programs are not tried.")] = 11.0,
    constants: Annotated[str, typer.Option(help="fit, or cma for CMA-ES.")] = "fit",
    population: Annotated[int, typer.Option(help="Programs kept.")] = 120,
    children: Annotated[int, typer.Option(help="New programs in a generation.")] = 240,
    generations: Annotated[int, typer.Option(help="Where to stop.")] = 1000,
    minutes: Annotated[float | None, typer.Option(help="Stop after this time too.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes of this machine.")] = 1,
    ray: Annotated[str | None, typer.Option(help="Use a Ray cluster: its address, or 'local'.")] = None,
    out: Annotated[pathlib.Path, typer.Option(help="Folder of checkpoint, front.json and front.png.")] = pathlib.Path(
        "discovered"
    ),
    best: Annotated[bool, typer.Option(help="Print code of the most accurate program.")] = False,
    exhaustive: Annotated[
        bool, typer.Option(help="float32: try every number of the interval, for programs below 2 ulp.")
    ] = False,
) -> None:
    """Search, polish the constants, prove the errors, and draw them beside the textbooks.

    An interrupted search goes on when the command is given again.

    Example: steepest discover exp2 --minutes 5 --max-cost 10 --out found
    """
    from steepest.discover import Options, Settings, Target, show, show_float32
    from steepest.discover.program import COSTS
    from steepest.discover.search import ProgramProblem

    measured = precision == "float32" and costs == "measured"
    if precision not in ("real", "float32"):
        raise ValueError(f"precision is real or float32, got {precision!r}")
    if not measured and costs not in COSTS:
        raise ValueError(f"costs are {', '.join(COSTS)}, or measured with --precision float32, got {costs!r}")
    target = Target(function, interval, measure)  # pyright: ignore[reportArgumentType]  # checked by the class
    options = Options(
        tuple(name.strip() for name in operations.split(",")),
        COSTS["port" if measured else costs],
        max_cost,
        constants,  # pyright: ignore[reportArgumentType]  # checked by the class
    )
    seconds = None if minutes is None else minutes * 60
    settings = Settings(population, children, generations, seconds, seed)
    if precision == "float32":
        from steepest.discover.float32 import Float32Problem

        problem = Float32Problem(target, options, measured=measured)
    else:
        problem = ProgramProblem(target, options)
    out.mkdir(parents=True, exist_ok=True)
    front = show.search(problem, settings, workers=workers, ray=ray, folder=out)
    if precision == "float32":
        show_float32.publish(target, front, out, code=best, every=exhaustive)
    else:
        show.publish(target, options, front, out, code=best)
