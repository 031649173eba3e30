# SPDX-License-Identifier: Apache-2.0
"""One trainer for all sparse autoencoders."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn

from steepest.nn.sae.autoencoder import SparseAutoencoder
from steepest.optim import Adam, Schedule
from steepest.optim.rule import check

__all__ = ["SAEHistory", "SAETraining", "draw_batches", "train_sae"]


@final
@dataclass(frozen=True, kw_only=True)
class SAETraining:
    """How an autoencoder is trained, whatever its kind.

    Args:
        steps: Optimizer steps.
        lr: Largest learning rate of Adam.
        betas: Of Adam.
        warmup: Steps over which the learning rate rises from 0.
        decay: Last part of the steps, in (0, 1], over which it falls to 0.
        sparsity_warmup: Steps over which the sparsity penalty rises from 0.
        clip: Largest norm of the whole gradient; 0 leaves it alone.
        dead_after: A feature that has not fired for so many steps is dead.
        resample_every: Steps between resamplings of dead features, during the first half; 0 for none.
        log_every: Steps between entries of the history.
        seed: Of the resampling.

    Raises:
        ValueError: If a value is out of its range.
    """

    steps: int
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    decay: float = 0.2
    sparsity_warmup: int = 0
    clip: float = 1.0
    dead_after: int = 500
    resample_every: int = 0
    log_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "dead_after", "log_every"):
            check(name, getattr(self, name), 1, float("inf"))
        for name in ("warmup", "sparsity_warmup", "clip", "resample_every", "seed"):
            check(name, getattr(self, name), 0, float("inf"))
        check("lr", self.lr, 0, float("inf"), closed="()")
        check("decay", self.decay, 0, 1, closed="(]")


@final
@dataclass
class SAEHistory:
    """What happened during training.

    Args:
        rows: Each `log_every` steps: `step`, the parts of the loss, `l0` and the share of `dead` features.
        resampled: Number of features resampled, by step.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    resampled: dict[int, int] = field(default_factory=dict)


def draw_batches(x: Tensor, *, batch: int, seed: int = 0) -> Iterator[Tensor]:
    """Yield random batches of rows without end, every row at most once an epoch.

    Args:
        x: Activations, shape (rows, d_in).
        batch: Rows of a batch, at most those there are. Rows that do not fill an epoch's last batch wait for the next.
        seed: Of the order.

    Yields:
        Shape (batch, d_in).

    Raises:
        ValueError: If there are fewer rows than a batch has.
    """
    if not 1 <= batch <= len(x):
        raise ValueError(f"batch: expected 1 to {len(x)} rows, got {batch}")
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(x), generator=generator)
        for start in range(0, len(x) - batch + 1, batch):
            yield x[order[start : start + batch]]


def train_sae(sae: SparseAutoencoder, activations: Iterable[Tensor], training: SAETraining) -> SAEHistory:
    """Train an autoencoder in place.

    Args:
        sae: Of any kind.
        activations: Batches of shape (batch, d_in), at least one a step: `draw_batches`, an `ActivationStream`, or any
            other source. Best scaled so that the mean square of an entry is near 1 (`input_scale`).
        training: Steps, learning rate, what happens to dead features.

    Returns:
        The history.

    Raises:
        ValueError: If the activations end early or a loss is not finite.

    Example:
        >>> from steepest.nn import TopKSAE
        >>> sae, x = TopKSAE(8, 16, k=2), torch.randn(256, 8)
        >>> history = train_sae(sae, draw_batches(x, batch=32), SAETraining(steps=20, log_every=10))
        >>> [row["step"] for row in history.rows]
        [10, 20]
    """
    optimizer = Adam(list(sae.parameters()), lr=training.lr, betas=training.betas)
    course = Schedule(kind="wsd", steps=training.steps, warmup=training.warmup, decay_fraction=training.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, course)
    generator = torch.Generator().manual_seed(training.seed)
    silent = torch.zeros(sae.d_sae, dtype=torch.long, device=sae.W_enc.device)
    history, source = SAEHistory(), iter(activations)
    for step in range(1, training.steps + 1):
        x = next(source, None)
        if x is None:
            raise ValueError(f"the activations ended after {step - 1} of {training.steps} batches; repeat them")
        dead = silent >= training.dead_after
        losses = sae.losses(x, ramp=min(1.0, step / max(1, training.sparsity_warmup)), dead=dead)
        if not losses.total.isfinite():
            parts = ", ".join(f"{name}={value.item():g}" for name, value in losses.parts.items())
            raise ValueError(f"the loss is not finite at step {step} ({parts}); lower lr or scale the activations")
        optimizer.zero_grad()
        losses.total.backward()
        sae.before_step_()
        if training.clip:
            nn.utils.clip_grad_norm_(sae.parameters(), training.clip)
        optimizer.step()
        schedule.step()
        sae.after_step_()
        fired = (losses.features > 0).any(0)
        silent = torch.where(fired, 0, silent + 1)
        if step % training.log_every == 0:
            l0 = (losses.features > 0).sum(-1).float().mean().item()
            parts = {name: value.item() for name, value in losses.parts.items()}
            history.rows.append({"step": step, **parts, "l0": l0, "dead": dead.float().mean().item()})
        if training.resample_every and step % training.resample_every == 0 and 2 * step <= training.steps:
            history.resampled[step] = _resample(sae, optimizer, x, silent >= training.dead_after, generator)
            silent[silent >= training.dead_after] = 0
    return history


@torch.no_grad()
def _resample(
    sae: SparseAutoencoder, optimizer: torch.optim.Optimizer, x: Tensor, dead: Tensor, generator: torch.Generator
) -> int:
    """Point dead features at badly reconstructed inputs, the worse the likelier, and forget their momenta."""
    indices = dead.nonzero().flatten()
    if not len(indices):
        return 0
    errors = (sae(x) - x).double().square().sum(-1)
    likely = errors.square().clamp(min=1e-300).cpu()
    chosen = torch.multinomial(likely, len(indices), replacement=len(indices) > len(x), generator=generator)
    sae.resample_(indices, x[chosen.to(x.device)] - sae.b_dec)
    for parameter in sae.parameters():
        for state in optimizer.state[parameter].values():
            if isinstance(state, Tensor) and state.shape == parameter.shape and parameter is not sae.b_dec:
                state.index_fill_(0 if parameter is sae.W_dec else -1, indices, 0)
    return len(indices)
