# SPDX-License-Identifier: Apache-2.0
"""A Llama-style decoder whose parameters have the names and shapes of Hugging Face's `LlamaForCausalLM`."""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from steepest.kernels.rms_norm import rms_norm
from steepest.kernels.rotary import rotary
from steepest.nn.attention import causal_attention, causal_mask
from steepest.nn.decoder import Decoder
from steepest.nn.feed_forward import FeedForward, feed_forward
from steepest.nn.kv_cache import KVCache
from steepest.nn.llama_config import LlamaConfig
from steepest.nn.polynorm import PolyNorm
from steepest.nn.polyrelu import PolyReLU
from steepest.nn.rope import rotary_table
from steepest.nn.swish import Swish


@final
class RMSNorm(nn.Module):
    r"""Root-mean-square normalization, $y = w \odot x / \sqrt{\mathrm{mean}(x^2) + \epsilon}$ over the last dimension.

    Args:
        width: Size of the last dimension.
        eps: Added to the mean square.

    References:
        Zhang and Sennrich (2019), Root mean square layer normalization, arXiv 1910.07467.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch width"], branch: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Add a branch to the residual stream and normalize the sum, in one sweep.

        Args:
            x: Residual stream.
            branch: What to add to it first; None for nothing.

        Returns:
            The normalized sum, in autocast's dtype where that is on, for it feeds a matrix product; and the sum.
        """
        kind = x.device.type
        out_dtype = torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else None
        if branch is None:
            return rms_norm(x, self.weight, self.eps, out_dtype=out_dtype), x
        return rms_norm(branch, self.weight, self.eps, residual=x, out_dtype=out_dtype)


@final
class Attention(nn.Module):
    """Causal self-attention with rotary positions and optionally grouped key/value heads.

    Args:
        config: Shape of the model.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.heads, config.key_value_heads, config.head_size
        kv_width = self.kv_heads * self.head_size
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, kv_width, bias=False)
        self.v_proj = nn.Linear(config.width, kv_width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        table: Float[Tensor, "2 time half"],
        cache: KVCache | None,
        layer: int,
    ) -> Float[Tensor, "batch time width"]:
        """Mix information over time.

        Args:
            x: Normalized residual stream.
            table: Cosines and sines of the positions of `x`.
            cache: Keys and values of earlier positions, extended by this call; None during training.
            layer: Which layer of the cache is this one's.

        Returns:
            What to add to the residual stream.
        """
        batch, time, width = x.shape
        # One product instead of three: at these widths the matrix multiplication is too small to fill the cores.
        packed = F.linear(x, torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)))
        packed = packed.view(batch, time, -1, self.head_size)
        rotated, value = packed.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        query, key = rotary(rotated, table[0], table[1]).split((self.heads, self.kv_heads), dim=2)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        fresh = cache is None or cache.length == 0
        if cache is not None:
            key, value = cache.append(layer, key, value)
        if fresh:
            mixed = causal_attention(query, key, value)
        else:
            mask = causal_mask(time, key.shape[2], x.device)
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, enable_gqa=self.kv_heads != self.heads
            )
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, time, width))


@final
class LlamaBlock(nn.Module):
    """One decoder block: attention and feed-forward, each after a normalization and added to the residual stream.

    Args:
        config: Shape of the model.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = feed_forward(config.feed_forward, config.width, config.hidden_ffn_width)
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)

    def forward(
        self, x: Tensor, branch: Tensor | None, table: Tensor, cache: KVCache | None, layer: int
    ) -> tuple[Tensor, Tensor]:
        """Apply the block to the residual stream `x + branch`.

        Args:
            x: Residual stream without the last branch.
            branch: Output of the feed-forward before; None in the first block.
            table: Cosines and sines of the positions.
            cache: Keys and values of earlier positions; None during training.
            layer: Index of the block.

        Returns:
            The stream and the last branch, which the next normalization adds to it.
        """
        normalized, x = self.input_layernorm(x, branch)
        normalized, x = self.post_attention_layernorm(x, self.self_attn(normalized, table, cache, layer))
        return x, self.mlp(normalized)


@final
class LlamaStack(nn.Module):
    """Embedding, blocks and the last normalization: what Hugging Face calls `model`.

    Args:
        config: Shape of the model.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(LlamaBlock(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head_size, self.rope_theta = config.head_size, config.rope_theta

    def forward(
        self, ids: Int[Tensor, "batch time"], cache: KVCache | None = None
    ) -> Float[Tensor, "batch time width"]:
        """Return the normalized residual stream of each position."""
        start = 0 if cache is None else cache.length
        table = rotary_table(start, ids.shape[1], self.head_size, self.rope_theta, ids.device)
        x, branch = self.embed_tokens(ids), None
        for index, block in enumerate(self.layers):
            x, branch = block(x, branch, table, cache, index)
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.norm(x, branch)[0]


@final
class Llama(Decoder):
    """A Llama-style decoder-only language model.

    `state_dict()` has the names, shapes and meaning of Hugging Face's `LlamaForCausalLM`.

    Args:
        config: Shape and initialization.
        generator: Source of the random initial weights; torch's global one when None.

    Example:
        >>> model = Llama(preset("nano"))
        >>> model(torch.zeros(1, 8, dtype=torch.long)).shape
        torch.Size([1, 8, 256])

    References:
        Touvron et al. (2023), LLaMA: open and efficient foundation language models, arXiv 2302.13971.
    """

    def __init__(self, config: LlamaConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = LlamaStack(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh initial weights, as `LlamaConfig.init` says.

        Args:
            generator: Source of randomness; torch's global one when None.
        """
        config = self.config
        assert isinstance(config, LlamaConfig)
        embedding = self.get_parameter("model.embed_tokens.weight")
        for module in self.modules():
            if isinstance(module, FeedForward) and isinstance(module.activation, Swish | PolyReLU | PolyNorm):
                module.activation.reset_parameters()
        for name, parameter in self.named_parameters():
            if ".activation." in name:
                continue
            if parameter.ndim < 2:
                parameter.fill_(1.0)
            elif config.init == "normal" or parameter is embedding:
                parameter.normal_(0.0, config.init_std, generator=generator)
            elif name == "lm_head.weight":
                parameter.zero_()
            else:
                parameter.normal_(0.0, 1 / math.sqrt(parameter.shape[1]), generator=generator)
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    # Two additions a block: without this the residual stream would grow with depth.
                    parameter.mul_(1 / math.sqrt(2 * config.layers))
