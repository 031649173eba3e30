# SPDX-License-Identifier: Apache-2.0
"""Rules with one buffer through the fused kernel: one sweep over parameters, gradients and states."""

from steepest.kernels.updates import MomentumHyper, momentum_step_
from steepest.optim.compression import kernel_noise, kernel_states
from steepest.optim.rule import Entries, Settings


def fused_momentum_(entries: Entries, settings: Settings, method: MomentumHyper, *, buffer: str | None) -> bool:
    """Take the step of a rule with one buffer, or none.

    Args:
        entries: Parameters and states, changed in place.
        settings: Learning rate, decay and caution.
        method: What the rule is; the numbers of the step are filled in here.
        buffer: Name of its state; None without.

    Returns:
        Whether it was done: not where a buffer is missing.
    """
    if buffer and any(buffer not in state for state in entries.states):
        return False
    hyper = method._replace(
        lr=settings.lr,
        step=entries.step.count,
        weight_decay=settings.weight_decay,
        decay=settings.decay,
        cautious=settings.cautious,
        noise=kernel_noise(entries, buffer) if buffer else None,
    )
    buffers = kernel_states(entries, buffer) if buffer else None
    momentum_step_(entries.params, entries.grads, buffers, hyper, entries.lr_scales)
    return True
