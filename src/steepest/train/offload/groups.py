# SPDX-License-Identifier: Apache-2.0
"""What must stay as it is in an optimizer whose steps are taken in pieces."""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from steepest.optim.engine import Engine
from steepest.optim.sharding import is_sharded, local
from steepest.train.offload.options import OffloadOptions
from steepest.train.offload.pieces import depends_on_the_whole


@final
class Groups:
    """Looks at the parameter groups and the hooks of an optimizer.

    Args:
        engine: The optimizer.
        options: How its states are kept.

    Raises:
        ValueError: If a hook would change weights that are not those of the next step, or `master` is asked for weights
            that are sharded or not contiguous.
    """

    def __init__(self, engine: Engine, options: OffloadOptions) -> None:
        self._engine, self._options = engine, options
        self._settings = [_cut_by(group) for group in engine.param_groups]
        self._numbers: list[dict[str, Any]] | None = None
        if options.master and has_post_hook(engine):
            raise ValueError("a step post-hook changes weights, but not those that master=True keeps on the disk")
        params = [param for group in engine.param_groups for param in group["params"]]
        if options.master and any(is_sharded(param) or not param.is_contiguous() for param in params):
            raise ValueError("master=True is for contiguous weights of one process; make them with .contiguous()")

    def check(self) -> None:
        """Refuse what would make these steps others than those in memory.

        Raises:
            ValueError: If something was changed; says what.
        """
        engine = self._engine
        if [_cut_by(group) for group in engine.param_groups] != self._settings:
            raise ValueError("clip, lr_scale, cautious, hyperball, compile or the parameters of a group were changed")
        numbers = [
            {key: value for key, value in group.items() if key not in ("params", "param_names")}
            for group in engine.param_groups
        ]
        if self._numbers is None:
            self._numbers = numbers
        elif self._numbers != numbers:
            raise ValueError(
                "a number of a parameter group was changed between the backward pass and step(); with overlap=True "
                "set learning rates before the backward pass"
            )
        if engine._observe is not None:
            raise ValueError("steps cannot be observed while the states are on a disk")
        if self._options.overlap and engine._optimizer_step_pre_hooks:  # pyright: ignore[reportAttributeAccessIssue]
            raise ValueError("a step pre-hook sees weights before a step, overlap=True moves them earlier; turn it off")

    def begin(self) -> None:
        """Begin the next step: numbers may be others."""
        self._numbers = None


def has_post_hook(engine: Engine) -> bool:
    """Whether something may change weights after a step."""
    return bool(engine._optimizer_step_post_hooks)  # pyright: ignore[reportAttributeAccessIssue]


def that_share_versions(params: Iterable[Tensor]) -> set[Tensor]:
    """Return the parameters whose changes autograd cannot tell from those of another, such as views of one tensor.

    Args:
        params: Each once; their versions are counted up.
    """
    versions = {param: local(param.detach()) for param in params}
    before = {param: own._version for param, own in versions.items()}
    torch.autograd.graph.increment_version(list(versions.values()))
    return {param for param, own in versions.items() if own._version > before[param] + 1}


def _cut_by(group: dict[str, Any]) -> tuple[Any, ...]:
    return (depends_on_the_whole(group), group["state_dtype"], tuple(map(id, group["params"])))
