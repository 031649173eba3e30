# SPDX-License-Identifier: Apache-2.0
"""The course of the learning rate over a run."""

import math

from steepest.train.config import TrainConfig


def lr_factor(step: int, config: TrainConfig) -> float:
    r"""Return the fraction of the largest learning rate that step `step` uses.

    With $w$ warm-up steps of $T$: $(t+1)/w$ for $t < w$; after that, with the progress $p = (t - w) / (T - w)$ and the
    final fraction $f$: linear $1 - (1 - f) p$; cosine $f + (1 - f)(1 + \cos \pi p) / 2$; WSD 1 and, over the last
    `decay_fraction` of all steps, linear to $f$; constant 1.

    Args:
        step: From 0 to `config.steps - 1`.
        config: Steps, warm-up, schedule.

    Returns:
        A number in [0, 1], above 0 during the warm-up.

    References:
        Hu et al. (2024), MiniCPM, arXiv 2404.06395 (WSD). Defazio et al. (2023), arXiv 2310.07831 (linear decay).
    """
    total, warmup = config.steps, min(config.warmup, config.steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if config.schedule == "linear":
        shape = 1 - progress
    elif config.schedule == "cosine":
        shape = (1 + math.cos(math.pi * progress)) / 2
    elif config.schedule == "wsd":
        decay = max(1.0, config.decay_fraction * total)
        shape = min(1.0, (total - step) / decay)
    else:
        return 1.0
    return config.final_lr + (1 - config.final_lr) * shape
