# SPDX-License-Identifier: Apache-2.0
"""Attention of patched Hugging Face models: our softmax in the eager form, blocks of products in the causal one."""

import sys
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steepest.kernels.rotary import rotary
from steepest.kernels.softmax import softmax
from steepest.nn.attention_blocks import blocked_causal_attention
from steepest.nn.hf_modules import Patched

#: The name under which transformers finds `attention`.
NAME = "steepest"


class AttentionConfig:
    """A model's configuration as its attention modules see it: the same, but for the name of the attention function.

    Args:
        base: The model's configuration; looked up at every access, so changes to it count.
    """

    _attn_implementation = NAME

    def __init__(self, base: Any) -> None:
        self.base = base

    def __getattr__(self, name: str) -> Any:
        if name == "base" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.base, name)


def register() -> None:
    """Make `attention` known to transformers."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if NAME not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(NAME, attention)


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Attend as the model's configuration says: "eager" and "sdpa" by our routes, anything else by transformers'.

    Args:
        module: The attention module.
        query: (batch, heads, time, size).
        key: (batch, kv_heads, keys, size).
        value: Like key.
        attention_mask: None, or additive for "eager", boolean or additive for "sdpa"; broadcastable to the scores.
        **options: `scaling`, `dropout`, and what else transformers passes.

    Returns:
        What is mixed, (batch, time, heads, size), and the weights in the eager form.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config: Any = module.config
    name = getattr(config, "base", config)._attn_implementation
    plain = options.get("softcap") is None and options.get("position_bias") is None
    if name == "eager" and plain and (attention_mask is None or attention_mask.is_floating_point()):
        return _eager(module, query, key, value, attention_mask, **options)
    if name == "sdpa" and plain and attention_mask is None and _is_causal_square(module, query, key, options):
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        query, key, value = _autocast(query), _autocast(key), _autocast(value)
        return blocked_causal_attention(query, key, value, scale).transpose(1, 2), None
    own = sys.modules[type(module).__module__]
    chosen = ALL_ATTENTION_FUNCTIONS.get_interface(name, getattr(own, "eager_attention_forward", _eager))
    return chosen(module, query, key, value, attention_mask, **options)


def _eager(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None,
    scaling: float | None = None, dropout: float = 0.0, **_: Any,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3))
    factor: float = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = softmax(scores * factor, mask=attention_mask).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def _is_causal_square(module: nn.Module, query: Tensor, key: Tensor, options: dict[str, Any]) -> bool:
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return (
        bool(causal)
        and not options.get("dropout")
        and query.device.type == "cpu"
        and _autocast(query).dtype in {torch.float32, torch.bfloat16}
        and 1 < query.shape[2] == key.shape[2]
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def _autocast(x: Tensor) -> Tensor:
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(device))
    return x


class Attention(Patched):
    """Attention through `attention`, by the configuration its module sees."""


class RotaryAttention(Attention):
    """Llama's attention, its queries and keys rotated in one sweep each."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        **options: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Take and return what the original does."""
        module: Any = self
        if position_embeddings is None or not _cache_is_known(options):
            passed = {"position_embeddings": position_embeddings, "attention_mask": attention_mask, **options}
            return super().forward(hidden_states=hidden_states, **passed)  # pyright: ignore[reportAttributeAccessIssue]
        shape = hidden_states.shape[:-1]
        query, key, value = (
            projection(hidden_states).view(*shape, -1, module.head_dim)
            for projection in (module.q_proj, module.k_proj, module.v_proj)
        )
        if hasattr(module, "q_norm"):
            query, key = module.q_norm(query), module.k_norm(key)
        cos, sin = (t[0] if t.shape[0] == 1 else t for t in position_embeddings)
        query, key, value = (t.transpose(1, 2) for t in (rotary(query, cos, sin), rotary(key, cos, sin), value))
        cache = options.pop("cache", None)
        if cache is not None:
            key, value = cache.update(key, value, module.layer_idx, kwargs=options)
        sliding = getattr(module, "sliding_window", getattr(module.config, "sliding_window", None))
        mixed, weights = attention(
            module, query, key, value, attention_mask,
            dropout=module.attention_dropout if module.training else 0.0,
            scaling=module.scaling, sliding_window=sliding, **options,
        )  # fmt: skip
        return module.o_proj(mixed.reshape(*shape, -1)), weights


def _cache_is_known(options: dict[str, Any]) -> bool:
    """Return whether keys and values are kept, if at all, under the name this forward knows: `cache`."""
    return all(options.get(name) is None for name in ("past_key_values", "past_key_value"))
