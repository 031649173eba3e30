# SPDX-License-Identifier: Apache-2.0
"""What the shapes of all decoders have in common; each family of models adds its own fields."""

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from steepest.nn.feed_forward import gated_width

if TYPE_CHECKING:
    from steepest.nn.decoder import Decoder


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(abc.ABC):
    """Shape of a decoder-only language model with rotary attention and a gated feed-forward.

    A subclass is a family of models: it names itself (`family`), adds fields, and says how it is built and how it is
    written beside the weights. `steepest.nn.families` finds it; there is no list to add it to.

    Args:
        vocab_size: Number of token ids.
        width: Size of the residual stream.
        layers: Number of decoder blocks.
        heads: Number of query heads; divides `width` into an even head size.
        kv_heads: Number of key/value heads; divides `heads`. None means `heads` (no grouping).
        ffn_width: Inner width of the gated feed-forward. None means `gated_width(width)`.
        context: Longest sequence in tokens that the model is trained on.
        rope_theta: Base of the rotary embedding's geometric sequence of wavelengths.
        tie_embeddings: Use the embedding's matrix as the output head.

    Raises:
        ValueError: If a number is out of its range or the divisions above do not come out even.
    """

    family: ClassVar[str]
    #: Values of `model_type` in a `config.json` that are this family's beside its name.
    more_model_types: ClassVar[tuple[str, ...]] = ()

    vocab_size: int = 256
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int | None = None
    ffn_width: int | None = None
    context: int = 256
    rope_theta: float = 10000.0
    tie_embeddings: bool = False

    def __post_init__(self) -> None:
        for name in ("vocab_size", "width", "layers", "heads", "context", "kv_heads", "ffn_width"):
            value = getattr(self, name)
            optional = value is None and name in ("kv_heads", "ffn_width")
            if not optional and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 31):
                raise ValueError(f"model.{name} must be a whole number of at least 1, got {str(value)[:40]}")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"model.width must be an even multiple of model.heads (rotary pairs), got width={self.width}, "
                f"heads={self.heads}; try width={2 * self.heads * max(1, self.width // (2 * self.heads))}"
            )
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"model.kv_heads must divide model.heads={self.heads}, got {self.kv_heads}")
        if not self.rope_theta > 0:
            raise ValueError(f"model.rope_theta must be above 0, got {self.rope_theta}")

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads

    @property
    def key_value_heads(self) -> int:
        """Number of key/value heads with the default filled in."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def hidden_ffn_width(self) -> int:
        """Inner width of the feed-forward with the default filled in."""
        return gated_width(self.width) if self.ffn_width is None else self.ffn_width

    @abc.abstractmethod
    def build(self, generator: torch.Generator | None = None) -> "Decoder":
        """Return a model of this shape with fresh weights.

        Args:
            generator: Source of randomness; torch's global one when None.
        """

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the content of the `config.json` beside the weights; its `model_type` is the family."""

    @classmethod
    @abc.abstractmethod
    def from_json(cls, content: dict[str, Any]) -> "DecoderConfig":
        """Return the shape that a `config.json` describes.

        Args:
            content: Of the file.

        Raises:
            ValueError: If it asks for what this family does not have.
        """
