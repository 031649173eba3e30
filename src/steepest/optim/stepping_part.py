# SPDX-License-Identifier: Apache-2.0
"""One step of a sharded matrix by a rule that needs not see the whole of it."""

import math

from torch import Tensor

from steepest.optim.apply import subtract_
from steepest.optim.layout import CONVOLUTIONS
from steepest.optim.rule import Rule
from steepest.optim.sharding import local, part_of
from steepest.optim.stepping import GroupStep, Member, with_l2, work_dtype


def step_part(member: Member, this: GroupStep) -> bool:
    """Step this process's part of a matrix, if the rule can and nothing else asks for the whole.

    Args:
        member: A parameter with its gradient.
        this: The step of its group.

    Returns:
        Whether it was done; the same in all processes.
    """
    group, rule = this.group, this.rule
    if type(rule).update_part is Rule.update_part or len(member.state) > 1:
        return False
    part = part_of(member.param)
    whole = group["cautious"] or group["hyperball"] or group["clip"] != math.inf or this.observe
    if part is None or whole or group["blocks"] or group["role"] in CONVOLUTIONS:
        return False
    if tuple(member.grad.placements) != tuple(member.param.placements):  # pyright: ignore[reportAttributeAccessIssue]
        return False
    grad = local(with_l2(member.grad.to(work_dtype(member.param.dtype)), member.param, this))
    param: Tensor = local(member.param)
    if group["transposed"]:
        part, grad, param = part.turned, grad.mT, param.mT
    direction = rule.update_part(grad, part)
    if direction is None:
        return False
    subtract_([param], [direction], this.factors(part.rows, part.columns))
    return True
