# SPDX-License-Identifier: Apache-2.0
"""A run under a limit of memory: planned before it begins, compared with its plan when it ends."""

import dataclasses
import math
import statistics
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from steepest.nn.decoder import Decoder
from steepest.nn.decoder_config import DecoderConfig
from steepest.train import machine
from steepest.train.config import RunConfig
from steepest.train.distributed import Peers
from steepest.train.memory import memory_given_back, memory_kept
from steepest.train.offload import ActivationStore, OffloadOptions, place_activations
from steepest.train.offload.activations import Place
from steepest.train.offload.machines import Workload
from steepest.train.offload.plan import Plan, choose
from steepest.train.offload.plan_model import BUFFER_BYTES, gather_facts
from steepest.train.offload.plan_table import plan_as_json, plan_tables
from steepest.train.progress import Display
from steepest.train.report.units import decimal_size


@final
@dataclass(frozen=True, kw_only=True)
class Within:
    """A limit of memory, for `steepest.train.session.start` and `resume`.

    Args:
        limit: Bytes. What lives where is chosen so that the predicted peak stays below; nothing enforces it.
        folder: For what goes to a disk; None for nothing.
    """

    limit: int
    folder: Path | None = None


@final
@dataclass(frozen=True)
class Placement:
    """Where a run keeps things.

    Args:
        folder: On a disk; None for memory alone.
        plan: What goes there; None for states, and gradients where the whole gradient is clipped.
    """

    folder: Path | None = None
    plan: Plan | None = None

    def memory(self) -> AbstractContextManager[None]:
        """Return the context in which the run's memory is handled.

        Kept memory stays at its peak: who offloads needs it elsewhere, and where a limit is near it is given back.
        """
        if self.plan is not None and 2 * self.plan.peak > self.plan.limit:
            return memory_given_back()
        return memory_kept() if self.plan is not None or self.folder is None else nullcontext()

    def options(self, config: RunConfig) -> OffloadOptions | None:
        """Return how the states are kept on the disk; None if they are not."""
        if self.plan is not None:
            return self.plan.options(config.train.clip or math.inf, BUFFER_BYTES)
        if self.folder is None:
            return None
        if config.train.clip:
            return OffloadOptions(gradients="disk", max_norm=config.train.clip)
        return OffloadOptions(overlap=True)


def resolved(config: RunConfig) -> RunConfig:
    """Return a configuration with what a run decides before it begins: vocabulary and precision.

    Args:
        config: Its vocabulary is the one that is asked for; small data may fill less of it.
    """
    precision = machine.training_precision(config.train.precision)
    return dataclasses.replace(
        config, model=_with_vocabulary(config), train=dataclasses.replace(config.train, precision=precision)
    )


def _with_vocabulary(config: RunConfig) -> DecoderConfig:
    vocabulary = 256 if config.data.tokenizer == "bytes" else config.data.vocab_size
    return dataclasses.replace(config.model, vocab_size=vocabulary)


def workload(config: RunConfig) -> Workload:
    """Return what a step of a configuration's model takes on a machine with devices, `train.batch` on each.

    Args:
        config: Of the model.
    """
    shape = _with_vocabulary(config)
    with torch.device("meta"):
        model = shape.build()
    return Workload(
        parameters=float(model.parameter_count()),
        width=shape.width,
        layers=shape.layers,
        heads=shape.heads,
        sequences=config.train.batch,
        length=shape.context,
        flops_per_token=model.flops_per_token(shape.context),
    )


def place(config: RunConfig, offload: Path | Within | None, peers: Peers, display: Display) -> Placement:
    """Decide where a run keeps things; with a limit of memory plan it, and show the plan.

    Args:
        config: Of the run, with nothing left on `"auto"`.
        offload: A folder on a disk, or a limit.
        peers: The processes; a limit is for one alone.
        display: What the user sees.

    Raises:
        ValueError: If nothing fits (`NothingFitsError`), or a limit is given for several processes or with diagnostics.
        OSError: If the disk refuses.
    """
    if not isinstance(offload, Within):
        return Placement(offload)
    if peers.world > 1:
        raise ValueError(f"--memory-limit plans for one process, there are {peers.world}; use --shard without it")
    facts = gather_facts(config, offload.folder, tell=lambda what: display.note(f"plan    {what}"))
    plan = choose(facts, offload.limit)
    display.console.print(plan_tables(plan))
    return Placement(offload.folder, plan)


def place_blocks(model: Decoder, placement: Placement, stack: ExitStack) -> None:
    """Put the activations of the blocks where the plan has them.

    Args:
        model: Its blocks are changed.
        placement: What goes where.
        stack: Undoes it.
    """
    plan, folder = placement.plan, placement.folder
    if plan is None:
        return
    choice, acts = plan.choice, plan.facts.activations
    store = None
    if choice.swap and folder:
        stack.callback(_remove_if_empty, folder)
        store = stack.enter_context(ActivationStore(folder, buffer_bytes=max(1, acts.buffers)))
    counts: dict[Place, int] = {"swap": choice.swap, "recompute": choice.recompute, "keep": choice.keep}
    held: dict[Place, int] = {"swap": acts.swap, "recompute": acts.recompute, "keep": acts.keep}
    ascending: list[Place] = sorted(counts, key=lambda one: held[one])
    places: list[Place] = [one for one in ascending for _ in range(counts[one])]
    for block, where in zip(model.model.get_submodule("layers").children(), places, strict=True):
        stack.callback(place_activations(block, where, store))


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def compared(plan: Plan, seconds: list[float], display: Display) -> dict[str, Any]:
    """Show what was predicted beside what was measured, and return both.

    Args:
        plan: The prediction.
        seconds: Of the steps of this process.
        display: What the user sees.
    """
    measured = statistics.median(seconds[1:] or seconds) if seconds else None
    peak = machine.peak_rss()
    step = f"{plan.seconds:.3g} s predicted" + (f", {measured:.3g} s measured" if measured else "")
    display.note(
        f"plan    step {step}; peak {decimal_size(plan.peak)} predicted, {decimal_size(peak)} measured; "
        f"limit {decimal_size(plan.limit)}"
    )
    return {**plan_as_json(plan), "measured_step_seconds": measured, "measured_peak_bytes": peak}
