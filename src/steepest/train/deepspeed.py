# SPDX-License-Identifier: Apache-2.0
"""Reads what DeepSpeed has saved: weights and states of Adam from checkpoints of ZeRO stages 1 and 2.

A folder holds one file of the model and one for each process. The optimizer has one flat vector for each parameter
group, cut into as many equal parts as there are processes; parameters stand in it in the order of `param_shapes`, each
with its padding behind it. Weights were saved without the padding at the end, states with it.
"""

import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

_PARTITION = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
#: Of the saved groups, what a rule of ours may take over.
_SETTINGS = ("lr", "betas", "eps", "weight_decay", "amsgrad", "initial_lr", "maximize", "decoupled_weight_decay")


class _Inert:
    """Takes the place of DeepSpeed's own classes, of which nothing is needed."""


class _Stage(int):
    """Takes the place of an enumeration of numbers."""


_STAGES = {"disabled": 0, "optimizer_states": 1, "gradients": 2, "weights": 3, "max_stage": 3}


def _member(kind: Any, name: Any) -> _Stage:
    """Return a member of that enumeration; Python 3.11.0 to 3.11.3 wrote members as attributes of their class."""
    if kind is not _Stage or not isinstance(name, str) or name not in _STAGES:
        raise pickle.UnpicklingError(f"it asks for {name!r} of {kind!r}")
    return _Stage(_STAGES[name])


_STAND_INS = [
    (_Stage, "deepspeed.runtime.zero.config.ZeroStageEnum"),
    (_member, "builtins.getattr"),
    (_Inert, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Inert, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Inert, "deepspeed.utils.tensor_fragment.fragment_address"),
]


@final
@dataclass(frozen=True)
class DeepSpeedState:
    """What a checkpoint of DeepSpeed holds.

    Args:
        weights: By name: float32 for what was trained, else as it was saved.
        optimizer: As `torch.optim.AdamW.state_dict` returns it, with names; for `steepest.optim.load_torch_state`.
    """

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]


def read_deepspeed(folder: Path | str) -> DeepSpeedState:
    """Read a checkpoint of DeepSpeed with ZeRO stage 1 or 2 and an optimizer of the Adam family.

    Nothing in the files is executed: of classes outside torch they may name those that DeepSpeed puts there, and
    these become empty objects.

    Args:
        folder: With `mp_rank_00_model_states.pt` in it, or with a file `latest` that names such a folder.

    Returns:
        Weights and states.

    Raises:
        ValueError: If it is another kind of checkpoint, incomplete or damaged.
        OSError: If a file cannot be read.

    Example:
        Training goes on with `AdamW`, here with its states on a disk::

            found = read_deepspeed("checkpoints")
            model.load_state_dict(found.weights)
            optimizer = AdamW(model)
            load_torch_state(optimizer, found.optimizer)
            offload = Offload(optimizer, "/var/tmp/states")

    References:
        Rajbhandari et al. (2020), ZeRO, arXiv 1910.02054. The layout is that of DeepSpeed 0.19.8.
    """
    folder = Path(folder)
    if (folder / "latest").is_file():
        folder = folder / Path((folder / "latest").read_text().strip()).name
    model, parts = _files(folder)
    weights: dict[str, Tensor] = dict(model.get("module") or {})
    optimizer: dict[str, Any] = {"state": {}, "param_groups": []}
    try:
        for index, shapes in enumerate(model["param_shapes"]):
            _read_group(index, shapes, parts, weights, optimizer)
        for name, same in (model.get("shared_params") or {}).items():
            weights[name] = weights[same]
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{folder} is no checkpoint of ZeRO 1 or 2: {type(error).__name__} {error}") from error
    return DeepSpeedState(weights, optimizer)


