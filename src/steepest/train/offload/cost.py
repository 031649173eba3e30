# SPDX-License-Identifier: Apache-2.0
"""What a step costs when its states are elsewhere: from rates that can be measured, or read off a machine's sheet."""

import math
from dataclasses import dataclass
from typing import Literal, final

from steepest.optim.rule import check

Way = Literal["memory", "serial", "pipelined", "overlapped", "gradients on disk"]


@final
@dataclass(frozen=True, kw_only=True)
class DiskRates:
    """How fast a disk is, in bytes a second.

    Args:
        read: Reading alone.
        write: Writing alone.
        both: Reading and writing at once, together; infinity if neither hinders the other.
        with_gradients: The same where gradients are read from a third place; None if it makes no difference.
    """

    read: float
    write: float
    both: float = math.inf
    with_gradients: float | None = None

    def __post_init__(self) -> None:
        for name in ("read", "write", "both"):
            check(name, getattr(self, name), 0, math.inf, closed="(]")
        if self.with_gradients is not None:
            check("with_gradients", self.with_gradients, 0, math.inf, closed="(]")

    def seconds(self, read: float, write: float, *, gradients: float = 0.0) -> float:
        """Return the least time in which so many bytes are read and written at once.

        Args:
            read: Bytes.
            write: Bytes.
            gradients: Bytes that are read besides.
        """
        both = self.with_gradients if gradients and self.with_gradients else self.both
        read += gradients
        together = (read + write) / both if read and write else 0.0
        return max(read / self.read, write / self.write, together)


