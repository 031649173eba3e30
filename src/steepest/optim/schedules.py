# SPDX-License-Identifier: Apache-2.0
"""The course of the learning rate over a run, as a factor of the largest."""

import dataclasses
import math
from typing import Literal, final, get_args

from steepest.optim.options import one_of
from steepest.optim.rule import check

Kind = Literal["linear", "cosine", "wsd", "1-sqrt", "constant"]


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    r"""The fraction of the largest learning rate that each step uses; call it with the number of the step.

    With $w$ warm-up steps of $T$: $(t+1)/w$ for $t < w$. After that, with the progress $p = (t - w)/(T - w)$, the final
    fraction $f$, and $q = 1 - (T - t)/(dT)$, at least 0, the progress in the last `decay_fraction` $d$ of all steps, it
    is $f + (1 - f) s$:

    | kind | $s$ | |
    |---|---|---|
    | `linear` | $1 - p$ | the last iterate is worst-case optimal; the default choice |
    | `cosine` | $(1 + \cos \pi p)/2$ | |
    | `wsd` | $1 - q$ | stays, then falls: a run can be prolonged from before the fall |
    | `1-sqrt` | $1 - \sqrt q$ | the same with a faster fall at first |
    | `constant` | 1 | for averages of the iterates, `Averaged` and `ScheduleFree` |

    Args:
        kind: One of the names.
        steps: $T$, at least 1.
        warmup: $w$, at least 0; more than all steps is all steps.
        final: $f$ in [0, 1]; `constant` has no use for it.
        decay_fraction: $d$ in (0, 1], of `wsd` and `1-sqrt` alone.

    Raises:
        ValueError: If a value is out of its range.

    Example:
        >>> import torch
        >>> from steepest.optim import AdamW
        >>> optimizer = AdamW([torch.nn.Parameter(torch.zeros(3))], lr=0.5)
        >>> schedule = Schedule(kind="linear", steps=4, warmup=2)
        >>> torch.optim.lr_scheduler.LambdaLR(optimizer, schedule).get_last_lr()
        [0.25]
        >>> [schedule(step) for step in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]

    References:
        Defazio et al. (2023), Optimal linear decay learning rate schedules and further refinements, arXiv 2310.07831
        (linear decay). Hu et al. (2024), MiniCPM: unveiling the potential of small language models with scalable
        training strategies, arXiv 2404.06395 (WSD). Hägele et al. (2024), Scaling laws and compute-optimal training
        beyond fixed training durations, arXiv 2405.18392 (1-sqrt).
    """

    kind: Kind = "linear"
    steps: int
    warmup: int = 0
    final: float = 0.0
    decay_fraction: float = 0.2

    def __post_init__(self) -> None:
        one_of("kind", self.kind, get_args(Kind))
        check("steps", self.steps, 1, math.inf)
        check("warmup", self.warmup, 0, math.inf)
        check("final", self.final, 0, 1, closed="[]")
        check("decay_fraction", self.decay_fraction, 0, 1, closed="(]")

    def __call__(self, step: int) -> float:
        """Return the factor of a step.

        Args:
            step: From 0; at `steps` and later the factor stays where it ended.

        Returns:
            A number in [0, 1], above 0 during the warm-up.
        """
        total, warmup = self.steps, min(self.warmup, self.steps)
        if step < warmup:
            return (step + 1) / warmup
        if self.kind == "constant":
            return 1.0
        step = min(step, total)
        return self.final + (1 - self.final) * self._shape(step, (step - warmup) / max(1, total - warmup))

    def _shape(self, step: int, progress: float) -> float:
        if self.kind == "linear":
            return 1 - progress
        if self.kind == "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
        left = min(1.0, (self.steps - step) / max(1.0, self.decay_fraction * self.steps))
        return left if self.kind == "wsd" else 1 - math.sqrt(1 - left)
