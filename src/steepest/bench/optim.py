# SPDX-License-Identifier: Apache-2.0
"""Steps of the optimizers beside torch's: the cases of `steepest bench optim`."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from rich.table import Table
from torch import nn

from steepest.bench.timing import Record, Timing, alternate
from steepest.optim.adam_rule import AdamRule
from steepest.optim.catalogue import example
from steepest.optim.engine import Engine
from steepest.optim.explain import explain
from steepest.optim.spec import optimizers

#: One layer of a Llama of width 512: query, key, value, output; gate, up; down.
_LAYER = [(512, 512)] * 4 + [(1376, 512)] * 2 + [(512, 1376)]
#: Name to the shapes of its parameters.
SETS: dict[str, list[tuple[int, ...]]] = {
    "16 squares of 256": [(256, 256)] * 16,
    "Llama, 58 M": _LAYER * 8 + [(32000, 512)] * 2 + [(512,)] * 17,
    "200 vectors of 64": [(64,)] * 200,
}
#: torch's own, as baselines.
PEERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "torch AdamW fused": lambda params: torch.optim.AdamW(params, fused=True),
    "torch AdamW for-loop": lambda params: torch.optim.AdamW(params, foreach=False),
    "torch SGD": lambda params: torch.optim.SGD(params, lr=1e-3),
    "torch Muon": torch.optim.Muon,
}
#: Settings other than the defaults: the default window of M-FAC takes 4 KB for each number.
SETTINGS: dict[str, dict[str, Any]] = {"mfac": {"window": 32}}
#: Too much memory or time for the large set.
_SMALL_ONLY = {"mfac", "shampoo", "soap", "klsoap", "klshampoo", "swan", "torch Muon"}


def chosen(only: list[str]) -> list[str]:
    """Return the names of what to time: optimizers of the library, and torch's.

    Args:
        only: Some of them; empty for all.

    Raises:
        ValueError: If a name is none of them.
    """
    names = [*PEERS, *optimizers()]
    for name in only:
        if name.lower() not in {known.lower() for known in names}:
            raise ValueError(f"no optimizer is named {name!r}; expected some of {', '.join(names)}")
    wanted = {name.lower() for name in only}
    return [name for name in names if not only or name.lower() in wanted or name == "torch AdamW fused"]


def measure(record: Record, names: list[str], sets: list[str], *, seconds: float = 1.0) -> Iterator[str]:
    """Time a step of each optimizer on each set of parameters, in turn, into a record.

    Args:
        record: Gets the rows.
        names: From `chosen`.
        sets: Keys of `SETS`.
        seconds: For each optimizer on a set.

    Yields:
        The name of each set before it is timed.
    """
    for name in sets:
        yield name
        shapes = SETS[name]
        made = {who: one for who in names if (one := _made(who, shapes)) is not None}
        timings = alternate({who: one.step for who, one in made.items()}, rounds=7, seconds=seconds * len(made))
        count = sum(torch.Size(shape).numel() for shape in shapes)
        for who, one in made.items():
            record.rows.append(_row(name, who, one, timings[who], count))


def _made(name: str, shapes: list[tuple[int, ...]]) -> torch.optim.Optimizer | None:
    if name in _SMALL_ONLY and len(shapes) > 16:
        return None
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, generator=generator) * 0.02) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator) * 1e-3
    if name in PEERS:
        return PEERS[name](params) if name != "torch Muon" or min(p.ndim for p in params) == 2 else None
    kind = optimizers()[name]
    rule = example(kind).rule
    if rule.works_on != "matrices":
        return example(kind, params, **SETTINGS.get(name, {}))
    # As in a model: what is no hidden matrix goes to AdamW.
    matrices = [p for p in params if p.ndim == 2 and p.shape[0] < 10000]
    return example(kind, [{"params": matrices}, *_others(params)]) if matrices else None


def _others(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    rest = [p for p in params if p.ndim != 2 or p.shape[0] >= 10000]
    return [{"params": rest, "role": "other", "rule": AdamRule()}] if rest else []


def _row(case: str, name: str, optimizer: torch.optim.Optimizer, timing: Timing, count: int) -> dict[str, Any]:
    if isinstance(optimizer, Engine):
        size = sum(plan.state_bytes for plan in explain(optimizer))
    else:
        tensors = [t for state in optimizer.state.values() for t in state.values() if torch.is_tensor(t) and t.ndim]
        size = sum(t.numel() * t.element_size() for t in tensors)
    return {
        "set": case,
        "name": name,
        "seconds": timing.median,
        "quartiles": [timing.low, timing.high],
        "fastest": timing.fastest,
        "ns_per_element": 1e9 * timing.median / count,
        "state_bytes_per_element": size / count,
    }


def table(record: Record) -> Table:
    """Return a table with one line for each optimizer and set.

    Args:
        record: From `measure`.
    """
    shown = Table(
        title=f"{record.about['processor']}, {record.threads} thread{'s' * (record.threads > 1)}",
        caption="Medians of a step. The last column: how many times as long as torch's fused AdamW. M-FAC: window 32.",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("parameters", "optimizer"):
        shown.add_column(column, no_wrap=True)
    for column in ("ms", "ns/parameter", "state bytes", "of AdamW"):
        shown.add_column(column, justify="right")
    base = {row["set"]: row["seconds"] for row in record.rows if row["name"] == "torch AdamW fused"}
    for row in record.rows:
        ratio = f"{row['seconds'] / base[row['set']]:.2f}"
        state = f"{row['state_bytes_per_element']:.2f}"
        shown.add_row(
            row["set"], row["name"], f"{1e3 * row['seconds']:.3g}", f"{row['ns_per_element']:.2f}", state, ratio
        )
    return shown
