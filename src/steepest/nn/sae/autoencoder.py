# SPDX-License-Identifier: Apache-2.0
"""What all sparse autoencoders share: encoder and decoder matrices, decoder norms, folding."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from steepest.optim.options import one_of
from steepest.optim.rule import check

__all__ = ["SAELosses", "SAEOptions", "SparseAutoencoder"]

#: A dead feature's new encoder row is this much of an average living one's: its first firing must be no shock.
_RESAMPLED_ENCODER = 0.2


@final
@dataclass(frozen=True, kw_only=True)
class SAEOptions:
    """What holds for any kind of autoencoder.

    Args:
        decoder: `"unit"`: every feature's decoder row has norm 1, kept so after each step, with the gradient along it
            removed before. `"free"`: rows have any norm, and penalties weigh each feature by it, so that scaling a row
            up and its activation down gains nothing.
        center: Subtract the decoder's bias from the input before encoding.

    Raises:
        ValueError: If the decoder is none of the two.
    """

    decoder: Literal["unit", "free"] = "unit"
    center: bool = True

    def __post_init__(self) -> None:
        one_of("decoder", self.decoder, ("unit", "free"))


@final
@dataclass(frozen=True)
class SAELosses:
    """What a training step minimizes, and what it computed on the way.

    Args:
        total: Sum of the parts, to be differentiated.
        parts: Each by its name, detached: `"mse"` (squared error summed over the input, mean over the batch), ...
        features: Activations, shape (batch, d_sae), detached.
    """

    total: Tensor
    parts: dict[str, Tensor]
    features: Tensor


class SparseAutoencoder(nn.Module, ABC):
    r"""Base of all kinds: features $f$ that are sparse, and $\hat x = f W_\mathrm{dec} + b_\mathrm{dec}$.

    Parameters have the names and layouts of SAELens: `W_enc` (d_in, d_sae), `W_dec` (d_sae, d_in), `b_dec`.

    Args:
        d_in: Size of the activations.
        d_sae: Number of features.
        options: What holds for any kind.
        generator: Source of the initial decoder; torch's global one when None. The encoder starts as its transpose.

    Raises:
        ValueError: If a size is below 1.
    """

    #: SAELens' name of the architecture.
    architecture: ClassVar[str]
    #: Parameters with one number a feature that share the unit of the pre-activations.
    in_units_of_features: ClassVar[tuple[str, ...]]

    def __init__(
        self, d_in: int, d_sae: int, *, options: SAEOptions | None = None, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        check("d_in", d_in, 1, float("inf"))
        check("d_sae", d_sae, 1, float("inf"))
        self.d_in, self.d_sae, self.options = d_in, d_sae, options or SAEOptions()
        rows = torch.randn(d_sae, d_in, generator=generator)
        self.W_dec = nn.Parameter(rows / rows.norm(dim=1, keepdim=True))
        self.W_enc = nn.Parameter(self.W_dec.detach().t().clone())
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    @abstractmethod
    def encode(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_sae"]:
        """Return the activations of the features."""

    @abstractmethod
    def losses(self, x: Tensor, *, ramp: float = 1.0, dead: Bool[Tensor, " d_sae"] | None = None) -> SAELosses:
        """Return what a training step minimizes.

        Args:
            x: Activations, shape (batch, d_in).
            ramp: Factor of the sparsity penalty, for its warm-up.
            dead: Which features have not fired for long; None for none.
        """

    def decode(self, features: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_in"]:
        """Return the reconstruction from activations."""
        return features @ self.W_dec + self.b_dec

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_in"]:
        """Return the reconstruction of activations of a model.

        Args:
            x: Any layout, empty batches too, in the dtype of the parameters.

        Returns:
            The same shape and dtype.

        Raises:
            ValueError: If the last dimension is not `d_in`.
            TypeError: If x has another dtype than the parameters.
        """
        return self.decode(self.encode(x))

    def project(self, x: Tensor) -> Tensor:
        """Return the centred input times the encoder, before any bias of the features."""
        if x.dim() == 0 or x.shape[-1] != self.d_in:
            raise ValueError(f"expected activations (..., {self.d_in}), got shape {tuple(x.shape)}; check the site")
        if x.dtype != self.W_enc.dtype:
            raise TypeError(f"expected activations in {self.W_enc.dtype}, got {x.dtype}; convert one of them")
        return (x - self.b_dec if self.options.center else x) @ self.W_enc

    def decoder_norms(self) -> Float[Tensor, " d_sae"]:
        """Return the norm of each feature's decoder row; ones where they are kept at 1."""
        if self.options.decoder == "unit":
            return torch.ones((), device=self.W_dec.device, dtype=self.W_dec.dtype).expand(self.d_sae)
        return self.W_dec.norm(dim=1)

    @torch.no_grad()
    def before_step_(self) -> None:
        """Remove the part of the decoder's gradient that only changes norms, where these are kept at 1."""
        grad = self.W_dec.grad
        if self.options.decoder == "unit" and grad is not None:
            grad -= (grad * self.W_dec).sum(1, keepdim=True) * self.W_dec

    @torch.no_grad()
    def after_step_(self) -> None:
        """Bring the parameters back to where they must be: decoder rows to norm 1, unless they are free."""
        if self.options.decoder == "unit":
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True).clamp(min=1e-12)

    @torch.no_grad()
    def fold_decoder_norms_(self) -> None:
        """Scale every decoder row to norm 1 and its encoder, biases and threshold by the norm; outputs stay."""
        norms = self.W_dec.norm(dim=1).clamp(min=1e-12)
        self.W_dec /= norms[:, None]
        self.W_enc *= norms
        for name in self.in_units_of_features:
            getattr(self, name).mul_(norms)

    @torch.no_grad()
    def fold_input_scale_(self, scale: float) -> None:
        """Make an autoencoder that was trained on `scale` times the activations one of the activations themselves.

        Features stay, and decoder rows no longer have norm 1.

        Args:
            scale: Above 0.
        """
        check("scale", scale, 0, float("inf"), closed="()")
        self.W_enc *= scale
        self.W_dec /= scale
        self.b_dec /= scale

    @torch.no_grad()
    def resample_(self, dead: Int[Tensor, " count"], targets: Float[Tensor, "count d_in"]) -> None:
        """Point dead features at inputs that are reconstructed badly.

        Args:
            dead: Indices of the features.
            targets: An input for each, less the decoder's bias.

        References:
            Bricken et al. (2023), Towards monosemanticity, "Neuron resampling".
        """
        directions = targets / targets.norm(dim=1, keepdim=True).clamp(min=1e-12)
        alive = torch.ones(self.d_sae, dtype=torch.bool, device=dead.device)
        alive[dead] = False
        living = self.W_enc[:, alive].norm(dim=0).mean() if alive.any() else self.W_enc.norm(dim=0).mean()
        self.W_dec[dead] = directions
        self.W_enc[:, dead] = (_RESAMPLED_ENCODER * living * directions).t()
        for name in self.in_units_of_features:
            if name != "threshold":
                getattr(self, name)[dead] = 0.0

    def extra_repr(self) -> str:
        """Return the sizes for `repr`."""
        return f"d_in={self.d_in}, d_sae={self.d_sae}, {self.options}"


def squared_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Return the squared error summed over the input and averaged over the batch, in float32 at least."""
    wide = torch.promote_types(x.dtype, torch.float32)
    return (reconstruction.to(wide) - x.to(wide)).square().sum(-1).mean()


def collect(parts: dict[str, Tensor], features: Tensor) -> SAELosses:
    """Return the losses from their parts."""
    total = torch.stack(list(parts.values())).sum()
    return SAELosses(total, {name: part.detach() for name, part in parts.items()}, features.detach())
