# SPDX-License-Identifier: Apache-2.0
"""Which parameter of a model gets which rule."""

from typing import Any

from torch import nn

from steepest.optim.rule import Rule


def param_groups(model: nn.Module, rule: Rule) -> list[dict[str, Any]]:
    """Return parameter groups for a model.

    Args:
        model: Its trainable parameters.
        rule: Of all of them.
    """
    from steepest.optim.adam import AdamRule

    if rule.works_on == "all parameters":
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return [{"params": [p for _, p in named], "param_names": [name for name, _ in named]}]
    convolutions = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    groups: dict[str, list[tuple[str, Any]]] = {"conv": [], "hidden": [], "vector": [], "embedding": []}
    for name, p in model.named_parameters():
        role = (
            "conv"
            if id(p) in convolutions
            else "hidden"
            if id(p) in matrices
            else "vector"
            if p.ndim == 1
            else "embedding"
        )
        groups[role].append((name, p))
    return [
        {
            "params": [p for _, p in named],
            "param_names": [name for name, _ in named],
            "role": role,
        }
        | ({"rule": AdamRule()} if not rule.for_role(role) else {})
        for role, named in groups.items()
        if named
    ]
