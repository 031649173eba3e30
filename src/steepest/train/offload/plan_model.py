# SPDX-License-Identifier: Apache-2.0
"""The facts of a run on this machine: measured on two blocks of the model, counted on all of it without memory."""

import gc
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import final

import psutil
import torch
from torch import nn

from steepest.kernels import release_memory
from steepest.optim.engine import Engine
from steepest.train import machine, memory
from steepest.train.config import RunConfig
from steepest.train.offload import gradient_course
from steepest.train.offload.cost import DiskRates, StepCost, Way
from steepest.train.offload.disk_profile import copy_rate, profile_disk
from steepest.train.offload.model_profile import ModelProfile, profile_model, two_blocks
from steepest.train.offload.options import OffloadOptions
from steepest.train.offload.pieces import cut
from steepest.train.offload.plan_facts import Activations, Facts, Footprint
from steepest.train.offload.ranks import Ranks
from steepest.train.offload.update_profile import UpdateProfile
from steepest.train.optimizers import build_optimizers

_NO_DISK = DiskRates(read=math.inf, write=math.inf)
_ON_DISK: tuple[Way, ...] = ("pipelined", "overlapped", "gradients on disk")
_TILE = OffloadOptions().tile_entries
BUFFER_BYTES = OffloadOptions().buffer_bytes


@final
class Skeleton:
    """A model and its optimizer without memory: shapes, pieces and states.

    Args:
        config: Of the run; its vocabulary is that of the model.
    """

    def __init__(self, config: RunConfig) -> None:
        with torch.device("meta"):
            model = config.model.build()
        self.engine = _engine(model, config)
        self.pieces = cut(self.engine, _TILE, planned=True)
        for piece in self.pieces:
            piece.make_states(self.engine, Ranks(()))
        named = list(model.named_parameters())
        self.parameters = model.parameter_count()
        self.weights = sum(p.numel() * p.element_size() for _, p in named)
        self.states = sum(piece.state_bytes for piece in self.pieces)
        self.largest_state = max(piece.state_bytes for piece in self.pieces)
        self.stages = gradient_course.stages_of(named, block_of, config.model.layers)
        head = model.lm_head.weight
        self.tied = head.numel() * head.element_size() if config.model.tie_embeddings else 0

    def usual_piece(self) -> dict[str, int]:
        """Return the bytes of states and weights of the piece in whose size half of all bytes move."""
        sizes = sorted((piece.param_bytes, piece.state_bytes) for piece in self.pieces)
        half, seen = sum(size for size, _ in sizes) / 2, 0
        for weights, state in sizes:
            seen += weights
            if seen >= half:
                return {"state": state, "weights": weights}
        raise AssertionError

    def footprint(self, way: Way, rounds: int, update: int) -> Footprint:
        """Return the bytes of a way to keep states and gradients.

        Args:
            way: Of keeping them.
            rounds: Whose gradients add up.
            update: Temporary bytes of the optimizer.
        """
        tiles = sum(piece.param_bytes for piece in self.pieces)
        jobs = [
            piece.state_bytes + piece.param_bytes * (2 if way == "gradients on disk" else 1) for piece in self.pieces
        ]
        buffers = max(max(jobs), min(BUFFER_BYTES, sum(jobs)))
        alive = {
            "overlapped": lambda: gradient_course.used(self.stages, self.pieces, rounds),
            "gradients on disk": lambda: gradient_course.put_away(self.stages, rounds),
        }.get(way, lambda: gradient_course.kept(self.stages, rounds))()
        during = update if way == "overlapped" else 0
        return Footprint(
            states=self.states if way == "memory" else 0,
            buffers=0 if way == "memory" else buffers + during,
            before=alive[-1] if rounds > 1 else 0,
            alive=(*(size + self.tied for size in alive[:-1]), alive[-1]),  # a tied head's waits for the embedding's
            update=update - during,
            disk={"memory": 0, "gradients on disk": 3 * tiles + 2 * self.states}.get(way, 2 * (tiles + self.states)),
        )


def block_of(name: str) -> int | None:
    """Return the index of the block that a parameter's name is in; None for what is around the blocks."""
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return int(match.group(1)) if match else None


