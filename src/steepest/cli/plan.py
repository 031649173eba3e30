# SPDX-License-Identifier: Apache-2.0
"""`steepest plan`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from steepest.cli._settings import settings_of

if TYPE_CHECKING:
    from steepest.train.config import RunConfig


def plan(
    model: str = typer.Option("", help="Model, as for `steepest train`: tiny, base, 1b, ngpt-tiny, ..."),
    memory_limit: str = typer.Option("", help="Memory of the process: 4GB (1000^3 bytes) or 4GiB (1024^3)."),
    optim: str = typer.Option("", help="Optimizer and its settings, as for `steepest train`."),
    batch: int = typer.Option(None, help="Sequences of a step."),
    context: int = typer.Option(None, help="Tokens of a sequence."),
    set_: list[str] = typer.Option([], "--set", metavar="SECTION.KEY=VALUE", help="Any setting; may be repeated."),
    config: Path = typer.Option(None, help="TOML or JSON file with settings; flags and --set go before it."),
    offload: Path = typer.Option(None, metavar="DIR", help="Use the disk of this folder; it is measured."),
    machine: str = typer.Option(
        "",
        metavar="FILE.toml|'SETTINGS'",
        help="Plan for a machine with devices (GPUs) instead, from its data sheet: peak_tflops, device_memory, "
        "host_memory, pcie_gbps, nvme_read_gbps, nvme_write_gbps, devices, adam_gparams.",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object instead of tables."),
) -> None:
    """Choose what lives in memory and what on a disk, without training.

    Weights, gradients, optimizer states and the activations of each block are counted; two blocks of the model and the
    disk are timed, which takes some seconds. Of all choices that fit under the limit the one with the fastest step is
    printed, with what it takes, what else there was and why it lost. If nothing fits, the least limit is named and the
    exit status is 2.

    Examples:
    * `steepest plan --model 1b --memory-limit 8GB --offload /var/tmp/states` plans for this machine and that disk

    * `steepest plan --model base --memory-limit 4GiB --optim adamw --batch 4 --context 512` uses memory alone

    * `steepest train --model base --memory-limit 4GiB --offload /var/tmp/states` plans the same, and trains

    * `steepest plan --model 3b --batch 8 --machine 'peak_tflops=165 device_memory=24GB host_memory=128GB pcie_gbps=25
      nvme_read_gbps=12 nvme_write_gbps=6'` plans for another machine: mixed precision, Adam, one model over its devices
    """
    flags: dict[str, dict[str, object]] = {
        "optim": {"name": optim},
        "train": {"batch": batch},
        "model": {"context": context},
    }
    settings = settings_of(config, model, flags, set_)
    if machine:
        if memory_limit or offload is not None:
            raise ValueError(
                "--machine brings its own memory and disks, so --memory-limit and --offload cannot be given with it"
            )
        _other_machine(machine, settings, as_json=as_json)
        return
    if not memory_limit:
        raise ValueError("--memory-limit: expected the memory of the process, got nothing; write --memory-limit 4GB")
    from steepest.train.report.units import parse_size

    _this_machine(parse_size(memory_limit, "--memory-limit"), settings, offload, as_json=as_json)


def _this_machine(limit: int, settings: "RunConfig", offload: Path | None, *, as_json: bool) -> None:
    import torch
    from rich.console import Console

    from steepest.train import machine
    from steepest.train.offload import choose, gather_facts
    from steepest.train.offload.plan_table import plan_as_json, plan_tables, show
    from steepest.train.planned import resolved

    torch.set_num_threads(settings.train.threads or machine.cores())  # as the run would
    with Console(stderr=True).status("looking at this machine") as status:
        facts = gather_facts(resolved(settings), offload, tell=status.update)
    found = choose(facts, limit)
    if as_json:
        typer.echo(json.dumps(plan_as_json(found), indent=2))
    else:
        show(plan_tables(found))


def _other_machine(text: str, settings: "RunConfig", *, as_json: bool) -> None:
    from steepest.train.offload import plan_machine, read_machine
    from steepest.train.offload.plan_table import machine_as_json, machine_tables, show
    from steepest.train.planned import workload

    there, work = read_machine(text), workload(settings)
    found = plan_machine(there, work)
    if as_json:
        typer.echo(json.dumps(machine_as_json(there, found, work.tokens), indent=2))
    else:
        show(machine_tables(there, found, work.tokens))
