# SPDX-License-Identifier: Apache-2.0
"""What all decoder-only language models of the library do alike: logits or loss, counting, constraints on weights."""

import abc

import torch
from jaxtyping import Int
from torch import Tensor, nn

from steepest.geometry.manifold import Manifold
from steepest.kernels.cross_entropy import cross_entropy
from steepest.nn.decoder_config import DecoderConfig
from steepest.nn.kv_cache import KVCache


class Decoder(nn.Module, abc.ABC):
    """A decoder-only language model: `model` (with `embed_tokens` and `layers`) under a head `lm_head`."""

    config: DecoderConfig
    model: nn.Module
    lm_head: nn.Linear

    @abc.abstractmethod
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh initial weights.

        Args:
            generator: Source of randomness; torch's global one when None.
        """

    def logits(self, ids: Int[Tensor, "batch time"], cache: KVCache | None) -> Tensor:
        """Return the logits of the next token at each position, shape (batch, time, vocab).

        Args:
            ids: Token ids in [0, vocab_size).
            cache: Keys and values of earlier positions; extended in place.
        """
        return self.lm_head(self.model(ids, cache))

    def forward(
        self,
        ids: Int[Tensor, "batch time"],
        cache: KVCache | None = None,
        *,
        targets: Int[Tensor, "batch time"] | None = None,
    ) -> Tensor:
        """Return the logits of the next token at each position, or the loss.

        Args:
            ids: Token ids in [0, vocab_size).
            cache: Keys and values of earlier positions; extended in place. `ids` then continues the cached text.
            targets: The token that follows each of `ids`. With them the result is the loss.

        Returns:
            Logits of shape (batch, time, vocab) in the dtype of the head's product; with `targets` the cross-entropy of
            each target in nats, float32, shape (batch, time).
        """
        logits = self.logits(ids, cache)
        if targets is None:
            return logits
        losses = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", inplace_backward=True)
        return losses.view_as(targets)

    def manifolds(self) -> list[tuple[nn.Parameter, Manifold]]:
        """Return the weights that are kept on a manifold while the model is trained, each with it."""
        return []

    def parameter_count(self, *, blocks_only: bool = False) -> int:
        """Return the number of parameters, each shared one once.

        Args:
            blocks_only: Leave out embedding, head and the last normalization.
        """
        source = self.model.get_submodule("layers") if blocks_only else self
        return sum(parameter.numel() for parameter in source.parameters())

    def flops_per_token(self, time: int) -> float:
        """Return the floating-point operations of one training token, forward and backward.

        Six for each weight of a matrix product (two forward, four backward), and attention's two products over the
        `time` / 2 positions that a token sees on average.

        Args:
            time: Length of the training sequences in tokens.

        References:
            Chowdhery et al. (2022), PaLM: scaling language modeling with pathways, arXiv 2204.02311, appendix B (halved
            for the causal mask).
        """
        config = self.config
        weights = self.parameter_count(blocks_only=True) + config.vocab_size * config.width
        return 6.0 * weights + 6.0 * config.layers * config.width * time