@final
@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What a step takes where everything is in memory, and the bytes that it moves where it is not.

    Args:
        forward: Seconds, with what is computed again.
        backward: Seconds.
        update: Seconds of the optimizer.
        read: Bytes of states that a step reads.
        write: Bytes of states and weights that it writes.
        gradients: Bytes of all gradients.
        weights: Bytes of the weights that it copies beside the states.
        swapped: Bytes of activations that go to the disk and come back.
        swapped_part: Of the time of the forward and the backward pass, the part whose activations they are, in [0, 1].
        pieces: Into which states are cut.
        rounds: Of forward and backward pass whose gradients add up to a step, at least 1.
        checked: Bytes a second of the checksums, where they are not in the rates of the disk.
        copied: Bytes a second of copying between tensors and buffers.
        spare: Whether the update has a core of its own while the backward pass runs.
    """

    forward: float
    backward: float
    update: float
    read: float
    write: float
    gradients: float = 0.0
    weights: float = 0.0
    swapped: float = 0.0
    swapped_part: float = 0.0
    pieces: int = 1
    rounds: int = 1
    checked: float = math.inf
    copied: float = math.inf
    spare: bool = True


def step_seconds(way: Way, step: StepCost, disk: DiskRates) -> float:
    r"""Return the predicted time of a training step; the sum of `step_parts`.

    Args:
        way: Where things live and when the steps are taken.
        step: What it takes.
        disk: How fast the disk is.

    Example:
        >>> step = StepCost(forward=1.0, backward=2.0, update=0.5, read=8e9, write=12e9, pieces=100)
        >>> disk = DiskRates(read=4e9, write=4e9)
        >>> [step_seconds(way, step, disk) for way in ("memory", "serial", "pipelined", "overlapped")]
        [3.5, 8.5, 6.05, 4.05]

    References:
        Rajbhandari et al. (2021), ZeRO-Infinity, arXiv 2104.07857. Liao et al. (2024), Fuyou, arXiv 2403.06504.
    """
    return sum(step_parts(way, step, disk).values())


def step_parts(way: Way, step: StepCost, disk: DiskRates) -> dict[str, float]:
    r"""Return the predicted seconds of the forward pass, the backward pass and the optimizer.

    With forward $f$, backward $b$, update $u$ (copying the weights included), the disk's time $d(R, W)$ for reading $R$
    and writing $W$ bytes at once, and one piece's way in and out $p = (d(R, 0) + d(0, W)) / \text{pieces}$:

    - `"memory"`: $f + b + u$;
    - `"serial"`: $f + b + (d(R, 0) + u + d(0, W)$ and the checksums of $R + W$ bytes$)$;
    - `"pipelined"`: $f + b + (\max(u, d(R, W)) + p)$;
    - `"overlapped"`: $f + \max(b, u, d(R, W)) + p$ with a core to spare for the update, else
      $f + \max(b + u, d(R, W)) + p$; of several rounds it is the last one that overlaps;
    - `"gradients on disk"`: $f + \max(b + c, d(0, G)) + (\max(u, d(R + G, W)) + p)$, where $c$ is the time in which $G$
      bytes of gradients are copied; every further round reads, adds and writes them again.

    Activations on the disk: of $f$ and $b$ the part that makes or needs them lasts as long as they are written or read.

    Args:
        way: Where things live and when the steps are taken.
        step: What it takes.
        disk: How fast the disk is.

    Returns:
        Seconds by `"forward"`, `"backward"` and `"optimizer"`.
    """
    part, swapped, rounds = step.swapped_part, step.swapped, step.rounds
    f, b = step.forward, step.backward
    f += max(0.0, swapped / step.copied, disk.seconds(0, swapped) - part * f)
    alone_b = b + max(0.0, disk.seconds(swapped, 0) - part * b)
    u, alone = step.update, disk.seconds(step.read, 0) + disk.seconds(0, step.write)
    if way == "memory":
        return {"forward": f, "backward": alone_b, "optimizer": u}
    u += step.weights / step.copied
    if way == "serial":
        checks = (step.read + step.write) / step.checked
        return {"forward": f, "backward": alone_b, "optimizer": u + alone + checks}
    fill = alone / step.pieces
    if way == "pipelined":
        late = max(u, disk.seconds(step.read, step.write)) + fill
        return {"forward": f, "backward": alone_b, "optimizer": late}
    if way == "overlapped":
        last, moved = alone_b / rounds, disk.seconds(step.read + swapped / rounds, step.write)
        busy = max(last, u, moved) if step.spare else max(last + u, moved)
        return {"forward": f, "backward": alone_b - last + busy, "optimizer": fill}
    g, again = step.gradients, rounds - 1
    b = alone_b + (rounds + 2 * again) * g / step.copied + disk.seconds(again * g, 0)
    late = max(u, disk.seconds(step.read, step.write, gradients=g)) + fill
    return {"forward": f, "backward": max(b, disk.seconds(swapped + again * g, rounds * g)), "optimizer": late}


def efficiency(intensity: float, bandwidth: float, peak: float) -> float:
    r"""Return the part of a processor's peak that is left when data come over a link without overlap.

    $\text{ait} \cdot \text{bw} / (\text{ait} \cdot \text{bw} + \text{peak})$.

    Args:
        intensity: Arithmetic for each byte that is moved, in operations a byte; see `intensities`.
        bandwidth: Of the link, in bytes a second.
        peak: Of the processor, in operations a second.

    Example:
        >>> round(efficiency(intensities(1024, 8192)["weights and gradients"], 70e9, 70e12), 3)
        0.506

    References:
        Rajbhandari et al. (2021), arXiv 2104.07857, section 4.
    """
    for name, value in (("intensity", intensity), ("bandwidth", bandwidth), ("peak", peak)):
        check(name, value, 0, math.inf, closed="()")
    return intensity * bandwidth / (intensity * bandwidth + peak)


def intensities(tokens: int, width: int, *, checkpoint_every: int = 1) -> dict[str, float]:
    """Return operations for each byte moved in training a transformer in mixed precision, by what is moved.

    Args:
        tokens: Sequences times their length, of a step.
        width: Of the hidden states.
        checkpoint_every: Blocks between the activations that are kept.

    References:
        Rajbhandari et al. (2021), arXiv 2104.07857, section 4.1.
    """
    return {
        "weights and gradients": float(tokens),
        "optimizer states": tokens / 4,
        "activation checkpoints": 24.0 * width * checkpoint_every,
    }
