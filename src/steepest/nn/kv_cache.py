# SPDX-License-Identifier: Apache-2.0
"""Keys and values of the positions a decoder has already seen."""

from typing import final

import torch
from torch import Tensor


@final
class KVCache:
    """Room for the keys and values of all layers, filled as the text grows.

    Args:
        layers: Number of decoder blocks.
        batch: Number of sequences.
        heads: Key/value heads of a block.
        size: Width of a head.
        room: Longest text in tokens.
        dtype: Of keys and values.
        device: Where they live.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        size: int,
        room: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._stored = torch.empty(2, layers, batch, heads, room, size, dtype=dtype, device=device)
        self.length = 0

    @property
    def room(self) -> int:
        """Longest text in tokens."""
        return self._stored.shape[4]

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new positions and return those of all positions so far.

        Args:
            layer: Index of the block.
            key: Shape (batch, heads, new, size).
            value: The same.

        Returns:
            Keys and values of shape (batch, heads, length + new, size): views of the cache.

        Raises:
            ValueError: If the cache is full.
        """
        end = self.length + key.shape[2]
        if end > self.room:
            raise ValueError(f"the cache has room for {self.room} positions, {end} are needed")
        keys, values = self._stored[0, layer], self._stored[1, layer]
        keys[:, :, self.length : end] = key
        values[:, :, self.length : end] = value
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, count: int) -> None:
        """Count `count` new positions, once all layers have stored theirs."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` positions."""
        self.length = min(self.length, length)
