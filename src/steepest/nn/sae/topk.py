# SPDX-License-Identifier: Apache-2.0
"""The autoencoder that keeps the k largest features."""

from typing import final

import torch
from torch import Tensor, nn

from steepest.nn.sae.autoencoder import SAELosses, SAEOptions, SparseAutoencoder, collect, squared_error
from steepest.optim.rule import check

__all__ = ["TopKSAE"]


@final
class TopKSAE(SparseAutoencoder):
    r"""Sparse autoencoder with a fixed number of features.

    $f$ is the `k` largest entries of $(x - b_\mathrm{dec}) W_\mathrm{enc} + b_\mathrm{enc}$, where positive.
    Trained on $\|x - \hat x\|^2$ and, for dead features, on `auxiliary` times the error of reconstructing what is left
    over from the largest of them, at most `d_in` / 2. With free decoder norms the order is that of activation times
    norm.

    Args:
        d_in: Size of the activations.
        d_sae: Number of features.
        k: Features to keep, from 1 to `d_sae`.
        auxiliary: Weight of the dead features' loss; 0 leaves them alone.
        options: What holds for any kind.
        generator: Source of the initial weights.

    Raises:
        ValueError: If a size, `k` or the weight is out of its range.

    Example:
        >>> sae = TopKSAE(8, 32, k=4)
        >>> int((sae.encode(torch.randn(1, 8)) > 0).sum()) <= 4
        True

    References:
        Gao et al. (2024), Scaling and evaluating sparse autoencoders, arXiv 2406.04093.
    """

    architecture = "topk"
    in_units_of_features = ("b_enc",)

    def __init__(
        self,
        d_in: int,
        d_sae: int,
        *,
        k: int,
        auxiliary: float = 1 / 32,
        options: SAEOptions | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(d_in, d_sae, options=options, generator=generator)
        check("k", k, 1, d_sae, closed="[]")
        check("auxiliary", auxiliary, 0, float("inf"))
        self.k, self.auxiliary = k, auxiliary
        self.b_enc = nn.Parameter(torch.zeros(d_sae))

    def encode(self, x: Tensor) -> Tensor:
        """Return the activations of the features.

        Args:
            x: Shape (..., d_in).

        Returns:
            Shape (..., d_sae), at most `k` of the last dimension positive and the others 0.
        """
        return self._largest(self.project(x) + self.b_enc, self.k)

    def _largest(self, pre: Tensor, k: int) -> Tensor:
        order = pre * self.decoder_norms() if self.options.decoder == "free" else pre
        indices = order.topk(k, dim=-1, sorted=False).indices
        return torch.zeros_like(pre).scatter(-1, indices, torch.relu(pre.gather(-1, indices)))

    def losses(self, x: Tensor, *, ramp: float = 1.0, dead: Tensor | None = None) -> SAELosses:
        """Return squared error and the dead features' loss.

        Args:
            x: Shape (batch, d_in).
            ramp: Not needed here: there is no penalty.
            dead: Which features have not fired for long.
        """
        pre = self.project(x) + self.b_enc
        features = self._largest(pre, self.k)
        reconstruction = self.decode(features)
        parts = {"mse": squared_error(x, reconstruction)}
        count = 0 if dead is None else int(dead.sum())
        if dead is not None and count and self.auxiliary:
            wanted = max(1, self.d_in // 2)
            revived = self._largest(pre.masked_fill(~dead, -torch.inf), min(wanted, count))
            left = (x - reconstruction).detach()
            parts["dead"] = self.auxiliary * min(count / wanted, 1.0) * squared_error(left, revived @ self.W_dec)
        return collect(parts, features)

    @torch.no_grad()
    def fold_decoder_norms_(self) -> None:
        """Scale decoder rows to norm 1; the order of the features was that already.

        Raises:
            ValueError: If the rows had other norms and these were not part of the order.
        """
        norms = self.W_dec.norm(dim=1)
        if self.options.decoder == "unit" and not torch.allclose(norms, norms.mean().expand_as(norms), rtol=1e-4):
            raise ValueError(
                "folding norms that differ would change which features are the largest; train with "
                'SAEOptions(decoder="free")'
            )
        super().fold_decoder_norms_()
