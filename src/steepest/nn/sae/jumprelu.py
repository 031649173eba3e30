# SPDX-License-Identifier: Apache-2.0
"""The autoencoder with a learnable threshold for each feature."""

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from steepest import functional
from steepest.nn.sae.autoencoder import SAELosses, SAEOptions, SparseAutoencoder, collect, squared_error
from steepest.optim.options import one_of
from steepest.optim.rule import check

__all__ = ["JumpReLUSAE", "JumpReLUTraining"]


@final
@dataclass(frozen=True, kw_only=True)
class JumpReLUTraining:
    r"""How the thresholds are learned.

    Args:
        threshold: Where they start.
        bandwidth: Width $\varepsilon$ of the straight-through estimator's window; narrower is less biased and noisier.
            In units of the pre-activations.
        penalty: `"l0"`: the number of active features. `"tanh"`: $\sum_i \tanh(c f_i \|w_i\|)$, smooth above the
            threshold.
        target: With `"l0"`: penalize $(\mathrm{L0} / \mathrm{target} - 1)^2$ instead, L0 being the batch's mean; None
            for no target.
        tanh_scale: $c$.
        dead: Weight of $\sum_i \max(\theta_i - \mathrm{pre}_i, 0) \|w_i\|$ over dead features, which draws them back.

    Raises:
        ValueError: If a value is out of its range.
    """

    threshold: float = 0.01
    bandwidth: float = 0.05
    penalty: Literal["l0", "tanh"] = "l0"
    target: float | None = None
    tanh_scale: float = 4.0
    dead: float = 3e-6

    def __post_init__(self) -> None:
        one_of("penalty", self.penalty, ("l0", "tanh"))
        check("threshold", self.threshold, 0, float("inf"))
        check("dead", self.dead, 0, float("inf"))
        for name in ("bandwidth", "tanh_scale"):
            check(name, getattr(self, name), 0, float("inf"), closed="()")
        if self.target is not None:
            check("target", self.target, 0, float("inf"), closed="()")
            if self.penalty != "l0":
                raise ValueError(f"target: expected None with the penalty {self.penalty!r}, got {self.target}")


@final
class JumpReLUSAE(SparseAutoencoder):
    r"""Sparse autoencoder with a threshold for each feature.

    $f_i = p_i 1[p_i > \theta_i]$ with $p = (x - b_\mathrm{dec}) W_\mathrm{enc} + b_\mathrm{enc}$.
    Trained on $\|x - \hat x\|^2 + \lambda \sum_i 1[p_i > \theta_i]$ (or the penalties of `JumpReLUTraining`). The
    thresholds get straight-through gradients, from the values before the activation, on both sides of the threshold.

    Args:
        d_in: Size of the activations.
        d_sae: Number of features.
        sparsity: $\lambda$, at least 0.
        training: How the thresholds are learned.
        options: What holds for any kind.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size or the penalty is out of its range.

    Example:
        >>> JumpReLUSAE(8, 32, sparsity=0.1)(torch.zeros(5, 8)).shape
        torch.Size([5, 8])

    References:
        Rajamanoharan et al. (2024), Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders,
        arXiv 2407.14435. Deviation: the threshold itself is the parameter, kept at 0 or more, not its logarithm, which
        a few thousand steps of Adam hardly move.
    """

    architecture = "jumprelu"
    in_units_of_features = ("b_enc", "threshold")

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        sparsity: float,
        training: JumpReLUTraining | None = None,
        options: SAEOptions | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(d_in, d_sae, options=options, generator=generator)
        check("sparsity", sparsity, 0, float("inf"))
        self.sparsity, self.training_options = sparsity, training or JumpReLUTraining()
        self.b_enc = nn.Parameter(torch.zeros(d_sae))
        self.threshold = nn.Parameter(torch.full((d_sae,), self.training_options.threshold))

    def encode(self, x: Tensor) -> Tensor:
        """Return the activations of the features.

        Args:
            x: Shape (..., d_in).

        Returns:
            Shape (..., d_sae), not negative.
        """
        return functional.jumprelu(self.project(x) + self.b_enc, self.threshold, self.training_options.bandwidth)

    def losses(self, x: Tensor, *, ramp: float = 1.0, dead: Tensor | None = None) -> SAELosses:
        """Return squared error, penalty and the pull on dead features.

        Args:
            x: Shape (batch, d_in).
            ramp: Factor of the penalty.
            dead: Which features have not fired for long.
        """
        how = self.training_options
        pre = self.project(x) + self.b_enc
        features = functional.jumprelu(pre, self.threshold, how.bandwidth)
        parts = {"mse": squared_error(x, self.decode(features)), "sparsity": ramp * self._penalty(pre, features)}
        if dead is not None and how.dead and dead.any():
            below = torch.relu(self.threshold - pre) * self.decoder_norms() * dead
            parts["dead"] = how.dead * below.float().sum(-1).mean()
        return collect(parts, features)

    def _penalty(self, pre: Tensor, features: Tensor) -> Tensor:
        how = self.training_options
        if how.penalty == "tanh":
            return self.sparsity * torch.tanh(how.tanh_scale * features * self.decoder_norms()).float().sum(-1).mean()
        active = functional.heaviside(pre, self.threshold, how.bandwidth).float().sum(-1).mean()
        return self.sparsity * (active if how.target is None else (active / how.target - 1).square())

    @torch.no_grad()
    def after_step_(self) -> None:
        """Bring decoder rows to norm 1 and thresholds to 0 or more."""
        super().after_step_()
        self.threshold.clamp_(min=0)

    @torch.no_grad()
    def resample_(self, dead: Tensor, targets: Tensor) -> None:
        """Point dead features at inputs; their thresholds start again.

        Args:
            dead: Indices of the features.
            targets: An input for each, less the decoder's bias.
        """
        super().resample_(dead, targets)
        self.threshold[dead] = self.training_options.threshold
