# SPDX-License-Identifier: Apache-2.0
"""What a language model must beat: a compressor and back-off n-gram models of bytes, on the same split."""

import lzma
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from steepest.train.data.cache import cache_root, cached, key

#: Context lengths, in bytes, of the n-gram models that `compute_baselines` reports.
ORDERS = (3, 4, 5)
#: Of longer training text only the last bytes are used (fewer for the slow compressor), and of longer validation text
#: only the first.
TRAIN_LIMIT = 64 << 20
XZ_LIMIT = 16 << 20
VAL_LIMIT = 4 << 20

_SIZE = max(ORDERS) + 1
_KEYS = 1 << 23
_QUERIES = 1 << 20
_UNIFORM = 1 / 256


def compute_baselines(
    train: bytes | np.ndarray, val: bytes | np.ndarray, *, cache: str | None = None, fingerprint: str | None = None
) -> dict[str, float]:
    """Return the bits per byte of the validation text under a compressor and three n-gram models.

    Names: `xz -9` is the growth of an `xz -9` file when the validation text is put after the training text, so the
    compressor has seen the training text too; `xz -9 alone` is the validation text by itself; `order-k n-gram` for
    k = 3, 4, 5 is `KneserNey` with k bytes of context.

    Args:
        train: Training text (bytes, or a uint8 array that may be memory-mapped), at least 6 bytes. The last 64 MB are
            used, by the compressor the last 16 MB.
        val: Validation text that follows it, at least 1 byte. The first 4 MB are used.
        cache: Folder where the result is kept, as in `DataConfig`; used only with a fingerprint.
        fingerprint: What tells this text and split apart (`TokenData.fingerprint`); None to compute always.

    Returns:
        Bits per byte by name.

    Raises:
        ValueError: If a text is too short, or the cache folder cannot be written.
    """
    if fingerprint is None:
        return _compute(train, val)

    def build(folder: Path) -> dict[str, float]:
        return _compute(train, val)

    return cached(cache_root(cache), f"baselines-{key(1, fingerprint)}", build).info


def _compute(train: bytes | np.ndarray, val: bytes | np.ndarray) -> dict[str, float]:
    known = _as_array(train)[-TRAIN_LIMIT:]
    text = _as_array(val)[:VAL_LIMIT]
    _check(known, text)
    with ThreadPoolExecutor(2) as pool:  # liblzma releases the interpreter
        near = known[-XZ_LIMIT:]
        sizes = pool.map(xz_size, (np.concatenate([near, text]).tobytes(), near.tobytes(), text.tobytes()))
        model = KneserNey(known)
        grams = {f"order-{order} n-gram": model.bits_per_byte(text, known, order=order) for order in ORDERS}
        both, before, alone = sizes
    bits = 8 / len(text)
    return {"xz -9": (both - before) * bits, "xz -9 alone": alone * bits, **grams}


def xz_size(text: bytes) -> int:
    """Return the length of `xz -9` of a text, in bytes."""
    return len(lzma.compress(text, preset=9))


