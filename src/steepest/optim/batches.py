# SPDX-License-Identifier: Apache-2.0
"""Which parameters of a group are stepped together."""

from collections.abc import Sequence

import torch
from torch import Tensor

from steepest.optim.rule import Rule


def batches_of(params: Sequence[Tensor], rule: Rule, largest: int) -> list[list[int]]:
    """Return which parameters of a group are stepped together, by their places in it.

    Args:
        params: Of the group.
        rule: Its rule: entry by entry each parameter is alone, a rule for all parameters takes them at once.
        largest: Entries that a batch of matrices may have, where the rule sets no limit of its own.
    """
    if rule.works_on == "all parameters":
        return [list(range(len(params)))]
    if rule.works_on == "entries":
        return [[i] for i in range(len(params))]
    buckets: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
    for i, param in enumerate(params):
        buckets.setdefault((param.shape, param.dtype), []).append(i)
    found = []
    for (shape, _), same in buckets.items():
        together = max(1, (rule.batch_entries or largest) // shape.numel())
        found += [same[first : first + together] for first in range(0, len(same), together)]
    return found
