# SPDX-License-Identifier: Apache-2.0
"""nGPT: a decoder whose hidden states, weights, queries and keys are points on spheres."""

import math
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from steepest.geometry.manifold import Manifold, Oblique, RowSphere
from steepest.kernels.gated import swiglu
from steepest.kernels.l2_normalize import l2_normalize
from steepest.kernels.rotary import rotary
from steepest.nn.attention import causal_attention, causal_mask
from steepest.nn.decoder import Decoder
from steepest.nn.kv_cache import KVCache
from steepest.nn.ngpt_config import NGPTConfig
from steepest.nn.rope import rotary_table


@final
class LearnedScale(nn.Module):
    r"""A vector of learned scales, stored small: $s = \hat s \cdot \mathrm{init} / \mathrm{scale}$.

    Args:
        size: Length of the vector.
        init: What $s$ is at the start.
        scale: What $\hat s$ (`weight`) is at the start; above 0.
    """

    def __init__(self, size: int, init: float, scale: float) -> None:
        super().__init__()
        self.init, self.scale = init, scale
        self.weight = nn.Parameter(torch.full((size,), scale))

    def forward(self) -> Float[Tensor, " size"]:
        """Return $s$."""
        return self.weight * (self.init / self.scale)


def scaled_linear(
    x: Float[Tensor, "*batch n"], weight: Float[Tensor, "m n"], scale: Float[Tensor, " m"]
) -> Float[Tensor, "*batch m"]:
    """Return `scale * (weight @ x)`, with the scale put where it costs less: on the weight or on the outputs.

    Args:
        x: Inputs.
        weight: Matrix.
        scale: Factor of each output.
    """
    if x.numel() > weight.shape[1] ** 2:
        return F.linear(x, weight * scale[:, None])
    return F.linear(x, weight) * scale


