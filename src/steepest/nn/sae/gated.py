# SPDX-License-Identifier: Apache-2.0
"""The gated autoencoder: which features are active is decided apart from how much."""

from typing import final

import torch
from torch import Tensor, nn

from steepest import functional
from steepest.nn.sae.autoencoder import SAELosses, SAEOptions, SparseAutoencoder, collect, squared_error
from steepest.nn.sae.jumprelu import JumpReLUSAE
from steepest.optim.rule import check

__all__ = ["GatedSAE"]


@final
class GatedSAE(SparseAutoencoder):
    r"""Sparse autoencoder with a gate for each feature.

    $f = 1[z + b_\mathrm{gate} > 0] \odot \max(e^r z + b_\mathrm{mag}, 0)$ with
    $z = (x - b_\mathrm{dec}) W_\mathrm{enc}$.
    Trained on $\|x - \hat x(f)\|^2 + \lambda \sum_i \pi_i \|w_i\| + \|x - \hat x_\mathrm{frozen}(\pi)\|^2$ with
    $\pi = \max(z + b_\mathrm{gate}, 0)$: the penalty meets the gate alone, so magnitudes are not shrunk, and the last
    term, whose decoder gets no gradient, gives the gate its own.

    Args:
        d_in: Size of the activations.
        d_sae: Number of features.
        sparsity: $\lambda$, at least 0.
        options: What holds for any kind.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size or the penalty is out of its range.

    Example:
        >>> sae = GatedSAE(8, 32, sparsity=0.1)
        >>> x = torch.randn(5, 8)
        >>> torch.allclose(sae(x), sae.to_jumprelu()(x), atol=1e-5)
        True

    References:
        Rajamanoharan et al. (2024), Improving dictionary learning with gated sparse autoencoders, arXiv 2404.16014.
    """

    architecture = "gated"
    in_units_of_features = ("b_gate", "b_mag")

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        sparsity: float,
        options: SAEOptions | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(d_in, d_sae, options=options, generator=generator)
        check("sparsity", sparsity, 0, float("inf"))
        self.sparsity = sparsity
        self.b_gate = nn.Parameter(torch.zeros(d_sae))
        self.r_mag = nn.Parameter(torch.zeros(d_sae))
        self.b_mag = nn.Parameter(torch.zeros(d_sae))

    def encode(self, x: Tensor) -> Tensor:
        """Return the activations of the features.

        Args:
            x: Shape (..., d_in).

        Returns:
            Shape (..., d_sae), not negative.
        """
        return self._features(self.project(x))

    def _features(self, z: Tensor) -> Tensor:
        magnitude = functional.relu(self.r_mag.exp() * z + self.b_mag)
        return torch.where(z + self.b_gate > 0, magnitude, torch.zeros_like(magnitude))

    def losses(self, x: Tensor, *, ramp: float = 1.0, dead: Tensor | None = None) -> SAELosses:
        """Return squared error, penalty and the gate's own error; dead features are for the trainer to resample.

        Args:
            x: Shape (batch, d_in).
            ramp: Factor of the penalty.
            dead: Not needed here.
        """
        z = self.project(x)
        features, gate = self._features(z), functional.relu(z + self.b_gate)
        by_gate = gate @ self.W_dec.detach() + self.b_dec.detach()
        parts = {
            "mse": squared_error(x, self.decode(features)),
            "l1": ramp * self.sparsity * (gate * self.decoder_norms()).float().sum(-1).mean(),
            "gate": squared_error(x, by_gate),
        }
        return collect(parts, features)

    @torch.no_grad()
    def resample_(self, dead: Tensor, targets: Tensor) -> None:
        """Point dead features at inputs; their magnitudes start where their gates are.

        Args:
            dead: Indices of the features.
            targets: An input for each, less the decoder's bias.
        """
        super().resample_(dead, targets)
        self.r_mag[dead] = 0.0

    @torch.no_grad()
    def to_jumprelu(self) -> JumpReLUSAE:
        r"""Return the JumpReLU autoencoder that computes the same features.

        With $q = e^r z + b_\mathrm{mag}$ the gate is open where $q > b_\mathrm{mag} - e^r b_\mathrm{gate}$, and the
        ReLU asks for $q > 0$: the threshold is the larger of the two.
        """
        scale = self.r_mag.exp()
        own = torch.Generator(self.W_enc.device)  # the caller's random numbers stay as they are
        with torch.device(self.W_enc.device):
            twin = JumpReLUSAE(self.d_in, self.d_sae, sparsity=0.0, options=self.options, generator=own)
        twin.to(self.W_enc.dtype)
        twin.W_enc.copy_(self.W_enc * scale)
        twin.W_dec.copy_(self.W_dec)
        twin.b_dec.copy_(self.b_dec)
        twin.b_enc.copy_(self.b_mag)
        twin.threshold.copy_((self.b_mag - scale * self.b_gate).clamp(min=0))
        return twin
