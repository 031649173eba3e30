# SPDX-License-Identifier: Apache-2.0
"""The loss on a fixed part of the validation text, in nats per token and bits per byte."""

import math
from typing import final

import torch
from torch import nn

from steepest.train.baselines import VAL_LIMIT
from steepest.train.data import TokenData, eval_windows
from steepest.train.distributed import Peers


@final
class Evaluation:
    """Evaluates a model on the first windows of the validation split, the same ones every time.

    Args:
        data: Tokens and tokenizer.
        context: Length of a window.
        batch: Windows of one forward pass over all processes.
        peers: The processes; each takes its share of every batch.
    """

    def __init__(self, data: TokenData, *, context: int, batch: int, peers: Peers) -> None:
        self._data, self._context, self._batch, self._peers = data, context, batch, peers
        self._bytes: dict[int, int] = {}

    @torch.no_grad()
    def __call__(self, net: nn.Module, tokens: int | None) -> tuple[float, float]:
        """Return the mean loss in nats per token, and in bits per byte of the text that the predicted tokens spell.

        Args:
            net: Called as `net(ids, targets=targets)`; put into evaluation mode meanwhile.
            tokens: How many tokens at most; None takes the whole split, or of a larger one as much as the baselines.
        """
        peers = self._peers
        if tokens is None:
            tokens = max(1, int(VAL_LIMIT / self._data.bytes_per_token))
        ids, targets = eval_windows(self._data.val, self._context, tokens)
        rows = max(1, self._batch // peers.world)
        was_training = net.training
        net.eval()
        total = 0.0
        # Every process makes the same number of calls, for a sharded model gathers its weights in each of them.
        for start in range(0, len(ids), rows * peers.world):
            first = start + peers.rank * rows
            chosen = slice(first, first + rows) if first < len(ids) else slice(0, 1)
            losses = net(ids[chosen], targets=targets[chosen])
            total += losses.double().sum().item() if first < len(ids) else 0.0
        net.train(was_training)
        (total,) = peers.sum(total)
        if len(ids) not in self._bytes:
            self._bytes[len(ids)] = self._data.tokenizer.count_bytes(targets.flatten().numpy())
        return total / targets.numel(), total / math.log(2) / self._bytes[len(ids)]

    def bits_per_byte(self, nats_per_token: float) -> float:
        """Return a training loss in bits per byte, with the bytes per token of the validation text."""
        return nats_per_token / math.log(2) / self._data.bytes_per_token
