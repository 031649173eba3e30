# SPDX-License-Identifier: Apache-2.0
"""A small vision transformer."""

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@final
@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Shape of a `ViT`; the defaults are for images of 8 x 8 such as scikit-learn's digits.

    Args:
        image: Height and width of an image in pixels; `patch` divides it.
        channels: Of an image.
        patch: Height and width of a patch.
        classes: Outputs.
        width: Size of the residual stream; `heads` divides it.
        layers: Number of blocks.
        heads: Number of attention heads.
        ffn_width: Inner width of the feed-forward; None means four times `width`.
        norm_eps: Added to the variance in normalizations.

    Raises:
        ValueError: If a number is out of its range or a division does not come out even.
    """

    image: int = 8
    channels: int = 1
    patch: int = 2
    classes: int = 10
    width: int = 64
    layers: int = 4
    heads: int = 4
    ffn_width: int | None = None
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("image", "channels", "patch", "classes", "width", "layers", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for whole, part in (("image", "patch"), ("width", "heads")):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{part} must divide {whole}, got {part}={getattr(self, part)}, {whole}={getattr(self, whole)}"
                )
        if self.ffn_width is not None and self.ffn_width < 1:
            raise ValueError(f"ffn_width must be at least 1, got {self.ffn_width}")
        if not self.norm_eps > 0:
            raise ValueError(f"norm_eps must be above 0, got {self.norm_eps}")

    @property
    def patches(self) -> int:
        """Number of patches of an image."""
        return (self.image // self.patch) ** 2


@final
class ViTBlock(nn.Module):
    """Self-attention and feed-forward, each after a normalization and added to the residual stream.

    Args:
        config: Shape of the model.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, inner = config.width, config.ffn_width or 4 * config.width
        self.heads = config.heads
        self.norm_attn = nn.LayerNorm(width, config.norm_eps)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width) for _ in range(4))
        self.norm_mlp = nn.LayerNorm(width, config.norm_eps)
        self.up_proj, self.down_proj = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Float[Tensor, "batch patches width"]) -> Float[Tensor, "batch patches width"]:
        """Return the residual stream after the block."""
        normalized = self.norm_attn(x)
        query, key, value = (
            project(normalized).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.o_proj(mixed)
        return x + self.down_proj(F.gelu(self.up_proj(self.norm_mlp(x))))


@final
class ViT(nn.Module):
    """A pre-norm vision transformer that classifies images by the mean of its patches.

    Args:
        config: Shape.
        generator: Source of the random initial weights; torch's global one when None.

    Example:
        >>> ViT(ViTConfig())(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 10])

    References:
        Dosovitskiy et al. (2020), An image is worth 16x16 words: transformers for image recognition at scale, arXiv
        2010.11929. Deviation: mean of the patches instead of a class token (Beyer et al. 2022, arXiv 2205.01580).
    """

    def __init__(self, config: ViTConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Linear(config.channels * config.patch**2, config.width)
        self.positions = nn.Parameter(torch.empty(config.patches, config.width))
        self.blocks = nn.ModuleList(ViTBlock(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.head = nn.Linear(config.width, config.classes)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw matrices from N(0, 1/fan_in) and positions from N(0, 0.02^2); biases and the head start at zero.

        Args:
            generator: Source of randomness; torch's global one when None.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, module.in_features**-0.5, generator=generator)
                module.bias.zero_()
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        self.positions.normal_(0.0, 0.02, generator=generator)
        self.head.weight.zero_()

    def forward(self, images: Float[Tensor, "batch first *rest"]) -> Float[Tensor, "batch classes"]:
        """Return the logits of the classes.

        Args:
            images: Shape (batch, channels, height, width), or (batch, height, width) of one channel.

        Raises:
            ValueError: If the images have another shape than the configuration says.
        """
        config = self.config
        expected = (config.channels, config.image, config.image)
        if tuple(images.shape[1:]) != expected and (config.channels != 1 or tuple(images.shape[1:]) != expected[1:]):
            raise ValueError(
                f"images: expected shape (batch, {', '.join(map(str, expected))}), got {tuple(images.shape)}"
            )
        side, patch = config.image // config.patch, config.patch
        pieces = images.reshape(-1, config.channels, side, patch, side, patch)
        x = self.patches(pieces.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))
