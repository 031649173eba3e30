# SPDX-License-Identifier: Apache-2.0
"""One step of a group as one long vector."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steepest.optim import compression
from steepest.optim.apply import cautious, subtract_
from steepest.optim.rule import Step
from steepest.optim.sharding import local, spread_like, whole
from steepest.optim.stepping import GroupStep, Member, clipped, move_whole_on_sphere_, radii, with_l2, work_dtype


def flat_dtype(params: Sequence[Tensor]) -> torch.dtype:
    """Return the dtype of the arithmetic for parameters that are stepped together: the widest of theirs."""
    return functools.reduce(torch.promote_types, (work_dtype(p.dtype) for p in params))


def step_flat(members: list[Member], this: GroupStep, state: dict[str, Any], number: int) -> None:
    """Step all parameters of a group as one vector in their order.

    A parameter without a gradient enters as zeros, for the loss did not depend on it, and is left alone.

    Args:
        members: Those with a gradient.
        this: What is the same for all; `count` counts the steps of the group.
        state: Of the group; it is kept with its first parameter.
        number: Place of the first parameter in the optimizer.
    """
    codec = this.codec(number)
    vector, parts = _gather(members, this)
    vector.copy_(clipped(vector, this, None))
    if "step" not in state:
        state["step"] = 0
        for name, tensor in this.rule.init(vector).items():
            compression.store(state, name, tensor, codec)
    state["step"] += 1
    names = [name for name in state if name not in ("step", "radius") and not compression.is_part(name)]
    with compression.opened(state, names, codec) as plain:
        step = Step(this.count, this.seed(number), numbers=this.rule.numbers(this.count), place=number)
        direction = this.call("update")(vector, plain, step)
    if direction is None:
        return
    places = dict(zip(parts, direction[0].split([part.numel() for part in parts.values()]), strict=True))
    for member in members:
        _move(member, places[id(member.param)].view(member.param.shape), parts[id(member.param)], this)


def _gather(members: list[Member], this: GroupStep) -> tuple[Tensor, dict[int, Tensor]]:
    """The gradients of the group as `(1, d)`, and the view of it that belongs to each parameter."""
    params: list[Tensor] = this.group["params"]
    sizes = [p.numel() for p in params]
    vector = torch.zeros(1, sum(sizes), dtype=flat_dtype(params), device=params[0].device)
    views = [part.view(p.shape) for p, part in zip(params, vector[0].split(sizes), strict=True)]
    parts = dict(zip(map(id, params), views, strict=True))
    for member in members:
        parts[id(member.param)].copy_(whole(member.grad))
        if this.group["decay"] == "l2":
            parts[id(member.param)].copy_(with_l2(parts[id(member.param)], whole(member.param), this))
    return vector, parts


def _move(member: Member, direction: Tensor, grad: Tensor, this: GroupStep) -> None:
    param = member.param
    if this.group["cautious"]:
        direction = cautious(direction, grad, tuple(range(direction.ndim)))
    factors = this.entry_factors(param.shape)
    if this.is_on_sphere(param):
        if "radius" not in member.state:
            member.state.update(radii(member, this))
        move_whole_on_sphere_(member, direction, this)
    else:
        subtract_([local(param)], [spread_like(direction, param)], factors)
    if this.observe:
        this.observe(member, grad, direction, factors.step, this.rule.norm())
