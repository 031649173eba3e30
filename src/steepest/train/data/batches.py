# SPDX-License-Identifier: Apache-2.0
"""Batches of training windows as a pure function of the seed and the step, and the fixed windows of an evaluation."""

from typing import final

import numpy as np
import torch
from torch import Tensor

_ROUNDS = 4
_MASK = (1 << 64) - 1


def permute(index: np.ndarray, *, n: int, key: int) -> np.ndarray:
    r"""Return where a keyed permutation of $0 \dots n-1$ sends each index, without holding the permutation.

    A Feistel network on pairs $(l, r) \in Z_a \times Z_b$ with $a = \lceil \sqrt n \rceil$, $b = \lceil n / a \rceil$:
    each round adds a hash of one half to the other, which is a bijection whatever the hash. The few pairs that stand
    for numbers of $n$ and above are sent through again until they fall below (cycle walking).

    Args:
        index: Integers from 0 to `n - 1`, any shape.
        n: Length of the permutation, at least 1 and below 2^62.
        key: Any integer; another key gives another permutation.

    Returns:
        int64 array shaped like `index`.

    References:
        Black and Rogaway (2002), Ciphers with arbitrary finite domains.
    """
    a = max(1, int(np.ceil(np.sqrt(n))))
    b = -(-n // a)
    out = np.array(index, dtype=np.uint64, ndmin=1)
    walking = np.ones(out.shape, dtype=bool)
    while walking.any():
        out[walking] = _feistel(out[walking], a, b, key)
        walking = out >= n
    return out.astype(np.int64).reshape(np.shape(index))


def _feistel(x: np.ndarray, a: int, b: int, key: int) -> np.ndarray:
    left, right = np.divmod(x, np.uint64(b))
    for turn in range(_ROUNDS):
        left = (left + _hash(right, key, 2 * turn) % np.uint64(a)) % np.uint64(a)
        right = (right + _hash(left, key, 2 * turn + 1) % np.uint64(b)) % np.uint64(b)
    return left * np.uint64(b) + right


def _hash(x: np.ndarray, key: int, turn: int) -> np.ndarray:
    """Hash 64-bit words: the finalizer of SplitMix64 after adding a constant for the key and the round."""
    x = x + np.uint64(_scramble(_scramble(key & _MASK) + turn))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _scramble(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


@final
class Batches:
    """Training windows in a seeded order; nothing to save and nothing to restore.

    The tokens are cut into `windows` windows of `context` tokens (and one token more as the last target, shared with
    the next window). Every epoch shifts the cuts by a seeded offset below `context` and visits each window once in a
    seeded permutation. Sample `i` of epoch `e` is global sample `e * windows + i`; step `s` takes the global samples
    `s * batch` to `(s + 1) * batch - 1`. So the batch of a step depends on the seed and the step alone: a run resumes
    from its step number, and rank `r` of `world` takes the r-th slice of the same rows.

    Args:
        tokens: One-dimensional integer array, memory-mapped or not.
        context: Length of a window, at least 1.
        batch: Rows of a step over all ranks, at least 1.
        seed: Any integer.

    Raises:
        ValueError: If a number is out of range or the tokens are fewer than `context + 1`.

    Example:
        >>> inputs, targets = Batches(np.arange(100), context=8, batch=4, seed=0).batch(step=0)
        >>> inputs.shape, bool((targets == inputs + 1).all())
        (torch.Size([4, 8]), True)
    """

    def __init__(self, tokens: np.ndarray, *, context: int, batch: int, seed: int) -> None:
        if batch < 1:
            raise ValueError(f"batch: expected at least 1 row, got {batch}")
        _check_length(tokens, context, "training")
        self.tokens = np.asarray(tokens)
        self.context, self.rows, self.seed = context, batch, seed
        #: Windows of one epoch: as many as fit at every offset.
        self.windows = max(1, (len(tokens) - context) // context)
        self._offsets = min(context, len(tokens) - self.windows * context)

    def batch(self, step: int, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets of a step.

        Args:
            step: Step number from 0.
            rank: This process, from 0 to `world - 1`.
            world: Number of processes; divides `batch`.

        Returns:
            Two int64 tensors of shape (batch / world, context); the targets are the inputs' next tokens.

        Raises:
            ValueError: If `step` is negative, `world` does not divide the batch, or `rank` is not below `world`.
        """
        if step < 0:
            raise ValueError(f"step: expected 0 or more, got {step}")
        if world < 1 or self.rows % world or not 0 <= rank < world:
            raise ValueError(
                f"expected a world size that divides the batch of {self.rows} rows and a rank below it, "
                f"got rank {rank} of {world}; change the batch or the number of processes"
            )
        rows = self.rows // world
        first = step * self.rows + rank * rows
        return _windows(self.tokens, self.starts(first, rows), self.context)

    def starts(self, first: int, count: int) -> np.ndarray:
        """Return the positions of the first token of global samples `first` to `first + count - 1` (int64)."""
        epochs, index = np.divmod(np.arange(first, first + count, dtype=np.int64), self.windows)
        starts = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = _scramble((self.seed & _MASK) + _scramble(int(epoch)))
            offset = _scramble(key ^ _MASK) % self._offsets
            starts[here] = permute(index[here], n=self.windows, key=key) * self.context + offset
        return starts


def eval_windows(tokens: np.ndarray, context: int, max_tokens: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the fixed windows of an evaluation: consecutive, not overlapping, from the first token on.

    Args:
        tokens: One-dimensional integer array.
        context: Length of a window, at least 1.
        max_tokens: Upper bound on the tokens predicted (at least one window is taken); None for all.

    Returns:
        Inputs and targets, int64, of shape (windows, context). The first token is never a target, and what is left at
        the end, shorter than a window, is left out.

    Raises:
        ValueError: If the tokens are fewer than `context + 1`.
    """
    _check_length(tokens, context, "validation")
    windows = (len(tokens) - 1) // context
    if max_tokens is not None:
        windows = max(1, min(windows, max_tokens // context))
    return _windows(np.asarray(tokens), np.arange(windows, dtype=np.int64) * context, context)


def _windows(tokens: np.ndarray, starts: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    block = np.lib.stride_tricks.sliding_window_view(tokens, context + 1)[starts]
    inputs, targets = (np.ascontiguousarray(part, dtype=np.int64) for part in (block[:, :-1], block[:, 1:]))
    return torch.from_numpy(inputs), torch.from_numpy(targets)


def _check_length(tokens: np.ndarray, context: int, part: str) -> None:
    if context < 1:
        raise ValueError(f"context: expected at least 1 token, got {context}")
    if tokens.ndim != 1 or len(tokens) < context + 1:
        remedy = "lower the context or give more text" + (" or raise val_fraction" if part == "validation" else "")
        raise ValueError(
            f"the {part} text is too short: expected at least context + 1 = {context + 1} tokens, "
            f"got {tokens.size}; {remedy}"
        )
