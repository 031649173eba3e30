# SPDX-License-Identifier: Apache-2.0
"""The shape of an nGPT and the starting values of its scales."""

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

from steepest.nn.decoder_config import DecoderConfig

if TYPE_CHECKING:
    from steepest.nn.ngpt import NGPT


@final
@dataclass(frozen=True, kw_only=True)
class NGPTConfig(DecoderConfig):
    r"""Shape of an `NGPT`; the fields that all decoders have are in `DecoderConfig`.

    A learned scale $s$ is stored as $\hat s$ with $s = \hat s \cdot \mathrm{init} / \mathrm{scale}$ and starts at
    $\hat s = \mathrm{scale}$. An entrywise optimizer such as Adam moves every $\hat s$ as far as a weight, hence $s$ by
    init / scale as much: scale is of the size of a weight's entries.

    Args:
        alpha_init: Start of the eigen learning rates $\alpha_A$ and $\alpha_M$; of the order of 1 / layers.
        qk_init: Start of $s_{qk}$.
        u_init: Start of $s_u$.
        v_init: Start of $s_v$.
        z_init: Start of $s_z$.
        scale: Stored size of $\alpha$, $s_{qk}$ and $s_z$; None means $1/\sqrt{\text{width}}$. $s_u$ and $s_v$ are
            stored as they are (scale 1).

    Raises:
        ValueError: If a number is out of its range, or `tie_embeddings` is set: input and output embeddings of an nGPT
            are two sets of points.

    Example:
        >>> NGPTConfig(width=64, layers=2, heads=2).stored_scale
        0.125

    References:
        Loshchilov et al. (2024), nGPT: normalized transformer with representation learning on the hypersphere, arXiv
        2410.01131, sections 2.3 to 2.5.
    """

    family: ClassVar[str] = "ngpt"

    alpha_init: float = 0.05
    qk_init: float = 1.0
    u_init: float = 1.0
    v_init: float = 1.0
    z_init: float = 1.0
    scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("alpha_init", "qk_init", "u_init", "v_init", "z_init", "scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"model.{name} must be a finite number above 0, got {value}")
        if self.tie_embeddings:
            raise ValueError(
                "model.tie_embeddings: an nGPT keeps its input and output embeddings apart; set it to false"
            )

    @property
    def stored_scale(self) -> float:
        """`scale` with the default filled in."""
        return self.width**-0.5 if self.scale is None else self.scale

    def build(self, generator: torch.Generator | None = None) -> "NGPT":
        """Return an `NGPT` of this shape with fresh weights.

        Args:
            generator: Source of randomness; torch's global one when None.
        """
        from steepest.nn.ngpt import NGPT  # the model's file imports this one

        return NGPT(self, generator=generator)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the `config.json` beside the weights."""
        return {"model_type": self.family, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "NGPTConfig":
        """Return the shape that a `config.json` describes.

        Args:
            content: Of the file, as `to_json` writes it.

        Raises:
            ValueError: If it has fields that an nGPT does not have.
        """
        values = {name: value for name, value in content.items() if name != "model_type"}
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown or content.get("model_type", cls.family) != cls.family:
            raise ValueError(f"this config.json is not an nGPT's: {', '.join(unknown) or content['model_type']}")
        return cls(**values)


def to_ngpt(config: DecoderConfig, **changes: Any) -> NGPTConfig:
    """Return the nGPT of the same shape as another decoder: its twin.

    Width, depth, heads, feed-forward, context and vocabulary are kept, so the matrices of both have the same shapes;
    what normalizations had as gains becomes scales. Tied embeddings come apart.

    Args:
        config: A Llama's, for example.
        changes: Fields of `NGPTConfig` to set.

    Example:
        >>> from steepest.nn import preset
        >>> to_ngpt(preset("nano"), alpha_init=0.1).width
        64
    """
    shape = {field.name: getattr(config, field.name) for field in dataclasses.fields(DecoderConfig)}
    return NGPTConfig(**{**shape, "tie_embeddings": False, **changes})
