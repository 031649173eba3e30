# SPDX-License-Identifier: Apache-2.0
"""From a run's configuration to the optimizer that takes its steps."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from steepest.optim.adam_rule import AdamRule
from steepest.optim.groups import param_groups
from steepest.optim.spec import Spec
from steepest.train.config import DEFAULT_LR, OptimConfig


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """Return the optimizers of a run; together they hold every parameter once.

    Args:
        model: Each of its parameters gets a rule from its role: a matrix method steps the hidden ones.
        config: Method and settings.

    Returns:
        One optimizer. Each parameter group has `peak_lr`, which the schedule multiplies.

    Raises:
        ValueError: If the method is unknown or a setting does not fit.
    """
    spec = Spec.parse(config.name)
    more: dict[str, Any] = {
        "lr": config.lr or DEFAULT_LR.get(spec.name),
        "betas": config.betas,
        "eps": config.eps,
        "weight_decay": config.weight_decay,
    }
    adam = spec.name in ("adam", "adamw")
    more = {
        key: value
        for key, value in more.items()
        if spec.accepts(key) and value is not None and (adam or key not in ("betas", "eps"))
    }
    groups = param_groups(
        model, rule_of(spec), others=AdamRule(betas=config.betas, eps=config.eps), others_lr=config.adam_lr
    )
    for group in groups:
        if "rule" in group:
            group.setdefault("weight_decay", config.weight_decay)
    optimizer = spec.build(groups, **more)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return [optimizer]


def rule_of(spec: Spec) -> Any:
    """The rule of a method, to know which roles it steps."""
    return spec.build([nn.Parameter(torch.empty(2, 2, device="meta"))]).rule
