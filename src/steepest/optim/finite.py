# SPDX-License-Identifier: Apache-2.0
"""What happens when a gradient is not finite."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from steepest.optim.sharding import is_sharded, local, total_over


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
        for i, size in _largest_entries(group["params"]):
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


def _largest_entries(params: list[Tensor]) -> list[tuple[int, Tensor]]:
    """Number and largest size of an entry for each gradient; of sharded ones 0 or infinity, the same everywhere."""
    members = [(i, p.grad) for i, p in enumerate(params) if p.grad is not None and p.grad.numel()]
    plain = [(i, grad) for i, grad in members if not is_sharded(grad)]
    norms = torch._foreach_norm  # pyright: ignore[reportPrivateImportUsage] (there is no public one for lists)
    sizes = norms([grad for _, grad in plain], float("inf")) if plain else []
    found = [(i, size) for (i, _), size in zip(plain, sizes, strict=True)]
    return sorted(found + _of_shards([(i, grad) for i, grad in members if is_sharded(grad)]), key=lambda pair: pair[0])


def _of_shards(members: list[tuple[int, Any]]) -> list[tuple[int, Tensor]]:
    # Bad shards are counted: the largest of several sizes would lose a NaN, and an empty shard has none.
    by_mesh: dict[Any, list[tuple[int, Tensor]]] = {}
    for i, grad in members:
        by_mesh.setdefault(grad.device_mesh, []).append((i, local(grad)))
    found = []
    for mesh, shards in by_mesh.items():
        sizes = [torch.linalg.vector_norm(s, float("inf")) if s.numel() else s.new_zeros(()) for _, s in shards]
        bad = total_over(mesh, torch.stack([(~torch.isfinite(size)).float() for size in sizes]))
        found += [(i, count * float("inf") if count else count) for (i, _), count in zip(shards, bad, strict=True)]
    return found
