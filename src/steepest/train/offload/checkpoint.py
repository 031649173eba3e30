# SPDX-License-Identifier: Apache-2.0
"""The states of an offloaded optimizer in the checkpoints of a run, one parameter at a time."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from steepest.train.offload.optimizer import Offload
from steepest.train.offload.states import Kept

SEPARATOR = "/"
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def numbers_of(model: nn.Module, offload: Offload) -> list[Any]:
    """Return what is no tensor of an offloaded optimizer, as `steepest.train.checkpoint.flatten_states` does."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    optimizer = offload.optimizer
    plain = {names[param]: numbers for param, numbers, _ in offload.states.described()}
    groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    members = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
    return [{"class": type(optimizer).__name__, "groups": groups, "members": members, "state": plain}]


def save_states(path: Path, model: nn.Module, offload: Offload, more: Mapping[str, Tensor]) -> None:
    """Write a safetensors file like that of an optimizer in memory; holds the state of one parameter at a time.

    Args:
        path: The file to make.
        model: Gives the parameters their names.
        offload: The optimizer.
        more: Small tensors to write besides.

    Raises:
        OSError: If the disk refuses, or a tile is damaged.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    sizes = {name: Kept(tuple(tensor.shape), tensor.dtype, sharded=False) for name, tensor in more.items()}
    for param, _, tensors in offload.states.described():
        sizes |= {SEPARATOR.join(("0", names[param], key)): what for key, what in tensors.items()}
    header, end = dict[str, Any](), 0
    for name, (shape, dtype, _) in sizes.items():
        nbytes = torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [end, end + nbytes]}
        end += nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in more.values():
            file.write(_bytes(tensor))
        for param, state in offload.states.each():
            del param
            for value in state.values():
                if isinstance(value, Tensor):
                    file.write(_bytes(value))


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def load_states(path: Path, model: nn.Module, offload: Offload, numbers: list[Any]) -> None:
    """Bring the states of a checkpoint to the store; holds the state of one parameter at a time.

    Args:
        path: Of the safetensors file, by `save_states` or of an optimizer in memory.
        model: Gives the parameters their names; its weights are those of the checkpoint.
        offload: The optimizer.
        numbers: From `numbers_of` or `flatten_states`.

    Raises:
        ValueError: If it is of another optimizer.
    """
    names = take_groups(model, offload, numbers)
    with safe_open(path, "pt") as file:
        keys: dict[str, list[str]] = {}
        for key in file.keys():  # noqa: SIM118 (not a mapping)
            if key.count(SEPARATOR) == 2:
                keys.setdefault(key.split(SEPARATOR)[1], []).append(key)

        def state_of(param: Tensor) -> dict[str, Any]:
            name = names[param]
            tensors = {key.split(SEPARATOR)[2]: file.get_tensor(key) for key in keys.get(name, ())}
            return {**numbers[0]["state"].get(name, {}), **tensors}

        offload.replace_states(state_of)


def take_groups(model: nn.Module, offload: Offload, numbers: list[Any]) -> dict[Tensor, str]:
    """Give the groups of an optimizer the numbers of a checkpoint; return the names of the parameters.

    Args:
        model: Gives the parameters their names.
        offload: The optimizer.
        numbers: From `numbers_of` or `flatten_states`.

    Raises:
        ValueError: If they are of another optimizer.
    """
    entry, here = numbers[0], numbers_of(model, offload)[0]
    if (len(numbers), entry["class"], entry["members"]) != (1, here["class"], here["members"]):
        raise ValueError(
            f"the checkpoint holds the state of {entry['class']}, the run uses {here['class']} or other groups; resume "
            "with the configuration of the run"
        )
    for group, saved in zip(offload.optimizer.param_groups, entry["groups"], strict=True):
        group.update({key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()})
    return {parameter: name for name, parameter in model.named_parameters()}
