# SPDX-License-Identifier: Apache-2.0
"""What happens when a gradient is not finite."""

from collections.abc import Iterable
from typing import Any

import torch

from steepest.optim.sharding import local


def step_is_left_out(groups: Iterable[dict[str, Any]]) -> bool:
    """Whether the step must be skipped because a group says so and a gradient of it has NaN or infinity.

    Args:
        groups: Parameter groups with `nonfinite`.

    Raises:
        ValueError: If a group says `"raise"` and a gradient of it is not finite; names the parameter.
    """
    skip = False
    for group in groups:
        if group["nonfinite"] == "propagate":
            continue
        members = [(i, local(p.grad)) for i, p in enumerate(group["params"]) if p.grad is not None]
        members = [(i, grad) for i, grad in members if grad.numel()]
        grads = [grad for _, grad in members]
        norms = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage] (there is no public one for lists)
        largest = norms(grads, float("inf")) if grads else []
        for (i, _), size in zip(members, largest, strict=True):
            if torch.isfinite(size):
                continue
            if group["nonfinite"] == "skip":
                skip = True
                break
            names = group.get("param_names")
            raise ValueError(
                f"the gradient of {names[i] if names else f'parameter {i} of its group'} is not finite; lower lr, or "
                "choose nonfinite='skip' to leave such steps out"
            )
    return skip