@final
class NormalizedAttention(nn.Module):
    r"""Causal attention, $\mathrm{softmax}(\sqrt{d_k}\, q^\top k)$ with $q$ and $k$ unit vectors times $s_{qk}$.

    Args:
        config: Shape of the model. With grouped key/value heads the queries of a group share their key's $s_{qk}$.
    """

    def __init__(self, config: NGPTConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_size = config.heads, config.key_value_heads, config.head_size
        kv_width = self.kv_heads * self.head_size
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, kv_width, bias=False)
        self.v_proj = nn.Linear(config.width, kv_width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)
        self.s_qk = LearnedScale(kv_width, config.qk_init, config.stored_scale)

    def forward(
        self,
        h: Float[Tensor, "batch time width"],
        table: Float[Tensor, "2 time half"],
        cache: KVCache | None,
        layer: int,
    ) -> Float[Tensor, "batch time width"]:
        """Mix information over time.

        Args:
            h: Unit hidden states.
            table: Cosines and sines of the positions of `h`.
            cache: Keys and values of earlier positions, extended by this call; None during training.
            layer: Which layer of the cache is this one's.

        Returns:
            Where attention points; not normalized.
        """
        batch, time, width = h.shape
        packed = F.linear(h, torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)))
        packed = packed.view(batch, time, -1, self.head_size)
        rotated, value = packed.split((self.heads + self.kv_heads, self.kv_heads), dim=2)
        unit = l2_normalize(rotary(rotated, table[0], table[1]))
        query, key = (unit * self._scales(unit.dtype)).split((self.heads, self.kv_heads), dim=2)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        fresh = cache is None or cache.length == 0
        if cache is not None:
            key, value = cache.append(layer, key, value)
        if fresh:
            mixed = causal_attention(query, key, value)
        else:
            mask = causal_mask(time, key.shape[2], h.device)
            mixed = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, enable_gqa=self.kv_heads != self.heads
            )
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, time, width))

    def _scales(self, dtype: torch.dtype) -> Tensor:
        """The factors of queries and keys; attention divides scores by sqrt(d_k), so the queries carry d_k."""
        scales = self.s_qk().view(self.kv_heads, self.head_size)
        of_queries = scales.repeat_interleave(self.heads // self.kv_heads, dim=0) * self.head_size
        return torch.cat((of_queries, scales)).to(dtype)


@final
class NormalizedFeedForward(nn.Module):
    r"""Gated feed-forward on unit states, $W_o (\mathrm{silu}(s_v \sqrt d\, W_v h) \odot s_u \sqrt d\, W_u h)$.

    $\sqrt d$ makes the inputs of silu of size one: a cosine of d-dimensional directions is about $1 / \sqrt d$.

    Args:
        config: Shape of the model.
    """

    def __init__(self, config: NGPTConfig) -> None:
        super().__init__()
        inner = config.hidden_ffn_width
        self.root_width = math.sqrt(config.width)
        self.gate_proj = nn.Linear(config.width, inner, bias=False)
        self.up_proj = nn.Linear(config.width, inner, bias=False)
        self.down_proj = nn.Linear(inner, config.width, bias=False)
        self.s_u = LearnedScale(inner, config.u_init, 1.0)
        self.s_v = LearnedScale(inner, config.v_init, 1.0)

    def forward(self, h: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Return where the feed-forward points at each position; not normalized."""
        gate = scaled_linear(h, self.gate_proj.weight, self.s_v() * self.root_width)
        up = scaled_linear(h, self.up_proj.weight, self.s_u() * self.root_width)
        return self.down_proj(swiglu(gate, up))


@final
class NGPTBlock(nn.Module):
    r"""One block: two moves on the sphere, $h \leftarrow N(h + |\alpha| \odot (N(f(h)) - h))$ with $N(x) = x/\|x\|$.

    Args:
        config: Shape of the model.
    """

    def __init__(self, config: NGPTConfig) -> None:
        super().__init__()
        self.self_attn = NormalizedAttention(config)
        self.mlp = NormalizedFeedForward(config)
        self.alpha_attn = LearnedScale(config.width, config.alpha_init, config.stored_scale)
        self.alpha_mlp = LearnedScale(config.width, config.alpha_init, config.stored_scale)

    def forward(self, h: Tensor, table: Tensor, cache: KVCache | None, layer: int) -> Tensor:
        """Return the next unit hidden states.

        Args:
            h: Unit hidden states.
            table: Cosines and sines of the positions.
            cache: Keys and values of earlier positions; None during training.
            layer: Index of the block.
        """
        h = move_on_sphere(h, self.self_attn(h, table, cache, layer), self.alpha_attn())
        return move_on_sphere(h, self.mlp(h), self.alpha_mlp())


def move_on_sphere(
    h: Float[Tensor, "*batch width"], towards: Float[Tensor, "*batch width"], alpha: Float[Tensor, " width"]
) -> Float[Tensor, "*batch width"]:
    r"""Return $N(h + |\alpha| \odot (N(t) - h))$: a step from `h` towards a direction, put back on the sphere.

    Args:
        h: Unit vectors.
        towards: $t$, of any length.
        alpha: Eigen learning rates; their signs do not matter.

    Returns:
        Unit vectors in the dtype of `h`.

    Example:
        >>> h, t = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0])
        >>> move_on_sphere(h, t, torch.tensor([0.5, -0.5]))
        tensor([0.7071, 0.7071])
    """
    target = l2_normalize(towards.to(h.dtype))
    return l2_normalize(torch.addcmul(h, alpha.abs().to(h.dtype), target - h))


@final
class NGPTStack(nn.Module):
    """Embedding and blocks; there is no last normalization, for hidden states are unit vectors all along.

    Args:
        config: Shape of the model.
    """

    def __init__(self, config: NGPTConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(NGPTBlock(config) for _ in range(config.layers))
        self.head_size, self.rope_theta = config.head_size, config.rope_theta

    def forward(
        self, ids: Int[Tensor, "batch time"], cache: KVCache | None = None
    ) -> Float[Tensor, "batch time width"]:
        """Return the unit hidden state of each position."""
        start = 0 if cache is None else cache.length
        table = rotary_table(start, ids.shape[1], self.head_size, self.rope_theta, ids.device)
        h = self.embed_tokens(ids)
        for index, block in enumerate(self.layers):
            h = block(h, table, cache, index)
        if cache is not None:
            cache.advance(ids.shape[1])
        return h


@final
class NGPT(Decoder):
    r"""A decoder-only language model on the sphere.

    Hidden states, embeddings, queries, keys and the rows (columns, for what writes to the stream) of every matrix have
    length one, so every product is a cosine, and a logit lies in $[-s_z, s_z]$. The weights have to be put back after
    each step of the optimizer:

    `keep_on_manifolds(optimizer, model.manifolds())`

    does so for any optimizer; `steepest train` does it by itself. Train without warm-up and without weight decay.

    Args:
        config: Shape and starting values.
        generator: Source of the random initial weights; torch's global one when None.

    Numerics:
        Norms are in float32 or wider. Under bfloat16 autocast the products are bfloat16, hidden states stay float32.

    Example:
        >>> model = NGPT(NGPTConfig(width=64, layers=2, heads=2))
        >>> model(torch.zeros(1, 8, dtype=torch.long)).abs().max() <= 1
        tensor(True)

    References:
        Loshchilov et al. (2024), nGPT: normalized transformer with representation learning on the hypersphere, arXiv
        2410.01131. Deviation: with grouped key/value heads $s_{qk}$ has the keys' size.
    """

    def __init__(self, config: NGPTConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.model = NGPTStack(config)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.s_z = LearnedScale(config.vocab_size, config.z_init, config.stored_scale)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw every direction uniformly from its sphere, and set the scales to their starting values.

        Args:
            generator: Source of randomness; torch's global one when None.
        """
        for module in self.modules():
            if isinstance(module, LearnedScale):
                module.weight.fill_(module.scale)
        for parameter, manifold in self.manifolds():
            parameter.normal_(generator=generator)
            parameter.copy_(manifold.project(parameter))

    def manifolds(self) -> list[tuple[nn.Parameter, Manifold]]:
        """Return each matrix with its manifold: unit rows for what reads states, unit columns for what writes."""
        pairs = []
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                pairs.append((parameter, Oblique() if writes else RowSphere()))
        return pairs

    def logits(self, ids: Int[Tensor, "batch time"], cache: KVCache | None) -> Float[Tensor, "batch time vocab"]:
        r"""Return the logits of the next token at each position, each within $\pm s_z$ of its token.

        Args:
            ids: Token ids in [0, vocab_size).
            cache: Keys and values of earlier positions; extended in place.
        """
        return scaled_linear(self.model(ids, cache), self.lm_head.weight, self.s_z())
