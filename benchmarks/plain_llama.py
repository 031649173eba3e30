# SPDX-License-Identifier: Apache-2.0
"""The baseline: a Llama and its loop as a careful PyTorch user writes them in one file, nanoGPT's way.

Packed query/key/value and gate/up projections, torch's fused attention, RMSNorm and AdamW, bfloat16 autocast, two
threads; nothing is computed that is not needed.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.ffn_norm = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * ffn, bias=False)
        self.down = nn.Linear(ffn, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, time, width = x.shape
        q, k, v = self.qkv(self.attention_norm(x)).split(width, dim=2)
        q, k, v = (t.view(batch, time, self.heads, width // self.heads).transpose(1, 2) for t in (q, k, v))
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).contiguous().view(batch, time, width))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=2)
        return x + self.down(F.silu(gate) * up)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class PlainLlama(nn.Module):
    def __init__(self, vocab: int, width: int, layers: int, heads: int, ffn: int, context: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab, width)
        self.blocks = nn.ModuleList(Block(width, heads, ffn) for _ in range(layers))
        self.norm = nn.RMSNorm(width, 1e-5)
        self.head = nn.Linear(width, vocab, bias=False)
        size = width // heads
        angles = torch.outer(torch.arange(context), 10000 ** (-torch.arange(0, size, 2) / size)).repeat(1, 2)
        self.cos, self.sin = angles.cos(), angles.sin()
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[1]))

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        x, time = self.embed(ids), ids.shape[1]
        for block in self.blocks:
            x = block(x, self.cos[:time], self.sin[:time])
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))
