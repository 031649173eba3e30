# SPDX-License-Identifier: Apache-2.0
"""What an optimizer does with each parameter, as a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from steepest.optim.engine import Engine
from steepest.optim.roles import parameter_roles
from steepest.optim.rule import Rule
from steepest.optim.scale import lr_scale_factor
from steepest.optim.stepping import GroupStep, Member, begin
from steepest.optim.table import text_table


@final
@dataclass(frozen=True)
class ParameterPlan:
    """What happens to one parameter.

    Args:
        name: Of the parameter.
        shape: As stored.
        role: What it is.
        rule: Name of its rule.
        norm: The norm whose steepest descent the rule is, empty if none.
        lr: Learning rate now.
        lr_scale: Its factor by shape.
        weight_decay: Coefficient.
        state_bytes: Bytes that its state takes.
        reason: Why it has its role; empty without the model.
    """

    name: str
    shape: tuple[int, ...]
    role: str
    rule: str
    norm: str
    lr: float
    lr_scale: float
    weight_decay: float
    state_bytes: int
    reason: str = ""


@final
class Explanation(tuple[ParameterPlan, ...]):
    """The plans of all parameters; prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        """Return the table, and the sums below it."""
        head = ("name", "shape", "role", "rule", "norm", "lr", "decay", "state bytes", "why")
        lines = text_table(head, [_cells(plan) for plan in self])
        entries = sum(torch.Size(plan.shape).numel() for plan in self)
        total = sum(plan.state_bytes for plan in self)
        lines.append(
            f"{len(self)} parameters, {entries:,} entries, {total / max(1, entries):.2f} bytes of state an entry"
        )
        return "\n".join(lines)


def explain(optimizer: Engine, model: nn.Module | None = None) -> Explanation:
    """Return what an optimizer does with each parameter: role, rule, norm, learning rate, decay, state.

    Args:
        optimizer: Of this library.
        model: The model that it was made for, to say why a parameter has its role.

    Returns:
        One entry a parameter; `print(explain(optimizer))` shows a table.

    Raises:
        TypeError: If the optimizer is none of this library.

    Example:
        >>> from torch import nn
        >>> from steepest.optim import Muon
        >>> plans = explain(Muon(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), lr=0.02))
        >>> [(plan.role, plan.rule.partition("(")[0]) for plan in plans]
        [('hidden', 'muon'), ('bias', 'adam'), ('bias', 'adam'), ('head', 'adam')]
    """
    if not isinstance(optimizer, Engine):
        raise TypeError(f"expected an optimizer of steepest.optim, got {type(optimizer).__name__}")
    reasons = {role.name: role.reason for role in parameter_roles(model)} if model is not None else {}
    plans = []
    for index, group in enumerate(optimizer.param_groups):
        rule = optimizer.rule_of(index)
        names = group.get("param_names") or [f"parameter {i}" for i in range(len(group["params"]))]
        for name, parameter in zip(names, group["params"], strict=True):
            plans.append(_plan(name, parameter, group, rule, reasons.get(name, "")))
    return Explanation(plans)


def state_bytes(shape: Sequence[int], dtype: torch.dtype, group: dict[str, Any], rule: Rule) -> int:
    """Return the bytes that the state of a parameter takes, without making it.

    Args:
        shape: Of the parameter.
        dtype: Of the parameter.
        group: Its parameter group.
        rule: Its rule.
    """
    state: dict[str, Tensor] = {}
    meta = torch.empty(tuple(shape), dtype=dtype, device="meta")
    this = GroupStep(group, rule, 1, 0)
    begin([Member(meta, meta, state, 0)], this)
    if rule.works_on == "all parameters":
        state |= rule.init(meta.reshape(1, -1))
    return sum(tensor.numel() * tensor.element_size() for key, tensor in state.items() if key != "step")


def _plan(name: str, parameter: Tensor, group: dict[str, Any], rule: Rule, reason: str) -> ParameterPlan:
    norm = rule.norm()
    this = GroupStep(group, rule, 1, 0)
    rows, columns = this.layout.shapes(parameter.shape)[0][1:] if parameter.ndim > 1 else (1, max(1, parameter.numel()))
    factors = this.factors(rows, columns)
    return ParameterPlan(
        name=name,
        shape=tuple(parameter.shape),
        role=group["role"],
        rule=rule.name,
        norm="" if norm is None else type(norm).__name__,
        lr=group["lr"],
        lr_scale=factors.step / group["lr"] if group["lr"] else lr_scale_factor("none", 1, 1),
        weight_decay=0.0 if group["hyperball"] else group["weight_decay"],
        state_bytes=state_bytes(parameter.shape, parameter.dtype, group, rule),
        reason=reason,
    )


def _cells(plan: ParameterPlan) -> tuple[str, ...]:
    shape = "x".join(map(str, plan.shape)) or "1"
    lr = f"{plan.lr:g}" + (f" x {plan.lr_scale:.3g}" if plan.lr_scale != 1 else "")
    rule = plan.rule.partition("(")[0]
    return (
        plan.name,
        shape,
        plan.role,
        rule,
        plan.norm,
        lr,
        f"{plan.weight_decay:g}",
        f"{plan.state_bytes:,}",
        plan.reason,
    )