def _files(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    models = sorted(path.name for path in folder.glob("*_model_states.pt"))
    if models != ["mp_rank_00_model_states.pt"]:
        kind = "of ZeRO 3" if any(name.startswith("zero_pp_rank") for name in models) else "split among models' parts"
        raise ValueError(
            f"{folder}: expected mp_rank_00_model_states.pt alone, got {models or 'none'}; checkpoints {kind} are not "
            "read: load them in DeepSpeed and save the weights alone (its zero_to_fp32.py does)"
            if models
            else f"{folder} holds no mp_rank_00_model_states.pt; give the folder of a step"
        )
    found = {int(match[1]): path for path in folder.iterdir() if (match := _PARTITION.fullmatch(path.name))}
    parts = [_load(found[rank])["optimizer_state_dict"] for rank in sorted(found)]
    stage = parts[0].get("zero_stage", 1) if parts else 1
    count = parts[0].get("partition_count", 0) if parts else 0
    count = max(count) if isinstance(count, list) else count
    if stage > 2 or sorted(found) != list(range(count)) or not parts:
        raise ValueError(
            f"{folder}: expected the states of {count or 'some'} processes of ZeRO 1 or 2, got stage {int(stage)} and "
            f"files of the processes {sorted(found)}; copy all files of the step"
        )
    return _load(folder / models[0]), parts


def _load(path: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals(_STAND_INS):  # pyright: ignore[reportArgumentType] (pairs are taken, too)
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"{path} is damaged, or holds objects that are not read because they may execute code ({first}); load "
                "it in DeepSpeed and save it without client_state"
            ) from None


def _read_group(
    index: int,
    shapes: Mapping[str, Sequence[int]],
    parts: list[dict[str, Any]],
    weights: dict[str, Tensor],
    optimizer: dict[str, Any],
) -> None:
    vectors = [part["single_partition_of_fp32_groups"][index] for part in parts]
    states = [_state(part["base_optimizer_state"], index) for part in parts]
    paddings = (parts[0].get("param_alignment_paddings") or {index: [0] * len(shapes)})[index]
    numbers = _numbers(parts[0], states[0], index)
    keys = [key for key, value in states[0].items() if isinstance(value, Tensor) and value.ndim]
    lengths = [vector.numel() for vector in vectors]
    flat = {key: [state[key][:n] for state, n in zip(states, lengths, strict=True)] for key in keys}
    first, members = len(optimizer["state"]), list(shapes)
    position = 0
    for number, ((name, shape), padding) in enumerate(zip(shapes.items(), paddings, strict=True), first):
        count = torch.Size(shape).numel()
        weights[name] = _joined(vectors, position, count).view(tuple(shape))
        state = {key: _joined(flat[key], position, count).view(tuple(shape)) for key in keys}
        optimizer["state"][number] = state | ({"step": numbers["step"]} if state else {})
        position += count + padding
    # The last padding is not among the weights, and the end of the vector is rounded up to the processes.
    if not -sum(paddings[-1:]) <= sum(lengths) - position <= 4 * len(parts):
        raise ValueError(f"group {index} has {sum(lengths)} entries, its parameters {position}; it is incomplete")
    settings = {key: numbers[key] for key in _SETTINGS if key in numbers}
    places = list(range(first, first + len(members)))
    optimizer["param_groups"].append({**settings, "params": places, "param_names": members})


def _state(base: Any, index: int) -> dict[str, Any]:
    """The states of a group's vector: DeepSpeed saves those of the optimizer, or a list ("elastic")."""
    return base[index] if isinstance(base, list) else base["state"].get(index, {})


def _numbers(part: dict[str, Any], state: dict[str, Any], index: int) -> dict[str, Any]:
    base = part["base_optimizer_state"]
    found: dict[str, Any] = {} if isinstance(base, list) else dict(base["param_groups"][index])
    if found.get("bias_correction", True) is False:
        raise ValueError("Adam without bias correction has no counterpart here")
    step = state.get("step", found.get("step", part.get("base_optimizer_state_step", 0)))
    return found | {"step": int(step)}


def _joined(parts: list[Tensor], first: int, count: int) -> Tensor:
    """Entries of a vector that lies in several parts, as a tensor of its own."""
    pieces, start = [], 0
    for part in parts:
        low, high = max(first - start, 0), min(first + count - start, part.numel())
        if low < high:
            pieces.append(part[low:high])
        start += part.numel()
    found = torch.cat(pieces) if pieces else torch.empty(0)
    if found.numel() != count:
        raise ValueError(f"expected {count} entries from {first}, got {found.numel()}: a part is missing")
    return found
