# SPDX-License-Identifier: Apache-2.0
"""Bytes to token numbers and back: single bytes, or byte-level BPE trained on the user's text."""

import functools
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, final

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HuggingFaceTokenizer

_FILE = "tokenizer.json"
# Before a single blank or line end between two visible ASCII characters GPT-2's pre-tokenizer always starts a new word,
# so that text cut there gives the same tokens as the whole.
_SAFE_CUT = re.compile(rb"(?<=[!-~])[ \n](?=[!-~])")
_PIECE = 1 << 15
_MOST_WORDS = 1 << 18
_JOINED = 1 << 12
_INNER = re.compile(rb"[ \n][!-~](?:.*[!-~])?", re.DOTALL)


class Tokenizer(Protocol):
    """What every tokenizer offers. Decoding the encoding of any bytes gives the same bytes."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens; every encoded number is below it."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """The smallest of uint8, uint16 and uint32 that holds every token."""
        ...

    def encode(self, text: bytes) -> np.ndarray:
        """Return the tokens of any bytes as a one-dimensional array of `dtype`."""
        ...

    def decode(self, ids: Iterable[int] | np.ndarray) -> bytes:
        """Return the bytes of any tokens; raises ValueError for a number outside the vocabulary."""
        ...

    def count_bytes(self, ids: np.ndarray) -> int:
        """Return the number of bytes that tokens stand for."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` into an existing folder."""
        ...


