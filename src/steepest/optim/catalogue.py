# SPDX-License-Identifier: Apache-2.0
"""What there is to choose from, measured where it can be."""

import dataclasses
import inspect
from typing import Any

import torch
from torch import nn

from steepest.geometry import ColumnNorm, RowNorm, Spectral
from steepest.optim.adam_rule import AdamRule
from steepest.optim.engine import Engine, Params
from steepest.optim.explain import explain
from steepest.optim.muon import MuonRule
from steepest.optim.options import Options
from steepest.optim.spec import optimizers
from steepest.optim.table import text_table

#: Side of the square matrix whose state is counted.
_SIDE = 512
#: What a constructor cannot do without.
_NEEDED: dict[str, Any] = {
    "L": 1.0,
    "mu": 0.01,
    "norm": Spectral(),
    "norms": (RowNorm(rms=True), ColumnNorm(rms=True)),
    "rule": AdamRule(),
    "direction": MuonRule(),
    "magnitude": AdamRule(),
}


def catalogue() -> str:
    """Return a table of all optimizers."""
    head = ("name", "what it is", "state bytes", "8-bit", "step", "lr", "needs")
    lines = text_table(head, [_row(name, kind) for name, kind in optimizers().items()])
    lines.append(
        f"State bytes are for each entry of a float32 matrix of {_SIDE} x {_SIDE}, with state_dtype=float32 and "
        "8bit. Methods for matrices leave embeddings, heads and vectors to AdamW (8 bytes)."
    )
    return "\n".join(lines)


def settings_of(name: str) -> str:
    """Return the settings of an optimizer, with their defaults, and of the engine.

    Args:
        name: Of the optimizer, in any case.

    Raises:
        ValueError: If there is none of that name.
    """
    kind = optimizers().get(name.lower())
    if kind is None:
        raise ValueError(f"no optimizer {name!r}; there are {', '.join(optimizers())}")
    own = [
        f"  {key}" + ("" if parameter.default is parameter.empty else f" = {_shown(parameter.default)}")
        for key, parameter in inspect.signature(kind).parameters.items()
        if key not in ("params", "options")
    ]
    around = [f"  {field.name} = {field.default}" for field in dataclasses.fields(Options)]
    text = inspect.getdoc(kind) or ""
    return "\n".join([kind.__name__, "", text, "", "Settings:", *own, "", "Of every optimizer (Options):", *around])


def _row(name: str, kind: type[Engine]) -> tuple[str, ...]:
    plain, small = (example(kind, state_dtype=dtype) for dtype in ("float32", "8bit"))
    rule = plain.rule
    summary = (inspect.getdoc(kind) or "").split("\n")[0].rstrip(".")
    sizes = [sum(plan.state_bytes for plan in explain(one)) / _SIDE**2 for one in (plain, small)]
    return (
        name,
        summary,
        f"{sizes[0]:.3g}",
        f"{sizes[1]:.3g}",
        rule.cost,
        f"{plain.param_groups[0]['lr']:.3g}",
        rule.needs,
    )


def example(
    kind: type[Engine], params: Params | None = None, *, state_dtype: Any = "float32", **settings: Any
) -> Engine:
    """Return an optimizer with its default settings, and an example of what has no default.

    Args:
        kind: Its class.
        params: What it steps; None takes one matrix without memory.
        state_dtype: See `Options`.
        **settings: What its constructor gets in place of a default.
    """
    matrix = nn.Parameter(torch.empty(_SIDE, _SIDE, device="meta"))
    needed = {
        key: _NEEDED[key]
        for key, parameter in inspect.signature(kind).parameters.items()
        if parameter.default is parameter.empty and key in _NEEDED
    }
    return kind([matrix] if params is None else params, **(needed | settings), options=Options(state_dtype=state_dtype))


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
