# SPDX-License-Identifier: Apache-2.0
"""The states of an offloaded optimizer in the checkpoints of sharded runs, one parameter at a time."""

from pathlib import Path
from typing import Any, final

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import WriteItem

from steepest.optim.sharding import cut_like, local, spread_again
from steepest.train.offload.checkpoint import SEPARATOR, take_groups
from steepest.train.offload.optimizer import Offload
from steepest.train.offload.states import Kept
from steepest.train.sharded_reading import read_shards


@final
class LazyPlanner(DefaultSavePlanner):
    """`DefaultSavePlanner` that reads the states of a parameter when they are written.

    Args:
        offload: Has them.
        keys: Parameter and state of each name in the checkpoint that `stand_ins` stands for.
    """

    def __init__(self, offload: Offload, keys: dict[str, tuple[Tensor, str]]) -> None:
        super().__init__()
        self._offload, self._keys = offload, keys
        self._last: tuple[Tensor | None, dict[str, Any]] = None, {}

    def resolve_data(self, write_item: WriteItem) -> Any:
        """Return what is written: this process's part."""
        found = self._keys.get(write_item.index.fqn)
        if found is None:
            return super().resolve_data(write_item)
        param, key = found
        if self._last[0] is not param:
            self._last = None, {}  # before the next one comes
            self._last = param, self._offload.states.state_of(param)
        return local(self._last[1][key])


def stand_ins(model: nn.Module, offload: Offload) -> tuple[dict[str, Any], LazyPlanner]:
    """Return what `get_state_dict` returns for an optimizer, without memory for tensors, and what reads them.

    Args:
        model: Gives the parameters their names.
        offload: The optimizer.

    Returns:
        The state, to be written under `"optimizer"`, and the planner for it.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    state: dict[str, dict[str, Any]] = {}
    keys: dict[str, tuple[Tensor, str]] = {}
    for param, numbers, tensors in offload.states.described():
        name = names[param]
        state[name] = numbers | {key: _without_memory(param, kept) for key, kept in tensors.items()}
        keys |= {f"optimizer.state.{name}.{key}": (param, key) for key in tensors}
    groups = [group | {"params": [names[p] for p in group["params"]]} for group in offload.optimizer.param_groups]
    return {"state": state, "param_groups": groups}, LazyPlanner(offload, keys)


def _without_memory(param: Tensor, kept: Kept) -> Tensor:
    shape = local(param).shape if kept.sharded else kept.shape
    part = torch.zeros((), dtype=kept.dtype).expand(shape)
    return cut_like(part, param) if kept.sharded else part


def load_states(folder: Path, model: nn.Module, offload: Offload, numbers: list[Any], *, sharded: bool) -> None:
    """Bring the states of a checkpoint to the stores of all processes, one parameter at a time.

    Args:
        folder: Written by `torch.distributed.checkpoint`, or a safetensors file of a run without shards.
        model: Gives the parameters their names; its weights are those of the checkpoint.
        offload: The optimizer.
        numbers: From `numbers_of` or `flatten_states`.
        sharded: Which of the two it is.

    Raises:
        ValueError: If it is damaged or of another optimizer.
    """
    names = take_groups(model, offload, numbers)

    def state_of(param: Tensor) -> dict[str, Any]:
        own: dict[str, Any] = dict(numbers[0]["state"].get(names[param], {}))
        if own:
            read = _from_shards if sharded else _from_file
            own |= read(folder, names[param], param, offload.states.kept(param))
        return own

    offload.replace_states(state_of)


def _from_shards(folder: Path, name: str, param: Tensor, tensors: dict[str, Kept]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, kept in tensors.items():
        part = torch.empty(local(param).shape if kept.sharded else kept.shape, dtype=kept.dtype)
        found[key] = cut_like(part, param) if kept.sharded else part
    if found:
        read_shards(folder, {"optimizer": {"state": {name: found}}})
    return found


def _from_file(path: Path, name: str, param: Tensor, tensors: dict[str, Kept]) -> dict[str, Tensor]:
    with safe_open(path, "pt") as file:
        found = {key: file.get_tensor(SEPARATOR.join(("0", name, key))) for key in tensors}
    return {key: spread_again(value, param) if tensors[key].sharded else value for key, value in found.items()}
