# SPDX-License-Identifier: Apache-2.0
"""Writing text with a decoder: temperature, top-k, top-p, and a key/value cache."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from steepest.nn.decoder import Decoder
from steepest.nn.kv_cache import KVCache


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the next token is chosen from the logits.

    Args:
        temperature: Logits are divided by it; 0 takes the most probable token.
        top_k: Keep the k most probable tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probability reaches p, in (0, 1].

    Raises:
        ValueError: If a value is out of its range.

    References:
        Holtzman et al. (2019), The curious case of neural text degeneration, arXiv 1904.09751 (top-p).
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number of at least 0, got {self.temperature}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (0 keeps all tokens), got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")


def next_token_probabilities(logits: Float[Tensor, "*batch vocab"], config: SamplingConfig) -> Tensor:
    """Return the distribution from which the next token is drawn.

    Args:
        logits: Scores of the next token.
        config: Temperature, top-k and top-p, applied in this order.

    Returns:
        Float32 probabilities of the same shape, zero outside the kept tokens.
    """
    logits = logits.float()
    if config.temperature == 0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    probabilities = torch.softmax(logits / config.temperature, dim=-1)
    if 0 < config.top_k < logits.shape[-1]:
        kept = torch.zeros_like(probabilities, dtype=torch.bool)
        kept.scatter_(-1, probabilities.topk(config.top_k, dim=-1).indices, True)
        probabilities = probabilities.where(kept, 0.0)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    if config.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        # A token stays if what comes before it has not reached p yet: the most probable one always stays.
        kept = (ordered.cumsum(-1) - ordered) < config.top_p
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, ordered * kept)
        probabilities = probabilities / probabilities.sum(-1, keepdim=True)
    return probabilities


@torch.inference_mode()
def generate(
    model: Decoder,
    prompt: Int[Tensor, " time"],
    *,
    tokens: int,
    config: SamplingConfig | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[int]:
    """Yield new token ids one by one.

    The model sees a window of at most `model.config.context` tokens. When it is full, the cache is built anew from the
    last half of the window, so that a text of any length costs a constant amount a token.

    Args:
        model: The decoder.
        prompt: At least one token id.
        tokens: How many to write.
        config: How tokens are chosen; the defaults of `SamplingConfig` when None.
        generator: Source of randomness; torch's global one when None.

    Yields:
        Token ids.

    Raises:
        ValueError: If the prompt is empty or `tokens` is negative.
    """
    config = config or SamplingConfig()
    if prompt.numel() == 0:
        raise ValueError("the prompt is empty: give at least one token")
    if tokens < 0:
        raise ValueError(f"tokens must be at least 0, got {tokens}")
    shape = model.config
    was_training = model.training
    model.eval()
    cache = KVCache(shape.layers, 1, shape.key_value_heads, shape.head_size, shape.context)
    window = prompt.tolist()[-shape.context :]
    pending = window
    try:
        for _ in range(tokens):
            if cache.length + len(pending) > shape.context:
                cache.truncate(0)
                window = window[-max(1, shape.context // 2) :]
                pending = window
            logits = model(torch.tensor([pending]), cache)[0, -1]
            choice = torch.multinomial(next_token_probabilities(logits, config), 1, generator=generator)
            pending = [int(choice)]
            window = window + pending
            yield pending[0]
    finally:
        model.train(was_training)
