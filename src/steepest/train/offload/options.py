# SPDX-License-Identifier: Apache-2.0
"""How states live on a disk."""

import math
from dataclasses import dataclass
from typing import Literal, final

from steepest.optim.options import one_of
from steepest.optim.rule import check

Gradients = Literal["memory", "disk"]


@final
@dataclass(frozen=True, kw_only=True)
class OffloadOptions:
    """How the states of an optimizer live on a disk.

    Args:
        overlap: Step each parameter as soon as the backward pass has its gradient, and free the gradient; else all
            steps are taken in `step()`. The numbers in the parameter groups must stand before the backward pass.
        max_norm: Largest length of the whole gradient, as `torch.nn.utils.clip_grad_norm_` has it; infinity leaves the
            gradient alone. The length is known when all gradients are, so it excludes `overlap`.
        gradients: `"memory"` as ever, or `"disk"`: each is written as soon as the backward pass has it, and freed;
            it excludes `overlap`.
        master: Keep float32 weights on the disk for parameters of 16 bits: each step is that of a float32 optimizer on
            them, and the parameter becomes their rounding. States are float32 then.
        tile_entries: Entries of a piece of a large parameter that is stepped entry by entry, at least 1024.
        buffer_bytes: Memory for what is between disk and processor. A batch of matrices whose states are larger gets
            what it needs.
        direct: Pass the page cache by; None where the file system allows it.
        threads: That read, and as many that write, at least 1.
        serial: Read, compute and write one after another, for comparison.

    Raises:
        ValueError: If a value is out of its range or two exclude each other.
    """

    overlap: bool = False
    max_norm: float = math.inf
    gradients: Gradients = "memory"
    master: bool = False
    tile_entries: int = 1 << 20
    buffer_bytes: int = 64 << 20
    direct: bool | None = None
    threads: int = 2
    serial: bool = False

    def __post_init__(self) -> None:
        one_of("gradients", self.gradients, ("memory", "disk"))
        check("max_norm", self.max_norm, 0, math.inf, closed="(]")
        check("tile_entries", self.tile_entries, 1024, math.inf)
        check("threads", self.threads, 1, 1024)
        check("buffer_bytes", self.buffer_bytes, 0, math.inf)
        if self.overlap and self.max_norm != math.inf:
            raise ValueError(
                "the length of the whole gradient is known only after the backward pass: max_norm needs overlap=False"
            )
        if self.overlap and self.gradients == "disk":
            raise ValueError("with overlap=True gradients are used as they come and never reach the disk")
