"""A language model of a few thousand parameters, and what it reads."""

import torch
from torch import nn


def tiny_llama(*, tied: bool = False) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=16,
        tie_word_embeddings=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config)


def texts(count: int = 32) -> list[dict[str, torch.Tensor]]:
    """Numbers in turn from a random one on."""
    first = torch.randint(32, (count, 1), generator=torch.Generator().manual_seed(1))
    ids = (first + torch.arange(12)) % 32
    return [{"input_ids": row, "labels": row} for row in ids]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_equal_weights(one: nn.Module, two: nn.Module, *, rtol: float = 0.0, atol: float = 0.0) -> None:
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")
