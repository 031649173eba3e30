# SPDX-License-Identifier: Apache-2.0
"""`steepest warmup`: compile every kernel now instead of when it is first called."""

import time

import typer


def warmup(
    quiet: bool = typer.Option(False, "--quiet", "-q", help="Print only the last line."),
) -> None:
    """Compile every CPU kernel and keep the machine code on disk, so that no later call waits for the compiler.

    Example: `steepest warmup` once after installing, or while building a container image.
    """
    from steepest.kernels import warmup as compile_all

    def report(name: str, number: int, total: int) -> None:
        if not quiet:
            typer.echo(f"[{number:3d}/{total}] {name}")

    begun = time.perf_counter()
    count = compile_all(report)
    typer.echo(f"{count} kernels ready in {time.perf_counter() - begun:.1f} s")
