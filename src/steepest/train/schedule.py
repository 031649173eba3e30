# SPDX-License-Identifier: Apache-2.0
"""The course of the learning rate of a run, from its configuration."""

from steepest.optim.schedules import Schedule
from steepest.train.config import TrainConfig


def schedule_of(config: TrainConfig) -> Schedule:
    """Return the schedule that a configuration names.

    Args:
        config: Steps, warm-up, schedule.
    """
    return Schedule(
        kind=config.schedule,  # pyright: ignore[reportArgumentType] (checked by the schedule)
        steps=config.steps,
        warmup=config.warmup,
        final=config.final_lr,
        decay_fraction=config.decay_fraction,
    )
