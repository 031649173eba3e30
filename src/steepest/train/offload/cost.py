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
    """

    read: float
    write: float
    both: float = math.inf

    def __post_init__(self) -> None:
        for name in ("read", "write", "both"):
            check(name, getattr(self, name), 0, math.inf, closed="(]")

    def seconds(self, read: float, write: float) -> float:
        """Return the least time in which so many bytes are read and written at once.

        Args:
            read: Bytes.
            write: Bytes.
        """
        return max(read / self.read, write / self.write, (read + write) / self.both)


@final
@dataclass(frozen=True, kw_only=True)
class StepCost:
    """What a step takes where everything is in memory, and the bytes that it moves where it is not.

    Args:
        forward: Seconds.
        backward: Seconds.
        update: Seconds of the optimizer.
        read: Bytes of states that a step reads.
        write: Bytes of states and weights that it writes.
        gradients: Bytes of all gradients.
        pieces: Into which states are cut.
        checked: Bytes a second of the checksums.
    """

    forward: float
    backward: float
    update: float
    read: float
    write: float
    gradients: float = 0.0
    pieces: int = 1
    checked: float = math.inf


def step_seconds(way: Way, step: StepCost, disk: DiskRates) -> float:
    r"""Return the predicted time of a training step.

    With forward $f$, backward $b$, update $u$, the disk's time $d(R, W)$ for reading $R$ and writing $W$ bytes at once,
    and one piece's way in and out $p = (d(R, 0) + d(0, W)) / \text{pieces}$:

    - `"memory"`: $f + b + u$;
    - `"serial"`: $f + b + d(R, 0) + u + d(0, W)$ and the checksums of $R + W$ bytes;
    - `"pipelined"`: $f + b + \max(u, d(R, W)) + p$;
    - `"overlapped"`: $f + \max(b, u, d(R, W)) + p$, with cores to spare for the update;
    - `"gradients on disk"`: $f + \max(b, d(0, G)) + \max(u, d(R + G, W)) + p$.

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
    f, b, u = step.forward, step.backward, step.update
    alone = disk.seconds(step.read, 0) + disk.seconds(0, step.write)
    fill = alone / step.pieces
    if way == "memory":
        return f + b + u
    if way == "serial":
        return f + b + u + alone + (step.read + step.write) / step.checked
    if way == "pipelined":
        return f + b + max(u, disk.seconds(step.read, step.write)) + fill
    if way == "overlapped":
        return f + max(b, u, disk.seconds(step.read, step.write)) + fill
    late = disk.seconds(step.read + step.gradients, step.write)
    return f + max(b, disk.seconds(0, step.gradients)) + max(u, late) + fill


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