@dataclass(frozen=True)
class _Level:
    """One context length: discounted counts by gram, and what each context leaves for the shorter one."""

    grams: np.ndarray
    discounted: np.ndarray
    contexts: np.ndarray
    totals: np.ndarray
    backoff: np.ndarray

    def interpolate(self, queries: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Return the probabilities of grams given those for the context that is one byte shorter."""
        place, seen = _find(self.contexts, queries >> np.uint64(8))
        gram, known = _find(self.grams, queries)
        own = np.where(known, self.discounted[gram], 0.0) / self.totals[place]
        return np.where(seen, own + self.backoff[place] * shorter, shorter)


@final
class KneserNey:
    r"""Interpolated modified Kneser-Ney models of bytes, with 0 to 5 bytes of context.

    $p(w \mid h) = (c(hw) - D(c(hw))) / c(h) + \gamma(h)\, p(w \mid h')$, where $h'$ is $h$ without its first byte, $c$
    counts occurrences for the longest context of a model and distinct preceding bytes for the shorter ones, $D$ has one
    value for each of the counts 1, 2, and 3 or more, and $\gamma(h)$ makes the sum 1. Below the empty context lies the
    uniform distribution over 256 bytes. A context that never occurred leaves the shorter one's distribution
    unchanged.

    Args:
        train: Training text, at least 6 bytes. Its examples are the bytes that have 5 bytes before them.

    Numerics:
        Counts are exact integers, probabilities float64. The discounts are Chen and Goodman's; where their formula has
        no value (no gram of some small count, in tiny texts) or leaves [0.05, count], it is replaced by 0.5 or clipped.
        Memory: about 200 bytes for each distinct 6-byte string, and a few arrays of 64 MB while counting.

    References:
        Chen and Goodman (1999), An empirical study of smoothing techniques for language modeling.
    """

    def __init__(self, train: bytes | np.ndarray) -> None:
        text = _as_array(train)
        _check(text, text)
        grams, counts = _count(text)
        self._top: dict[int, _Level] = {}
        self._lower: dict[int, _Level] = {}
        for size in range(_SIZE, 0, -1):
            if size - 1 in ORDERS:
                self._top[size - 1] = _level(grams, counts)
            if size > 1:
                grams, counts, continuations = _shorten(grams, counts, size - 1)
                self._lower[size - 2] = _level(grams, continuations)

    def probabilities(self, queries: np.ndarray, *, order: int) -> np.ndarray:
        """Return p(last byte | the `order` bytes before it) of packed strings.

        Args:
            queries: uint64 array; each holds `order + 1` bytes, the last in the low 8 bits (higher bits are ignored).
            order: Bytes of context: 3, 4 or 5.

        Returns:
            float64 array of the same shape.
        """
        if order not in self._top:
            raise ValueError(f"order: expected one of {ORDERS}, got {order}")
        out = np.full(queries.shape, _UNIFORM)
        for length in range(order + 1):
            level = self._top[order] if length == order else self._lower[length]
            out = level.interpolate(queries & _mask(length + 1), out)
        return out

    def distribution(self, context: bytes, *, order: int) -> np.ndarray:
        """Return the probabilities of the 256 bytes after a context of at least `order` bytes (float64)."""
        if len(context) < order:
            raise ValueError(f"context: expected at least {order} bytes, got {len(context)}")
        before = int.from_bytes(context[len(context) - order :], "big")
        return self.probabilities(np.uint64(before << 8) + np.arange(256, dtype=np.uint64), order=order)

    def bits_per_byte(self, text: bytes | np.ndarray, history: bytes | np.ndarray, *, order: int) -> float:
        """Return the mean code length of a text in bits per byte.

        Args:
            text: At least 1 byte.
            history: What comes before it, at least 5 bytes; gives the first bytes their context.
            order: Bytes of context: 3, 4 or 5.
        """
        whole = np.concatenate([_as_array(history)[-(_SIZE - 1) :], _as_array(text)])
        bits = sum(-np.log2(self.probabilities(block, order=order)).sum() for block in _packed(whole, _QUERIES))
        return float(bits) / (len(whole) - _SIZE + 1)


def _count(text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct 6-byte strings in order and their counts."""
    blocks = [np.unique(block, return_counts=True) for block in _packed(text, _KEYS)]
    if len(blocks) == 1:
        return blocks[0]
    return _sum_equal(np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks]))[:2]


def _packed(text: np.ndarray, block: int) -> Iterator[np.ndarray]:
    """Yield the packed strings of 6 bytes, `block` at a time."""
    for start in range(0, len(text) - _SIZE + 1, block):
        part = text[start : start + block + _SIZE - 1]
        keys = np.zeros(len(part) - _SIZE + 1, dtype=np.uint64)
        for i in range(_SIZE):
            keys <<= np.uint64(8)
            keys |= part[i : i + len(keys)]
        yield keys


def _shorten(grams: np.ndarray, counts: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Drop the first byte: the distinct strings of `size` bytes, their counts, and how many bytes came before each."""
    return _sum_equal(grams & _mask(size), counts)


def _sum_equal(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
    return keys[starts], np.add.reduceat(counts[order], starts), np.diff(np.r_[starts, len(keys)])


def _level(grams: np.ndarray, counts: np.ndarray) -> _Level:
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    contexts = grams >> np.uint64(8)
    starts = np.flatnonzero(np.r_[True, contexts[1:] != contexts[:-1]])
    totals = np.add.reduceat(counts, starts).astype(np.float64)
    return _Level(grams, counts - discounts, contexts[starts], totals, np.add.reduceat(discounts, starts) / totals)


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Return Chen and Goodman's discounts for counts 0 (none), 1, 2, and 3 or more."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(np.float64)
    out = np.zeros(4)
    for count in (1, 2, 3):
        if n[1] and n[count]:
            value = count - (count + 1) * n[1] / (n[1] + 2 * n[2]) * n[count + 1] / n[count]
            out[count] = min(max(value, 0.05), count)
        else:
            out[count] = 0.5
    return out


def _find(table: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the place of each query in a sorted table and whether it is there; the place is valid either way."""
    place = np.minimum(np.searchsorted(table, queries), len(table) - 1)
    return place, table[place] == queries


def _mask(size: int) -> np.uint64:
    return np.uint64((1 << 8 * size) - 1)


def _as_array(text: bytes | np.ndarray) -> np.ndarray:
    return np.asarray(text) if isinstance(text, np.ndarray) else np.frombuffer(text, dtype=np.uint8)


def _check(train: np.ndarray, val: np.ndarray) -> None:
    for array, part, least in ((train, "training", _SIZE), (val, "validation", 1)):
        if array.dtype != np.uint8 or array.ndim != 1:
            raise TypeError(f"expected bytes or a one-dimensional uint8 array of {part} text, got {array.dtype}")
        if len(array) < least:
            raise ValueError(f"expected at least {least} bytes of {part} text, got {len(array)}; give more text")
