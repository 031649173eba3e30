# SPDX-License-Identifier: Apache-2.0
"""`steepest design`: make coefficient lists for polar iterations, certify them and draw them."""

import pathlib
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Design and certify the iterations behind spectral-norm optimizers.")


@app.callback()
def _group() -> None:
    pass


@app.command()
def polar(
    method: Annotated[str, typer.Option(help="minimax, fixed-point, gradient, or published (compare lists only).")] = (
        "minimax"
    ),
    steps: Annotated[int, typer.Option(help="Number of polynomials, 1 to 20.")] = 5,
    interval: Annotated[tuple[float, float], typer.Option(help="Singular values after scaling: L U.")] = (1e-3, 1.0),
    safety: Annotated[float, typer.Option(help="Every step but the last is applied to x / SAFETY; 1 to 2.")] = 1.0,
    degree: Annotated[int, typer.Option(help="Odd degree of each polynomial: 3, 5, 7 or 9.")] = 5,
    radii: Annotated[
        tuple[float, float] | None, typer.Option(help="L R of the fixed-point recipe; searched for when left out.")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="A published list to draw beside it; repeat, or 'all'.")
    ] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="Draw the curves to this .png or .svg file.")] = None,
) -> None:
    """Design a polar iteration, print its coefficients and its certificate, and draw its error over the spectrum.

    Example: steepest design polar --method minimax --steps 5 --interval 1e-3 1 --compare muon --out curves.png
    """
    from steepest.cli import _design_report as report
    from steepest.geometry.certify import certify
    from steepest.geometry.design import design_iteration
    from steepest.geometry.polar_coefficients import PUBLISHED

    names = list(PUBLISHED) if compare and "all" in compare else list(compare or [])
    if method == "published":
        names = names or list(PUBLISHED)
    published = {name: report.published_rows(name, steps) for name in names}
    if out is not None:
        report.check_figure(out)
    curves = {}
    if method != "published":
        iteration = design_iteration(
            method,  # pyright: ignore[reportArgumentType]  # checked, with a message, by the function
            steps=steps,
            interval=interval,
            safety=safety,
            degree=degree,
            radii=radii,
        )
        curves[iteration.name] = iteration.coefficients
        report.print_coefficients(iteration)
    curves |= published
    report.print_certificates({name: certify(rows, interval=interval, tol=0.999) for name, rows in curves.items()})
    if out is not None:
        report.draw(curves, out, lower=interval[0], upper=interval[1])
        typer.echo(f"curves: {out}")
