# SPDX-License-Identifier: Apache-2.0
"""`steepest doctor`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Look at this machine, measure it for a few seconds, and say what is wrong and what to do.

    `steepest doctor` prints versions, processor, memory and disk, measures matrix products, memory and disk, and ends
    with what it found. The exit status is 1 when something is broken, else 0.

    `steepest doctor --json > machine.json` gives the same to a program, or to a bug report.
    """
    from steepest.train import checkup, machine, machine_speed

    environment = machine.describe()
    speed = machine_speed.measure(Path.cwd())
    findings = checkup.diagnose(environment, speed, checkup.probe(Path.cwd()))
    if as_json:
        listed = [{"level": f.level, "what": f.what, "remedy": f.remedy} for f in findings]
        typer.echo(json.dumps({"environment": environment, "speed": speed, "findings": listed}, indent=2))
    else:
        _print(environment, speed, [(f.level, f.what, f.remedy) for f in findings])
    if any(finding.level == "broken" for finding in findings):
        raise typer.Exit(1)


def _print(environment: Mapping[str, Any], speed: Mapping[str, Any], findings: list[tuple[str, str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for title, rows in (("This machine", _environment_rows(environment)), ("Measured now", _speed_rows(speed))):
        table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for name, value in rows:
            table.add_row(Text(name), Text(value))
        console.print(table)
        console.print()
    if not findings:
        console.print(Text("Nothing is wrong.", style="bold green"))
    for level, what, remedy in findings:
        style = "bold red" if level == "broken" else "bold yellow"
        console.print(Text.assemble((f"{level}: ", style), f"{what}.\n    ", (f"→ {remedy}.", "dim")))


def _environment_rows(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    from steepest.train.report.units import size

    cpu, blas, memory = environment["cpu"], environment["blas"], environment["memory"]
    versions = ", ".join(f"{name} {environment[name] or 'missing'}" for name in ("torch", "numpy", "numba"))
    threads = [f"{environment['threads']['torch']} of torch"]
    threads += [f"{name}={value}" for name, value in environment["threads"].items() if name.isupper() and value]
    quota = f", quota of {cpu['quota']:.1f}" if cpu["quota"] is not None else ""
    libraries = [f"{name} {blas[name]}" for name in ("mkl", "onednn") if blas[name]]
    return [
        ("steepest", " ".join(filter(None, [environment["steepest"], environment["git"]]))),
        ("python", environment["python"]),
        ("packages", versions),
        ("system", environment["os"]),
        ("processor", f"{cpu['model'] or 'unknown'}, {cpu['cores']} of {cpu['cores_of_machine']} cores{quota}"),
        ("instructions", f"{' '.join(cpu['features']) or 'unknown'} (torch uses {cpu['torch_capability']})"),
        ("caches", ", ".join(f"{name} {amount}" for name, amount in cpu["caches"].items()) or "unknown"),
        ("threads", ", ".join(threads)),
        ("linear algebra", ", ".join(libraries or [blas["library"] or "unknown"])),
        ("memory", f"{size(memory['available'])} free of {size(memory['limit'])}"),
        ("disk", f"{size(environment['disk']['free'])} free in {environment['disk']['folder']}"),
    ]


def _speed_rows(speed: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for dtype, by_threads in speed["matmul_gflops"].items():
        listed = ", ".join(
            f"{gflops:,.0f} GFLOP/s with {count} thread{'s' * (count != '1')}" for count, gflops in by_threads.items()
        )
        rows.append((f"{dtype} products", listed))
    write = speed["write_mb_per_second"]
    return [
        *rows,
        ("memory copy", f"{speed['copy_gb_per_second']:.1f} GB/s, read plus written"),
        ("disk write", "not possible" if write is None else f"{write:,.0f} MB/s, forced to the disk"),
        ("other load", f"{speed['others']['cores']:.1f} cores busy"),
    ]
