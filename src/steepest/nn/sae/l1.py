# SPDX-License-Identifier: Apache-2.0
"""The autoencoder with ReLU and an L1 penalty."""

from typing import final

from torch import Tensor

from steepest import functional
from steepest.nn.sae.autoencoder import PenalizedSAE, SAELosses, collect, squared_error

__all__ = ["L1SAE"]


@final
class L1SAE(PenalizedSAE):
    r"""Sparse autoencoder with a ReLU.

    $f = \max((x - b_\mathrm{dec}) W_\mathrm{enc} + b_\mathrm{enc}, 0)$, trained on
    $\|x - \hat x\|^2 + \lambda \sum_i f_i \|w_i\|$. The penalty also shrinks the features that are active
    (`evaluate_sae` measures by how much); `GatedSAE` and `JumpReLUSAE` do not.

    Args:
        d_in: Size of the activations.
        d_sae: Number of features.
        sparsity: $\lambda$, at least 0.
        options: What holds for any kind.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size or the penalty is out of its range.

    Example:
        >>> import torch
        >>> L1SAE(8, 32, sparsity=0.1).encode(torch.zeros(5, 8)).shape
        torch.Size([5, 32])

    References:
        Bricken et al. (2023), Towards monosemanticity. Cunningham et al. (2023), Sparse autoencoders find highly
        interpretable features in language models, arXiv 2309.08600.
    """

    architecture = "standard"
    in_units_of_features = ("b_enc",)

    def encode(self, x: Tensor) -> Tensor:
        """Return the activations of the features.

        Args:
            x: Shape (..., d_in).

        Returns:
            Shape (..., d_sae), not negative.
        """
        return functional.relu(self.project(x) + self.b_enc)

    def losses(self, x: Tensor, *, ramp: float = 1.0, dead: Tensor | None = None) -> SAELosses:
        """Return squared error and penalty; dead features are for the trainer to resample.

        Args:
            x: Shape (batch, d_in).
            ramp: Factor of the penalty.
            dead: Not needed here.
        """
        features = self.encode(x)
        size = (features * self.decoder_norms()).float().sum(-1).mean()
        parts = {"mse": squared_error(x, self.decode(features)), "l1": ramp * self.sparsity * size}
        return collect(parts, features)
