# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: the whole state of a run, in files that execute no code when they are read.

A checkpoint is a folder `checkpoints/step_000200` with the weights in Hugging Face's Llama layout, the optimizers'
tensors beside them, their numbers in `state.json`, and a manifest of checksums. Sharded runs write their tensors as a
`torch.distributed.checkpoint` folder instead; either kind is read by any number of processes.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from steepest.nn.decoder import Decoder
from steepest.nn.pretrained import CONFIG, WEIGHTS, load_weights, weights_to_save
from steepest.nn.weights_file import read_weights
from steepest.train import files

if TYPE_CHECKING:
    from steepest.train.offload import Offload

#: Raised when a checkpoint's files change their meaning.
FORMAT = 1
OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
SEPARATOR = "/"


@dataclass(kw_only=True)
class Progress:
    """How far a run has come: everything besides tensors that a resumed run needs.

    Args:
        step: Optimizer steps taken. The order of the data is a function of the seed and the step, so this is its
            position too.
        tokens: Training tokens seen.
        seconds: Time spent training.
        metrics_bytes: Length of `metrics.jsonl` at this moment.
        best: Lowest bits per byte of an evaluation so far.
        evaluated_step: Step of the last evaluation.
        evaluated: Bits per byte of the last evaluation.
        best_step: The checkpoint with the lowest bits per byte.
        best_checkpoint: Its bits per byte.
        time_split: Seconds by part of the loop.
        settings: The settings that a run keeps, see `kept_settings`; empty in older checkpoints.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    metrics_bytes: int = 0
    best: float = float("inf")
    evaluated_step: int | None = None
    evaluated: float | None = None
    best_step: int | None = None
    best_checkpoint: float = float("inf")
    time_split: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


@final
class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: `RUN/checkpoints`.
        keep_last: Newest ones to keep, besides the best.
    """

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        self.folder, self.keep_last = folder, keep_last

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` steps."""
        return self.folder / f"step_{step:08d}"

    def steps(self) -> list[int]:
        """Return the steps of all complete checkpoints, oldest first."""
        return sorted(int(p.name[5:]) for p in self.folder.glob("step_*") if p.is_dir() and p.name[5:].isdigit())

    def newest_intact(self) -> tuple[Path, list[str]]:
        """Return the newest checkpoint whose checksums hold, and a warning for each damaged one that is newer.

        Raises:
            ValueError: If there is none.
        """
        warnings = []
        for step in reversed(self.steps()):
            reason = files.damage(self.path(step))
            if reason is None:
                return self.path(step), warnings
            warnings.append(f"checkpoint {self.path(step).name} is damaged: {reason}")
        detail = "; ".join(warnings) or "none was written yet"
        raise ValueError(f"no intact checkpoint in {self.folder} ({detail}); start the run again under another name")

    def remove_old(self, best: int | None) -> None:
        """Remove all but the newest `keep_last` checkpoints and the best one."""
        for step in self.steps()[: -self.keep_last]:
            if step != best:
                shutil.rmtree(self.path(step), ignore_errors=True)


def save(
    path: Path,
    model: Decoder,
    optimizers: Sequence[Optimizer],
    progress: Progress,
    offload: "Offload | None" = None,
) -> None:
    """Write a checkpoint of an unsharded model.

    Args:
        path: Folder to make.
        model: Its weights are written.
        optimizers: Their states are written.
        progress: Position of the run.
        offload: Holds the states of the only optimizer, if they are on a disk.

    Raises:
        OSError: If the disk refuses; nothing is then left under `path`.
    """
    with files.complete_folder(path) as folder, _disk_errors_as_os_errors():
        save_file(weights_to_save(model.state_dict(), model.config), folder / WEIGHTS, metadata={"format": "pt"})
        rng = {"rng": torch.get_rng_state()}
        if offload is None:
            tensors, numbers = flatten_states(model, optimizers)
            save_file(tensors | rng, folder / OPTIMIZER)
        else:
            from steepest.train.offload.checkpoint import numbers_of, save_states

            numbers = numbers_of(model, offload)
            save_states(folder / OPTIMIZER, model, offload, rng)
        write_description(folder, model, numbers, progress)


def write_description(folder: Path, model: Decoder, numbers: list[Any], progress: Progress) -> None:
    """Write the parts of a checkpoint that are not tensors."""
    files.write_json(folder / CONFIG, model.config.to_json())
    files.write_json(folder / _STATE, {"format": FORMAT, "progress": vars(progress), "optimizers": numbers})


def load(path: Path, model: Decoder, optimizers: Sequence[Optimizer], offload: "Offload | None" = None) -> Progress:
    """Read a checkpoint into an unsharded model and its optimizers.

    Args:
        path: Folder written by `save`, with the states in memory or on a disk.
        model: Changed in place.
        optimizers: Changed in place; built as for the run that wrote the checkpoint.
        offload: Takes the states of the only optimizer, if they are to be on a disk.

    Returns:
        The position of the run.

    Raises:
        ValueError: If the checkpoint is of another format or does not fit the model or the optimizers.
    """
    numbers, progress = read_description(path)
    load_weights(model, read_weights(path / WEIGHTS), source=str(path / WEIGHTS))
    if offload is not None:
        from steepest.train.offload.checkpoint import load_states

        with _strangeness_as_value_errors(path), safe_open(path / OPTIMIZER, "pt") as file:
            generator = file.get_tensor("rng")
            load_states(path / OPTIMIZER, model, offload, numbers)
            torch.set_rng_state(generator)
        return progress
    tensors = read_weights(path / OPTIMIZER)
    with _strangeness_as_value_errors(path):
        generator = tensors.pop("rng")
        restore_states(model, optimizers, tensors, numbers)
        torch.set_rng_state(generator)
    return progress


def read_description(path: Path) -> tuple[list[Any], Progress]:
    """Return the optimizers' numbers and the position of the run that a checkpoint holds.

    Raises:
        ValueError: If the checkpoint is of another format.
    """
    state = files.read_json(path / _STATE)
    if state.get("format") != FORMAT:
        raise ValueError(
            f"{path} has checkpoint format {state.get('format')}, this version of steepest reads {FORMAT}; "
            "use the version named in the run's environment.json"
        )
    with _strangeness_as_value_errors(path):
        return state["optimizers"], Progress(**state["progress"])


def is_sharded(path: Path) -> bool:
    """Whether a checkpoint was written by a sharded run."""
    return not (path / WEIGHTS).exists()


def flatten_states(model: torch.nn.Module, optimizers: Sequence[Optimizer]) -> tuple[dict[str, Tensor], list[Any]]:
    """Return the optimizers' tensors by `index/parameter/key`, and their other numbers as plain values.

    Parameters go by name, so that a checkpoint does not depend on the order of groups within the file.

    Args:
        model: Gives the parameters their names.
        optimizers: Any `torch.optim.Optimizer` whose state holds tensors, numbers and texts.
    """
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    numbers: list[Any] = []
    for index, optimizer in enumerate(optimizers):
        plain: dict[str, dict[str, Any]] = {}
        for parameter, state in optimizer.state.items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[SEPARATOR.join((str(index), names[parameter], key))] = value.detach().contiguous()
                else:
                    plain.setdefault(names[parameter], {})[key] = value
        groups = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        members = [[names[p] for p in group["params"]] for group in optimizer.param_groups]
        numbers.append({"class": type(optimizer).__name__, "groups": groups, "members": members, "state": plain})
    return tensors, numbers


def restore_states(
    model: torch.nn.Module, optimizers: Sequence[Optimizer], tensors: dict[str, Tensor], numbers: list[Any]
) -> None:
    """Give optimizers the states that `flatten_states` returned.

    Args:
        model: Gives the parameters their names.
        optimizers: Changed in place.
        tensors: As from `flatten_states`.
        numbers: As from `flatten_states`.

    Raises:
        ValueError: If the optimizers are others than those that were saved.
    """
    saved = [(entry["class"], entry["members"]) for entry in numbers]
    names = {parameter: name for name, parameter in model.named_parameters()}
    here = [(type(o).__name__, [[names[p] for p in group["params"]] for group in o.param_groups]) for o in optimizers]
    if saved != here:
        raise ValueError(
            f"the checkpoint holds the state of {' + '.join(name for name, _ in saved)}, the run uses "
            f"{' + '.join(name for name, _ in here)} or other groups; resume with the configuration of the run"
        )
    for index, (optimizer, entry) in enumerate(zip(optimizers, numbers, strict=True)):
        state: dict[int, dict[str, Any]] = {}
        position = 0
        for members in entry["members"]:
            for name in members:
                prefix = SEPARATOR.join((str(index), name, ""))
                own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                own |= entry["state"].get(name, {})
                if own:
                    state[position] = own
                position += 1
        template = optimizer.state_dict()["param_groups"]
        groups = [
            {**saved_group, "params": group["params"]}
            for saved_group, group in zip(entry["groups"], template, strict=True)
        ]
        for group in groups:
            # JSON has no tuples; optimizers compare or unpack these either way.
            group.update(
                {key: tuple(value) for key, value in group.items() if isinstance(value, list) and key != "params"}
            )
        optimizer.load_state_dict({"state": state, "param_groups": groups})


@contextmanager
def _strangeness_as_value_errors(path: Path) -> Iterator[None]:
    """What has the right checksums and yet is no checkpoint of ours fails somewhere inside."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
        raise ValueError(f"{path} does not fit the run: {type(error).__name__} {error}") from error


@contextmanager
def _disk_errors_as_os_errors() -> Iterator[None]:
    """Full disks reach us as `SafetensorError`; callers know `OSError`."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(f"the weights could not be written: {error}") from None
