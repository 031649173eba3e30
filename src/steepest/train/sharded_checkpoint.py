# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of sharded runs through `torch.distributed.checkpoint`, readable by any number of processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.optim import Optimizer

from steepest.nn.decoder import Decoder
from steepest.nn.pretrained import WEIGHTS
from steepest.nn.weights_file import read_weights
from steepest.train import checkpoint, files
from steepest.train.checkpoint import Progress
from steepest.train.distributed import Peers
from steepest.train.sharded_reading import read_shards

if TYPE_CHECKING:
    from steepest.train.offload import Offload

_SHARDS = "shards"


def save(
    path: Path,
    model: Decoder,
    optimizers: Sequence[Optimizer],
    progress: Progress,
    peers: Peers,
    offload: "Offload | None" = None,
) -> None:
    """Write a checkpoint of a sharded model; every process writes its own part.

    Args:
        path: Folder to make; must not exist.
        model: Sharded with FSDP2.
        optimizers: Of its parameters.
        progress: Position of the run.
        peers: The processes.
        offload: Holds the states of the only optimizer, if they are on a disk.

    Raises:
        OSError: If the disk refuses; nothing is then left under `path`.
    """
    temporary = Path(peers.share(str(files.incomplete(path))))
    if peers.is_main:
        temporary.mkdir(parents=True)
    peers.wait()
    if offload is None:
        (model_state, optimizer_state), planner = get_state_dict(model, list(optimizers)), None
    else:
        from steepest.train.offload.shards import stand_ins

        model_state = get_model_state_dict(model)
        optimizer_state, planner = stand_ins(model, offload)
    failure = ""
    try:
        state = {"model": model_state, "optimizer": optimizer_state}
        state_dict_saver.save(state, checkpoint_id=temporary / _SHARDS, planner=planner)
        if peers.is_main:
            numbers = _numbers(model, optimizers, offload)
            checkpoint.write_description(temporary, model, numbers, progress)
            files.publish(temporary, path)
    except Exception as error:  # what the disk refuses reaches us in several classes here
        failure = str(error)
    failed = peers.sum(float(bool(failure)))[0] > 0
    if failed:
        if peers.is_main:
            files.discard(temporary)
        raise OSError(failure or "another process could not write its part")


def load(path: Path, model: Decoder, optimizers: Sequence[Optimizer], offload: "Offload | None" = None) -> Progress:
    """Read any checkpoint into a model, sharded or not.

    Args:
        path: Folder written by `save` or by `steepest.train.checkpoint.save`.
        model: Changed in place.
        optimizers: Changed in place.
        offload: Takes the states of the only optimizer, if they are to be on a disk.

    Returns:
        The position of the run.

    Raises:
        ValueError: If it does not fit.
    """
    numbers, progress = checkpoint.read_description(path)
    if offload is not None:
        _load_to_disk(path, model, offload, numbers)
        return progress
    model_state, optimizer_state = get_state_dict(model, list(optimizers))
    if checkpoint.is_sharded(path):
        state = {"model": model_state, "optimizer": optimizer_state}
        read_shards(path / _SHARDS, state)
        options = StateDictOptions()
    else:
        state = {
            "model": _whole_weights(path, model),
            "optimizer": _full_optimizer_state(path, optimizer_state, numbers),
        }
        options = StateDictOptions(full_state_dict=True)
    set_state_dict(
        model,
        list(optimizers),
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=options,
    )
    # What is empty in a group (a tuple of no blocks) is lost in the nested names of `torch.distributed.checkpoint`.
    for optimizer, entry in zip(optimizers, numbers, strict=True):
        for group, saved in zip(optimizer.param_groups, entry["groups"], strict=True):
            for key in saved.keys() - group.keys():
                group[key] = tuple(saved[key]) if isinstance(saved[key], list) else saved[key]
    return progress


def _numbers(model: Decoder, optimizers: Sequence[Optimizer], offload: "Offload | None") -> list[Any]:
    if offload is None:
        return checkpoint.flatten_states(model, optimizers)[1]
    from steepest.train.offload.checkpoint import numbers_of

    return numbers_of(model, offload)


def _load_to_disk(path: Path, model: Decoder, offload: "Offload", numbers: list[Any]) -> None:
    from steepest.train.offload.shards import load_states

    sharded = checkpoint.is_sharded(path)
    if sharded:
        weights = get_model_state_dict(model)
        read_shards(path / _SHARDS, {"model": weights})
    else:
        weights = _whole_weights(path, model)
    set_model_state_dict(model, weights, options=StateDictOptions(full_state_dict=not sharded))
    load_states(path / (_SHARDS if sharded else checkpoint.OPTIMIZER), model, offload, numbers, sharded=sharded)


def _whole_weights(path: Path, model: Decoder) -> dict[str, Any]:
    weights: dict[str, Any] = read_weights(path / WEIGHTS)
    if model.config.tie_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def load_weights(path: Path, model: Decoder) -> None:
    """Read the weights of a sharded checkpoint into an unsharded model, in one process.

    Args:
        path: Folder written by `save`.
        model: Changed in place.
    """
    read_shards(path / _SHARDS, {"model": model.state_dict()})


def _full_optimizer_state(path: Path, template: dict[str, Any], numbers: list[Any]) -> dict[str, Any]:
    """The unsharded optimizer tensors in the form that `set_state_dict` takes."""
    state: dict[str, dict[str, Any]] = {}
    for name, tensor in read_weights(path / checkpoint.OPTIMIZER).items():
        if name != "rng":
            _, parameter, key = name.split(checkpoint.SEPARATOR)
            state.setdefault(parameter, {})[key] = tensor
    for entry in numbers:
        for parameter, plain in entry["state"].items():
            state.setdefault(parameter, {}).update(plain)
    return {"state": state, "param_groups": template["param_groups"]}
