# SPDX-License-Identifier: Apache-2.0
"""What a plan is made from: bytes and seconds of a model, an optimizer and a disk, and what a choice makes of them."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, final

from steepest.train.offload.cost import DiskRates, StepCost, Way, step_parts


class Choice(NamedTuple):
    """Where things live.

    Args:
        way: Of states and gradients.
        keep: Blocks whose activations wait in memory; these are the last ones.
        recompute: Blocks that are computed again.
        swap: Blocks whose activations go to the disk.
    """

    way: Way
    keep: int
    recompute: int
    swap: int


@final
@dataclass(frozen=True, kw_only=True)
class Activations:
    """Bytes of one round through a model of equal blocks.

    Args:
        blocks: How many.
        start: Made before the first block and held until the end.
        keep: Held by a block between its forward and its backward pass.
        recompute: The same if it is computed again.
        swap: The same if its activations go to the disk.
        swapped: Then on the disk.
        forward: Most beyond what the blocks before hold, while a block's forward pass runs.
        head: Most beyond what the blocks hold, between the forward and the backward pass of the last one.
        backward: Most beyond what the blocks before hold and gradients of parameters, while a block's backward pass
            runs.
        buffers: For what is on its way to the disk and back, if anything is.
    """

    blocks: int
    start: int
    keep: int
    recompute: int
    swap: int
    swapped: int
    forward: int
    head: int
    backward: int
    buffers: int = 0

    def order(self, choice: Choice) -> list[int]:
        """Return what each block holds, from the first one to the last.

        The backward pass frees the last block first, while gradients come: so those that hold the most come last.
        """
        held = [(self.keep, choice.keep), (self.recompute, choice.recompute), (self.swap, choice.swap)]
        return [bytes_ for bytes_, count in sorted(held) for _ in range(count)]


@final
@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes in one of the ways to keep states and gradients.

    Args:
        states: In memory.
        buffers: Between memory and disk, and temporary ones of steps during the backward pass.
        before: Gradients that are there in the forward pass, of earlier rounds.
        alive: Most gradients after those of the head have come, after those of each block from the last to the first,
            and after those of the embedding.
        update: Temporary tensors of the optimizer's step.
        disk: On the disk.
    """

    states: int
    buffers: int
    before: int
    alive: tuple[int, ...]
    update: int
    disk: int


class Moment(NamedTuple):
    """Bytes at a moment of a step that is a candidate for its peak.

    Args:
        phase: Where it is.
        gradients: Of parameters.
        activations: Held by blocks for their backward pass.
        working: Everything else that comes and goes.
    """

    phase: str
    gradients: int
    activations: int
    working: int

    @property
    def total(self) -> int:
        """All three."""
        return self.gradients + self.activations + self.working


@final
@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a plan is made from.

    Args:
        baseline: Bytes of the process without the model.
        weights: Bytes.
        activations: Of a round.
        ways: The ways there are to choose from.
        excluded: The other ways, with why.
        aside: Most bytes beyond weights and states that an evaluation or a checkpoint takes.
        disk_free: Bytes on the disk; 0 without one.
        cost: Of a step whose activations are kept.
        piecewise_update: Seconds of the optimizer in the thread of a pipeline, piece by piece.
        block_forward: Seconds of the forward pass of a block, over all rounds.
        disk: Its rates.
        parameters: How many.
        notes: What the numbers come from.
    """

    baseline: int
    weights: int
    activations: Activations
    ways: Mapping[Way, Footprint]
    excluded: Mapping[Way, str]
    aside: int
    disk_free: int
    cost: StepCost
    piecewise_update: float
    block_forward: float
    disk: DiskRates
    parameters: int = 0
    notes: Mapping[str, str] = field(default_factory=dict)

    def choices(self) -> Iterator[Choice]:
        """Yield every choice that there is; without a disk nothing goes there."""
        blocks = self.activations.blocks
        for way in self.ways:
            for keep in range(blocks, -1, -1):
                for swap in range(blocks - keep + 1 if self.disk_free else 1):
                    yield Choice(way, keep, blocks - keep - swap, swap)

    def resident(self, choice: Choice) -> int:
        """Return the bytes that are there all the time."""
        way = self.ways[choice.way]
        buffers = way.buffers + (self.activations.buffers if choice.swap else 0)
        return self.baseline + self.weights + way.states + buffers

    def moments(self, choice: Choice) -> Iterator[Moment]:
        """Yield the moments one of which is the peak."""
        acts, way = self.activations, self.ways[choice.way]
        held = acts.order(choice)
        before = sum(held)
        yield Moment("forward pass", way.before, before - held[-1], acts.start + acts.forward)
        yield Moment("loss", max(way.before, way.alive[0]), before, acts.start + acts.head)
        for index, gradients in zip(range(acts.blocks - 1, -1, -1), way.alive[1:-1], strict=True):
            before -= held[index]
            yield Moment("backward pass", max(way.before, gradients), before, acts.start + acts.backward)
        yield Moment("optimizer", way.alive[-1], 0, max(acts.start, way.update))
        yield Moment("evaluation or checkpoint", 0, 0, self.aside)

    def peak(self, choice: Choice) -> int:
        """Return the most bytes that are there at any moment of a step."""
        return self.resident(choice) + max(moment.total for moment in self.moments(choice))

    def on_disk(self, choice: Choice) -> int:
        """Return the bytes on the disk."""
        return self.ways[choice.way].disk + choice.swap * self.activations.swapped * self.cost.rounds

    def seconds(self, choice: Choice) -> dict[str, float]:
        """Return the predicted seconds of a step by part."""
        cost, part = self.cost, choice.swap * self.block_forward / (self.cost.forward or 1.0)
        changed = dataclasses.replace(
            cost,
            backward=cost.backward + choice.recompute * self.block_forward,
            update=cost.update if choice.way == "memory" else self.piecewise_update,
            swapped=float(choice.swap * self.activations.swapped * cost.rounds),
            swapped_part=min(1.0, part),
        )
        return step_parts(choice.way, changed, self.disk)
