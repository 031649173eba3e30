# SPDX-License-Identifier: Apache-2.0
"""Plans as people and programs read them."""

import dataclasses
import math
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from steepest.train.offload.machines import PARTS, Machine, MachinePlan
from steepest.train.offload.plan import Plan
from steepest.train.offload.plan_facts import Choice
from steepest.train.report.units import count, decimal_size

_WAYS = {
    "memory": "states in memory",
    "pipelined": "states on disk, after backward",
    "overlapped": "states on disk, during backward",
    "gradients on disk": "states and gradients on disk",
}
_GRADIENTS = {
    "memory": "memory",
    "pipelined": "memory",
    "overlapped": "used as they come",
    "gradients on disk": "disk, as they come",
}


def rows_of(plan: Plan) -> list[tuple[str, str, int, int]]:
    """Return what lives where, as (what, where, bytes in memory at the peak, bytes on the disk).

    Args:
        plan: A plan.
    """
    facts, choice, moment = plan.facts, plan.choice, plan.moment
    way, acts = facts.ways[choice.way], facts.activations
    swapped = choice.swap * acts.swapped * facts.cost.rounds
    tiles = int(facts.cost.weights)
    stored = way.disk > 0
    gradients = tiles if choice.way == "gradients on disk" else 0
    weights = 2 * tiles if stored else 0
    buffers = way.buffers + (acts.buffers if choice.swap else 0)
    rows = [
        ("the process itself", "memory", facts.baseline, 0),
        ("weights", "memory, disk" if stored else "memory", facts.weights, weights),
        ("gradients", _GRADIENTS[choice.way], moment.gradients, gradients),
        ("optimizer states", "disk" if stored else "memory", way.states, way.disk - weights - gradients),
        ("activations", _places(choice), moment.activations, swapped),
        ("at work", f"in the {moment.phase}", moment.working, 0),
        ("buffers", "memory", buffers, 0),
    ]
    return [row for row in rows if row[2] or row[3]]


def plan_tables(plan: Plan) -> RenderableType:
    """Return a plan as tables of at most 80 characters."""
    where = _table(f"Plan for {decimal_size(plan.limit)} of memory", "what", "where", ">memory", ">disk")
    for what, place, memory, disk in rows_of(plan):
        where.add_row(what, place, decimal_size(memory), decimal_size(disk) if disk else "")
    where.add_section()
    where.add_row("predicted peak", "", decimal_size(plan.peak), decimal_size(plan.on_disk) if plan.on_disk else "")
    parts = ", ".join(f"{name} {_seconds(value)}" for name, value in plan.parts.items())
    told = Text.assemble(("predicted step ", ""), (_seconds(plan.seconds), "bold"), f": {parts}")
    others = _table("Not chosen", "states and gradients", "activations", ">memory", ">step", "why not")
    for other in plan.alternatives:
        peak = (decimal_size(other.peak), _seconds(other.seconds)) if other.peak else ("", "")
        places = _places(other.choice, short=True) if other.peak else ""
        others.add_row(_WAYS[other.choice.way], places, *peak, other.reason)
    return Group(where, told, Text(), others) if plan.alternatives else Group(where, told)


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain values."""
    facts = plan.facts
    return {
        "limit_bytes": plan.limit,
        "states_and_gradients": plan.choice.way,
        "activations": {"keep": plan.choice.keep, "recompute": plan.choice.recompute, "swap": plan.choice.swap},
        "predicted_peak_bytes": plan.peak,
        "predicted_disk_bytes": plan.on_disk,
        "predicted_step_seconds": plan.seconds,
        "predicted_seconds": plan.parts,
        "where": [dict(zip(("what", "where", "memory", "disk"), row, strict=True)) for row in rows_of(plan)],
        "alternatives": [
            {**_choice(other.choice), "peak_bytes": other.peak, "seconds": other.seconds, "reason": other.reason}
            for other in plan.alternatives
        ],
        "parameters": facts.parameters,
        "disk_bytes_per_second": {
            name: rate if rate is not None and math.isfinite(rate) else None for name, rate in vars(facts.disk).items()
        },
        "notes": dict(facts.notes),
    }


def machine_tables(machine: Machine, plan: MachinePlan, tokens: int) -> RenderableType:
    """Return the plan for another machine as tables of at most 80 characters.

    Args:
        machine: Where.
        plan: For it.
        tokens: Of a step of one device.
    """
    where = _table(
        f"Plan for {machine.devices} x {machine.peak_tflops:g} TFLOPS", "what", "where", ">bytes", ">efficiency"
    )
    for part in PARTS:
        where.add_row(part, plan.tiers[part], decimal_size(plan.sizes[part]), f"{plan.efficiencies[part]:.3f}")
    used = _table("Memory", "tier", ">used", ">there is")
    there = {"device": float(machine.device_memory), "host": float(machine.host_memory)}
    for tier, size in plan.used.items():
        used.add_row(
            "each device" if tier == "device" else tier,
            decimal_size(size),
            decimal_size(there[tier]) if tier in there else "",
        )
    speed = count(tokens * machine.devices / plan.overlapped)
    told = Text.assemble(
        ("predicted step ", ""),
        (_seconds(plan.overlapped), "bold"),
        f" with the optimizer during the backward pass, {_seconds(plan.serial)} one after another; {speed} tokens/s",
    )
    note = Text("efficiency: part of the peak that is left by moving this part without overlap", style="dim")
    return Group(where, note, used, told)


def machine_as_json(machine: Machine, plan: MachinePlan, tokens: int) -> dict[str, Any]:
    """Return the plan for another machine as plain values; see `machine_tables`."""
    return {
        "machine": dataclasses.asdict(machine),
        **dataclasses.asdict(plan),
        "tokens_per_second": tokens * machine.devices / plan.overlapped,
    }


def show(what: RenderableType, console: Console | None = None) -> None:
    """Print tables, in 80 columns where no terminal says otherwise."""
    console = console or Console(highlight=False)
    console.print(what)


def _choice(choice: Choice) -> dict[str, Any]:
    return {"states_and_gradients": choice.way, "activations": dict(zip(choice._fields[1:], choice[1:], strict=True))}


def _places(choice: Choice, *, short: bool = False) -> str:
    names = ("keep", "again", "swap") if short else ("kept", "computed again", "on disk")
    found = [f"{n} {name}" for n, name in zip(choice[1:], names, strict=True) if n]
    return ", ".join(found)


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.1 else f"{value * 1e3:.3g} ms"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left", header_style="dim")
    return table