@final
class ByteTokenizer:
    """The vocabulary of the 256 bytes; the tokens are the text itself.

    Example:
        >>> ByteTokenizer().encode("né".encode()).tolist()
        [110, 195, 169]
    """

    vocab_size = 256
    dtype = np.dtype(np.uint8)

    def encode(self, text: bytes) -> np.ndarray:
        """Return the bytes as a uint8 array (a read-only view)."""
        return np.frombuffer(text, dtype=np.uint8)

    def decode(self, ids: Iterable[int] | np.ndarray) -> bytes:
        """Return the tokens as bytes."""
        return _checked(ids, self.vocab_size).astype(np.uint8).tobytes()

    def count_bytes(self, ids: np.ndarray) -> int:
        """Return the number of tokens."""
        return int(np.size(ids))

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json`."""
        (Path(folder) / _FILE).write_text(json.dumps({"tokenizer": "bytes", "vocab_size": self.vocab_size}) + "\n")


@final
class BPETokenizer:
    """Byte-level BPE as in GPT-2, through Hugging Face `tokenizers`.

    Bytes that are not UTF-8 become the tokens of single bytes, so that any bytes come back unchanged.

    Args:
        model: A `tokenizers.Tokenizer` with a byte-level BPE model that holds all 256 single-byte tokens.

    Numerics:
        Text is cut into words where the pre-tokenizer starts a new word anyway, which changes no token, and each
        different word is encoded once: most of a long text is words that came before. A stretch of more than 32 KB
        without such a place (no blank, no line end) is cut at a character.
    """

    def __init__(self, model: "HuggingFaceTokenizer") -> None:
        self.model = model
        self.vocab_size = model.get_vocab_size()
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        to_byte = {char: byte for byte, char in enumerate(_byte_alphabet())}
        vocab = model.get_vocab()
        missing = sum(char not in vocab for char in to_byte)
        if missing or sorted(vocab.values()) != list(range(self.vocab_size)):
            raise ValueError(
                f"expected a byte-level BPE vocabulary numbered without gaps, got one that lacks {missing} of the 256 "
                "single bytes; train it with BPETokenizer.train"
            )
        tokens = sorted(vocab, key=vocab.__getitem__)
        self._bytes = [bytes(map(to_byte.__getitem__, token)) for token in tokens]
        self._lengths = np.array([len(token) for token in self._bytes], dtype=np.int64)
        self._of_byte = [vocab[char] for char in to_byte]
        self._known: dict[bytes, bytes] = {}

    @classmethod
    def train(cls, texts: Iterable[bytes], vocab_size: int) -> "BPETokenizer":
        """Train on an iterable of texts; the same texts give the same tokenizer.

        Args:
            texts: Pieces of text; parts that are not UTF-8 are left out.
            vocab_size: Wanted size, above 256; a small text may give fewer tokens.

        Returns:
            The tokenizer.
        """
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        model = Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        model.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, min_frequency=2, initial_alphabet=_byte_alphabet(), show_progress=False
        )
        model.train_from_iterator((text.decode("utf-8", errors="ignore") for text in texts), trainer)
        return cls(model)

    def encode(self, text: bytes) -> np.ndarray:
        """Return the tokens of any bytes."""
        words = [word for piece in pieces(text) for word in _words(piece)]
        if len(self._known) > _MOST_WORDS:
            self._known.clear()
        new = [word for word in set(words) if word not in self._known]
        # A word from between two cuts begins with a blank, ends with a visible character, and so can be joined to
        # others of its kind without a change of tokens. What is first or last in its piece may be anything.
        inner = [word for word in new if _INNER.fullmatch(word) and word.isascii()]
        self._known.update(zip(inner, self._encode_joined(inner), strict=True))
        self._known.update((word, self._encode_one(word)) for word in new if word not in self._known)
        return np.frombuffer(b"".join(map(self._known.__getitem__, words)), dtype=self.dtype)

    def _encode_joined(self, words: list[bytes]) -> Iterator[bytes]:
        """Encode inner words together; yields the tokens of each as the bytes of an array."""
        if not words:
            return
        texts = [b"".join(words[i : i + _JOINED]).decode("ascii") for i in range(0, len(words), _JOINED)]
        ids = np.array([i for part in self.model.encode_batch_fast(texts) for i in part.ids], dtype=self.dtype)
        token_ends = np.cumsum(self._lengths[ids])
        word_ends = np.cumsum([len(word) for word in words])
        stops = (np.searchsorted(token_ends, word_ends) + 1) * self.dtype.itemsize
        raw, start = ids.tobytes(), 0
        for stop in stops.tolist():
            yield raw[start:stop]
            start = stop

    def _encode_one(self, word: bytes) -> bytes:
        ids: list[int] = []
        for part in _utf8_parts(word):
            ids += self.model.encode(part).ids if isinstance(part, str) else [self._of_byte[byte] for byte in part]
        return np.array(ids, dtype=self.dtype).tobytes()

    def decode(self, ids: Iterable[int] | np.ndarray) -> bytes:
        """Return the bytes of the tokens."""
        return b"".join([self._bytes[i] for i in _checked(ids, self.vocab_size)])

    def count_bytes(self, ids: np.ndarray) -> int:
        """Return the number of bytes that the tokens stand for."""
        counts = np.bincount(np.asarray(ids).ravel(), minlength=self.vocab_size)
        return int(counts @ self._lengths)

    def save(self, folder: str | Path) -> None:
        """Write `tokenizer.json` in the format of Hugging Face `tokenizers`."""
        (Path(folder) / _FILE).write_text(self.model.to_str(), encoding="utf-8")


def load_tokenizer(folder: str | Path) -> ByteTokenizer | BPETokenizer:
    """Read the `tokenizer.json` that `save` wrote.

    Raises:
        ValueError: If the file is not one of ours.
        FileNotFoundError: If there is none.
    """
    path = Path(folder) / _FILE
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
        content = json.loads(text)
        if content.get("tokenizer") == "bytes":
            return ByteTokenizer()
        from tokenizers import Tokenizer

        return BPETokenizer(Tokenizer.from_str(text))
    except BaseException as error:
        # `tokenizers` raises bare Exception for a file that it cannot read; its panics are not even that.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"expected a tokenizer in {path}, but it cannot be read: {error}") from error


def pieces(text: bytes) -> list[bytes]:
    """Cut bytes into pieces of at most 32 KB at places where a word starts; joined they give the text again."""
    cuts = [0]
    while len(text) - cuts[-1] > _PIECE:
        cuts.append(next_cut(text, cuts[-1]))
    return [text[a:b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True) if a < b]


def next_cut(text: bytes, start: int) -> int:
    """Return where the piece that begins at `start` ends, at most 32 KB on; the text must be longer than that."""
    stop = start + _PIECE
    width = 128
    while width <= _PIECE:
        # The character after the blank must be looked at too, hence one more.
        found = [match.start() for match in _SAFE_CUT.finditer(text, max(start + 1, stop - width), stop + 1)]
        if found:
            return found[-1]
        width *= 16
    while stop > start + 1 and text[stop] & 0xC0 == 0x80 and stop > start + _PIECE - 4:
        stop -= 1
    return stop


def _words(piece: bytes) -> list[bytes]:
    """Cut at every place that `_SAFE_CUT` finds."""
    cuts = _cut_places(np.frombuffer(piece, dtype=np.uint8)).tolist()
    return [piece[a:b] for a, b in zip([0, *cuts], [*cuts, len(piece)], strict=True)]


def _cut_places(text: np.ndarray) -> np.ndarray:
    visible = (text >= ord("!")) & (text <= ord("~"))
    blank = (text == ord(" ")) | (text == ord("\n"))
    return np.flatnonzero(visible[:-2] & blank[1:-1] & visible[2:]) + 1


def _utf8_parts(piece: bytes) -> Iterator[str | bytes]:
    while piece:
        try:
            yield piece.decode("utf-8")
            return
        except UnicodeDecodeError as error:
            if error.start:
                yield piece[: error.start].decode("utf-8")
            yield piece[error.start : error.end]
            piece = piece[error.end :]


def _checked(ids: Iterable[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    out = np.asarray(ids if isinstance(ids, np.ndarray) else list(ids)).ravel()
    if out.size and (out.dtype.kind not in "iu" or int(out.min()) < 0 or int(out.max()) >= vocab_size):
        raise ValueError(f"expected tokens from 0 to {vocab_size - 1}, got {out.min()} to {out.max()}")
    return out


@functools.cache
def _byte_alphabet() -> list[str]:
    """The character by which byte-level BPE writes each byte: itself if it is visible, else one from 256 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte if byte in visible else 256 + hidden.index(byte)) for byte in range(256)]