def gather_facts(config: RunConfig, folder: Path | None, *, tell: Callable[[str], None] = lambda _: None) -> Facts:
    """Measure and count what a plan is made from; takes some seconds, and the memory of two blocks.

    Args:
        config: Of the run, with nothing left on `"auto"` and the vocabulary of its tokens.
        folder: On the disk to use; None for none.
        tell: Called with what is going on.

    Returns:
        The facts, for this process on this machine with torch's present number of threads.

    Raises:
        ValueError: If the optimizer cannot be stepped in pieces.
        OSError: If the disk refuses.
    """
    new = folder is not None and not folder.exists()
    try:
        with memory.memory_given_back():  # as a run under a limit does
            return _gather(config, folder, tell)
    finally:
        if new and folder is not None and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _gather(config: RunConfig, folder: Path | None, tell: Callable[[str], None]) -> Facts:
    skeleton, rounds = Skeleton(config), config.train.accumulation
    profile, update = _look(config, folder, tell)
    disk, copied = _NO_DISK, math.inf
    if folder:
        tell(f"looking at the disk of {folder}")
        disk, copied = profile_disk(folder, **skeleton.usual_piece()), copy_rate()
    temporary = update.temporary(skeleton.engine, skeleton.pieces)
    excluded = _excluded(config, folder)
    ways: tuple[Way, ...] = ("memory", "pipelined", "overlapped", "gradients on disk")
    acts = _activations(profile, config.model.layers)
    return Facts(
        baseline=_baseline(),
        weights=skeleton.weights,
        activations=acts,
        ways={way: skeleton.footprint(way, rounds, temporary) for way in ways if way not in excluded},
        excluded=excluded,
        aside=max(rounds * (acts.start + max(acts.forward, acts.head)), skeleton.largest_state),
        disk_free=psutil.disk_usage(str(_made(folder))).free if folder else 0,
        cost=_cost(skeleton, profile, update.seconds(skeleton.engine, skeleton.pieces), config, copied),
        piecewise_update=max(update.seconds(skeleton.engine, skeleton.pieces, pipeline=p) for p in (False, True)),
        block_forward=profile.forward * rounds,
        disk=disk,
        parameters=skeleton.parameters,
        notes={
            "model": "measured on a whole round" if profile.exact else "scaled from a smaller round",
            "threads": str(torch.get_num_threads()),
        },
    )


def _look(config: RunConfig, folder: Path | None, tell: Callable[[str], None]) -> tuple[ModelProfile, UpdateProfile]:
    train = config.train
    tell("looking at two blocks of the model")
    model = two_blocks(config.model)
    with tempfile.TemporaryDirectory(prefix="steepest-plan-", dir=_made(folder)) as place:
        profile = profile_model(
            model,
            train.batch // train.accumulation,
            Path(place) if folder else None,
            bfloat16=train.precision == "bfloat16",
        )
    tell("looking at the optimizer")
    for parameter in model.parameters():
        parameter.grad = None
    engine = _engine(model, config)
    return profile, UpdateProfile(engine, cut(engine, _TILE))


def _engine(model: nn.Module, config: RunConfig) -> Engine:
    (optimizer,) = build_optimizers(model, config.optim)
    assert isinstance(optimizer, Engine)
    return optimizer


def _made(folder: Path | None) -> Path | None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _excluded(config: RunConfig, folder: Path | None) -> dict[Way, str]:
    if folder is None:
        return dict.fromkeys(_ON_DISK, "needs --offload DIR")
    if config.train.diagnose_every:
        return dict.fromkeys(_ON_DISK, "cannot look into steps: needs train.diagnose_every=0")
    if config.train.clip:
        return {"overlapped": "clips the whole gradient: needs train.clip=0"}
    return {}


def _activations(profile: ModelProfile, blocks: int) -> Activations:
    return Activations(
        blocks=blocks,
        start=profile.start,
        keep=profile.keep,
        recompute=profile.recompute,
        swap=profile.swap,
        swapped=profile.swapped,
        forward=profile.forward_most,
        head=profile.head_most,
        backward=profile.backward_most,
        buffers=min(BUFFER_BYTES, blocks * profile.swapped),
    )


def _cost(skeleton: Skeleton, profile: ModelProfile, update: float, config: RunConfig, copied: float) -> StepCost:
    blocks, rounds = config.model.layers, config.train.accumulation
    weights = float(sum(piece.param_bytes for piece in skeleton.pieces))
    return StepCost(
        forward=rounds * (blocks * profile.forward + profile.ends_forward),
        backward=rounds * (blocks * profile.backward + profile.ends_backward),
        update=update,
        read=float(skeleton.states),
        write=float(skeleton.states) + weights,
        gradients=weights,
        weights=weights,
        pieces=len(skeleton.pieces),
        rounds=rounds,
        copied=copied,
        spare=torch.get_num_threads() < machine.cores(),
    )


def _baseline() -> int:
    """Bytes of this process when everything that can go is gone."""
    gc.collect()
    release_memory()
    memory.keep_freed_memory(False)
    return psutil.Process().memory_info().rss
