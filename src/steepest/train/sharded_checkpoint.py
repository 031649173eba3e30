# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of sharded runs through `torch.distributed.checkpoint`, readable by any number of processes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.optim import Optimizer

from steepest.nn.decoder import Decoder
from steepest.nn.pretrained import WEIGHTS
from steepest.nn.weights_file import read_weights
from steepest.train import checkpoint, files
from steepest.train.checkpoint import Progress
from steepest.train.distributed import Peers
from steepest.train.sharded_reading import read_shards

_SHARDS = "shards"


def save(path: Path, model: Decoder, optimizers: Sequence[Optimizer], progress: Progress, peers: Peers) -> None:
    """Write a checkpoint of a sharded model; every process writes its own part.

    Args:
        path: Folder to make; must not exist.
        model: Sharded with FSDP2.
        optimizers: Of its parameters.
        progress: Position of the run.
        peers: The processes.

    Raises:
        OSError: If the disk refuses; nothing is then left under `path`.
    """
    temporary = Path(peers.share(str(files.incomplete(path))))
    if peers.is_main:
        temporary.mkdir(parents=True)
    peers.wait()
    model_state, optimizer_state = get_state_dict(model, list(optimizers))
    failure = ""
    try:
        state_dict_saver.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=temporary / _SHARDS)
        if peers.is_main:
            _, numbers = checkpoint.flatten_states(model, optimizers)
            checkpoint.write_description(temporary, model, numbers, progress)
            files.publish(temporary, path)
    except Exception as error:  # what the disk refuses reaches us in several classes here
        failure = str(error)
    failed = peers.sum(float(bool(failure)))[0] > 0
    if failed:
        if peers.is_main:
            files.discard(temporary)
        raise OSError(failure or "another process could not write its part")


def load(path: Path, model: Decoder, optimizers: Sequence[Optimizer]) -> Progress:
    """Read any checkpoint into a model, sharded or not.

    Args:
        path: Folder written by `save` or by `steepest.train.checkpoint.save`.
        model: Changed in place.
        optimizers: Changed in place.

    Returns:
        The position of the run.

    Raises:
        ValueError: If it does not fit.
    """
    numbers, progress = checkpoint.read_description(path)
    model_state, optimizer_state = get_state_dict(model, list(optimizers))
    if checkpoint.is_sharded(path):
        state = {"model": model_state, "optimizer": optimizer_state}
        read_shards(path / _SHARDS, state)
        options = StateDictOptions()
    else:
        state = {
            "model": read_weights(path / WEIGHTS),
            "optimizer": _full_optimizer_state(path, optimizer_state, numbers),
        }
        if model.config.tie_embeddings:
            state["model"]["lm_head.weight"] = state["model"]["model.embed_tokens.weight"]
        options = StateDictOptions(full_state_dict=True)
    set_state_dict(
        model,
        list(optimizers),
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=options,
    )
    return progress


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
