# SPDX-License-Identifier: Apache-2.0
"""The shape of a Llama-style decoder, its named presets, and its form in Hugging Face's `config.json`."""

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, final

import torch

from steepest.nn.decoder_config import DecoderConfig
from steepest.nn.feed_forward import GATED, UNGATED, check_kind, gated_width

if TYPE_CHECKING:
    from steepest.nn.llama import Llama

#: Kind of a gated feed-forward to the name of its activation in Hugging Face's configurations.
_GATE_NAMES = {
    "glu": "sigmoid",
    "bilinear": "linear",
    "reglu": "relu",
    "geglu": "gelu",
    "geglu_tanh": "gelu_pytorch_tanh",
    "swiglu": "silu",
}
_UNGATED_TYPE = "steepest_llama"


@final
@dataclass(frozen=True, kw_only=True)
class LlamaConfig(DecoderConfig):
    """Shape and initialization of a `Llama`; the fields that all decoders have are in `DecoderConfig`.

    Args:
        feed_forward: Kind of the feed-forward, gated (`"swiglu"`, Llama's own, `"geglu"`, `"reglu"`, ...) or not
            (`"relu"`, `"gelu"`, `"polynorm"`, ...); `steepest.nn.feed_forward` knows them all. `ffn_width=None` means
            `gated_width(width)` for a gated one and 3/2 of that for another: the same number of parameters, but for
            the few coefficients that an activation may have.
        norm_eps: Added to the mean square inside RMSNorm.
        init: `"mup"` draws hidden matrices from N(0, 1/fan_in), the embedding from N(0, `init_std`^2), and starts the
            head at zero, so that the same learning rates suit every width once they are scaled per role; `"normal"`
            draws every matrix from N(0, `init_std`^2), as Hugging Face's Llama does.
        init_std: See `init`.

    Raises:
        ValueError: If a number is out of its range or the divisions of `DecoderConfig` do not come out even.

    References:
        Touvron et al. (2023), LLaMA: open and efficient foundation language models, arXiv 2302.13971.
        Yang et al. (2022), Tensor Programs V, arXiv 2203.03466 (the `"mup"` initialization).
    """

    family: ClassVar[str] = "llama"
    more_model_types: ClassVar[tuple[str, ...]] = (_UNGATED_TYPE,)

    feed_forward: str = "swiglu"
    norm_eps: float = 1e-5
    init: str = "mup"
    init_std: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kind(self.feed_forward, "model.feed_forward")
        if self.init not in ("mup", "normal"):
            raise ValueError(f"model.init must be 'mup' or 'normal', got {self.init!r}")
        for name in ("norm_eps", "init_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"model.{name} must be above 0, got {getattr(self, name)}")

    def build(self, generator: torch.Generator | None = None) -> "Llama":
        """Return a `Llama` of this shape with fresh weights.

        Args:
            generator: Source of randomness; torch's global one when None.
        """
        from steepest.nn.llama import Llama  # the model's file imports this one

        return Llama(self, generator=generator)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the `config.json` beside the weights: Hugging Face's."""
        return self.to_hugging_face()

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "LlamaConfig":
        """Return the shape that a `config.json` describes; see `from_hugging_face`."""
        return cls.from_hugging_face(content)

    @property
    def hidden_ffn_width(self) -> int:
        """Inner width of the feed-forward with the default filled in."""
        if self.ffn_width is not None:
            return self.ffn_width
        gated = gated_width(self.width)
        return gated if self.feed_forward in GATED else 3 * gated // 2

    def to_hugging_face(self) -> dict[str, Any]:
        """Return the same shape as the content of a Hugging Face Llama `config.json`.

        Hugging Face's Llama is gated, by any activation. An ungated feed-forward gets a model type of its own, which
        the `Auto` classes of `transformers` refuse.
        """
        gated = self.feed_forward in GATED
        return {
            "architectures": ["LlamaForCausalLM"] if gated else ["Llama"],
            "model_type": "llama" if gated else _UNGATED_TYPE,
            "vocab_size": self.vocab_size,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_size,
            "intermediate_size": self.hidden_ffn_width,
            "max_position_embeddings": self.context,
            "rope_theta": self.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "rms_norm_eps": self.norm_eps,
            "tie_word_embeddings": self.tie_embeddings,
            "hidden_act": _GATE_NAMES[self.feed_forward] if gated else self.feed_forward,
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": None,
            "eos_token_id": None,
            "torch_dtype": "float32",
        }

    @classmethod
    def from_hugging_face(cls, config: dict[str, Any]) -> "LlamaConfig":
        """Return the shape that a Hugging Face Llama `config.json` describes.

        Args:
            config: Content of the file.

        Returns:
            The configuration; initialization fields keep their defaults.

        Raises:
            ValueError: If the file asks for something that `Llama` does not have (biases, another activation, scaled
                rotary embeddings, a head size that is not width / heads).
        """
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind, activation = config.get("model_type", "llama"), config.get("hidden_act", "silu")
        kinds = {name: name for name in UNGATED} if kind == _UNGATED_TYPE else {v: k for k, v in _GATE_NAMES.items()}
        unsupported = {
            "model_type": kind not in ("llama", _UNGATED_TYPE),
            "hidden_act": activation not in kinds,
            "attention_bias": bool(config.get("attention_bias")),
            "mlp_bias": bool(config.get("mlp_bias")),
            "rope_scaling": rope.get("rope_type", "default") != "default",
            "head_dim": (config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
            * config["num_attention_heads"]
            != config["hidden_size"],
        }
        if any(unsupported.values()):
            names = ", ".join(f"{name}={config.get(name)!r}" for name, bad in unsupported.items() if bad)
            raise ValueError(f"this config.json is not a plain Llama: {names} is not supported")
        return cls(
            vocab_size=config["vocab_size"],
            width=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads"),
            feed_forward=kinds[activation],
            ffn_width=config["intermediate_size"],
            context=config["max_position_embeddings"],
            rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
            norm_eps=config["rms_norm_eps"],
            tie_embeddings=config.get("tie_word_embeddings", False),
        )


#: Named shapes. The comment gives the parameters of the blocks alone; embedding and head come on top.
PRESETS: dict[str, LlamaConfig] = {
    "nano": LlamaConfig(width=64, layers=2, heads=2, context=128),  # 0.10 M
    "micro": LlamaConfig(width=128, layers=3, heads=2, context=256),  # 0.60 M
    "tiny": LlamaConfig(width=192, layers=4, heads=3, context=256),  # 1.8 M
    "mini": LlamaConfig(width=256, layers=6, heads=4, context=256),  # 4.8 M
    "small": LlamaConfig(width=384, layers=8, heads=6, context=512),  # 14 M
    "medium": LlamaConfig(width=512, layers=12, heads=8, context=512),  # 39 M
    "base": LlamaConfig(width=768, layers=12, heads=12, context=1024),  # 85 M
    "large": LlamaConfig(width=1024, layers=24, heads=16, context=1024),  # 303 M
    "1b": LlamaConfig(width=2048, layers=24, heads=32, kv_heads=8, context=2048, rope_theta=500000.0),  # 1.1 B
    "3b": LlamaConfig(width=2560, layers=36, heads=40, kv_heads=8, context=4096, rope_theta=500000.0),  # 2.6 B
}


def preset(name: str, **changes: Any) -> LlamaConfig:
    """Return a named shape, with fields changed.

    Args:
        name: A key of `PRESETS`.
        changes: Fields of `LlamaConfig` to set.

    Returns:
        The configuration.

    Raises:
        ValueError: If there is no such preset or field.

    Example:
        >>> preset("tiny", layers=2).width
        192
    """
    if name not in PRESETS:
        raise ValueError(f"no model preset {name!r}; there are {', '.join(PRESETS)}")
    known = {field.name for field in fields(LlamaConfig)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise ValueError(f"a Llama has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return replace(PRESETS[name], **changes)
