# SPDX-License-Identifier: Apache-2.0
"""How good a sparse autoencoder is: sparsity, error, shrinkage, dead features, and the model's loss with it inside."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from steepest.nn.sae.autoencoder import SparseAutoencoder
from steepest.nn.sae.stream import replaced

__all__ = ["LossRecovered", "SAEMetrics", "evaluate_sae", "loss_recovered"]


@final
@dataclass(frozen=True)
class SAEMetrics:
    r"""What `evaluate_sae` measures.

    Args:
        l0: Mean number of active features.
        fvu: Fraction of variance unexplained, $\sum \|x - \hat x\|^2 / \sum \|x - \bar x\|^2$.
        gamma: Factor of $\hat x - b_\mathrm{dec}$ that would make the error smallest: 1 without shrinkage, above 1 if
            the features are too small.
        dead: Share of features that never fired.
        rows: Number of activations seen.
    """

    l0: float
    fvu: float
    gamma: float
    dead: float
    rows: int


@torch.no_grad()
def evaluate_sae(sae: SparseAutoencoder, activations: Iterable[Tensor]) -> SAEMetrics:
    """Measure an autoencoder on activations it was not trained on.

    Args:
        sae: Of any kind.
        activations: Finitely many batches of shape (batch, d_in).

    Returns:
        The metrics. All sums are in float64.

    Raises:
        ValueError: If there are no activations.

    Example:
        >>> from steepest.nn import TopKSAE
        >>> evaluate_sae(TopKSAE(8, 16, k=2), [torch.randn(64, 8)]).l0 <= 2
        True
    """
    error = active = along = size = square = 0.0
    total, rows = torch.zeros(sae.d_in, dtype=torch.float64), 0
    fired = torch.zeros(sae.d_sae, dtype=torch.bool, device=sae.W_enc.device)
    for x in activations:
        features = sae.encode(x)
        wide, sparse = x.double(), (sae.decode(features) - sae.b_dec).double()
        centred = wide - sae.b_dec.double()
        error += (centred - sparse).square().sum().item()
        along += (centred * sparse).sum().item()
        size += sparse.square().sum().item()
        square += wide.square().sum().item()
        total += wide.sum(0).cpu()
        active += (features > 0).sum().item()
        fired |= (features > 0).any(0)
        rows += len(x)
    if not rows:
        raise ValueError("there are no activations to evaluate on; give at least one batch that is not empty")
    variance = square - (total.square().sum() / rows).item()
    return SAEMetrics(
        l0=active / rows,
        fvu=error / variance if variance > 0 else float("nan"),
        gamma=along / size if size > 0 else float("nan"),
        dead=1 - fired.double().mean().item(),
        rows=rows,
    )


@final
@dataclass(frozen=True)
class LossRecovered:
    """A model's loss with an autoencoder in the place of its activations.

    Args:
        clean: Loss of the model itself.
        spliced: Loss with the reconstruction in place.
        zeroed: Loss with zeros in place.
    """

    clean: float
    spliced: float
    zeroed: float

    @property
    def recovered(self) -> float:
        """Share of the loss between zeros and the model itself that the reconstruction keeps; 1 is all of it."""
        return (self.zeroed - self.spliced) / (self.zeroed - self.clean)


@torch.no_grad()
def loss_recovered(
    model: nn.Module,
    site: str,
    sae: SparseAutoencoder,
    batches: Iterable[Any],
    loss: Callable[[nn.Module, Any], Tensor],
) -> LossRecovered:
    """Measure what a model's loss becomes when a module's output is replaced by its reconstruction.

    Args:
        model: In evaluation mode, if that matters to it.
        site: Name of the module whose output the autoencoder knows.
        sae: The autoencoder, of the activations as they are (`fold_input_scale_`).
        batches: What the loss takes; read three times in turn, so it is kept as a list.
        loss: From the model and a batch to losses, whose mean counts.

    Returns:
        The three losses.

    Raises:
        ValueError: If there are no batches or the model has no such module.
    """
    kept = list(batches)
    if not kept:
        raise ValueError("there are no batches to measure the loss on")

    def mean() -> float:
        return sum(loss(model, batch).double().mean().item() for batch in kept) / len(kept)

    clean = mean()
    with replaced(model, site, lambda x: sae(x.to(sae.W_enc.dtype)).to(x.dtype)):
        spliced = mean()
    with replaced(model, site, torch.zeros_like):
        zeroed = mean()
    return LossRecovered(clean, spliced, zeroed)
