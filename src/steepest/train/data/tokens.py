# SPDX-License-Identifier: Apache-2.0
"""Text to memory-mapped tokens, once: streamed, split by position, kept in a cache folder."""

import hashlib
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steepest.train import corpus as shipped
from steepest.train.data.cache import Entry, cache_root, cached, key
from steepest.train.data.config import DataConfig
from steepest.train.data.corpus import iter_chunks, iter_shipped
from steepest.train.data.sources import Sources, find_sources
from steepest.train.data.tokenizer import BPETokenizer, ByteTokenizer, load_tokenizer, next_cut

#: Stands between two documents in the stream.
SEPARATOR = b"\n\n"

_FORMAT = 1
_BLOCK = 1 << 20
_BPE_SAMPLE = 32 << 20


@dataclass(frozen=True)
class TokenData:
    """The tokens and the text of a run's data, all memory-mapped and read-only.

    Attributes:
        train: Training tokens, one-dimensional, dtype of the tokenizer.
        val: Validation tokens: the text after the training part.
        tokenizer: What made them.
        train_text: The training text as bytes (uint8).
        val_text: The validation text as bytes (uint8).
        documents: Number of documents.
        skipped: What was found and not read, with the reason, a line each.
        fingerprint: sha256 of the text, the place of the split and the tokenizer; equal fingerprints, equal tokens.
        folder: Where the text lies.
    """

    train: np.ndarray
    val: np.ndarray
    tokenizer: ByteTokenizer | BPETokenizer
    train_text: np.ndarray
    val_text: np.ndarray
    documents: int
    skipped: tuple[str, ...]
    fingerprint: str
    folder: Path

    @property
    def train_bytes(self) -> int:
        """Bytes of training text."""
        return len(self.train_text)

    @property
    def val_bytes(self) -> int:
        """Bytes of validation text."""
        return len(self.val_text)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of validation text for each validation token: bits per byte = nats per token / ln 2 / this."""
        return self.val_bytes / len(self.val)

    def describe(self) -> str:
        """Return the sizes in one line."""
        return (
            f"{self.documents:,} documents: train {len(self.train):,} tokens ({self.train_bytes:,} bytes), "
            f"validation {len(self.val):,} tokens ({self.val_bytes:,} bytes), "
            f"vocabulary {self.tokenizer.vocab_size:,}, {self.bytes_per_token:.2f} bytes a token"
        )


def prepare(config: DataConfig, *, progress: bool = True) -> TokenData:
    """Return the tokens of a configuration, from the cache or by streaming the text through the tokenizer.

    The text of all documents, with an empty line between two of them, is one stream. Validation is its end: the split
    falls at the start of the document nearest to `1 - val_fraction` of the bytes, or, if none is near (within half of
    the validation part), at the next blank or line end. A BPE vocabulary is trained on the training part alone, on at
    most 32 MB spread evenly over it.

    Args:
        config: Which text, which tokenizer, which split.
        progress: Show a progress bar on standard error if that is a terminal.

    Returns:
        The tokens, memory-mapped.

    Raises:
        FileNotFoundError: If something named does not exist or holds no text.
        ValueError: If a file is empty, binary, damaged or without the column; if there is too little text; if the cache
            folder cannot be written.
        ModuleNotFoundError: If a Parquet file is read without pyarrow.

    Numerics:
        Memory stays bounded whatever the size of the text: chunks of 1 MB are read and written, and tokens are mapped,
        not loaded. The cache goes by the names, sizes and modification times of the files, so that a changed file is
        read again.
    """
    root = cache_root(config.cache)
    sources = find_sources(config.paths, column=config.column) if config.paths else Sources((), ())
    text = cached(root, _text_name(config, sources), lambda folder: _write_text(folder, config, sources, progress))
    content = np.memmap(text.path / "text.bin", dtype=np.uint8, mode="r")
    split = _split(content, np.fromfile(text.path / "starts.bin", dtype=np.int64), config.val_fraction)
    train, val, tokenizer, made = _tokens(root, config, text, content, split, progress)
    return TokenData(
        train=train,
        val=val,
        tokenizer=tokenizer,
        train_text=content[:split],
        val_text=content[split:],
        documents=text.info["documents"],
        skipped=sources.skipped,
        fingerprint=hashlib.sha256(f"{text.info['sha256']} {split} {made}".encode()).hexdigest(),
        folder=text.path,
    )


def _text_name(config: DataConfig, sources: Sources) -> str:
    if not config.paths:
        return f"text-{key(_FORMAT, shipped.SHA256)}"
    files = [(str(file.path.resolve()), file.size, file.mtime_ns) for file in sources.files]
    return f"text-{key(_FORMAT, config.column, files)}"


def _write_text(folder: Path, config: DataConfig, sources: Sources, progress: bool) -> dict[str, Any]:
    digest, size, documents = hashlib.sha256(), 0, 0
    total = sum(file.size for file in sources.files)
    with _bar("reading", total, show=progress and total > 0) as advance:
        chunks = iter_chunks(sources.files, config.column, advance) if config.paths else iter_shipped()
        begins = True
        with (folder / "text.bin").open("wb") as text, (folder / "starts.bin").open("wb") as starts:
            for part, ends in chunks:
                if begins:
                    part = SEPARATOR + part if size else part
                    array("q", [size + len(SEPARATOR) if size else 0]).tofile(starts)
                    documents += 1
                text.write(part)
                digest.update(part)
                size += len(part)
                begins = ends
    if size < 2:
        raise ValueError(f"expected text, got {size} bytes in all of {', '.join(config.paths)}; give more text")
    return {"sha256": digest.hexdigest(), "documents": documents, "bytes": size}


def _split(text: np.ndarray, starts: np.ndarray, fraction: float) -> int:
    """Return where validation begins."""
    size = len(text)
    wanted = size - max(1, round(size * fraction))
    nearest = int(starts[np.abs(starts - wanted).argmin()])
    if nearest > 0 and abs(nearest - wanted) <= (size - wanted) // 2:
        return nearest
    ahead = text[wanted : min(size - 1, wanted + (size - wanted) // 2)]
    blanks = np.flatnonzero((ahead == ord(" ")) | (ahead == ord("\n")))
    return max(1, wanted + (int(blanks[0]) if len(blanks) else 0))


def _tokens(
    root: Path, config: DataConfig, text: Entry, content: np.ndarray, split: int, progress: bool
) -> tuple[np.ndarray, np.ndarray, ByteTokenizer | BPETokenizer, str]:
    """Return both parts, the tokenizer, and what tells it apart."""
    if config.tokenizer == "bytes":
        return content[:split], content[split:], ByteTokenizer(), "bytes"

    def build(folder: Path) -> dict[str, Any]:
        tokenizer = BPETokenizer.train(_sample(content[:split]), config.vocab_size)
        tokenizer.save(folder)
        with _bar("tokenizing", len(content), show=progress) as advance:
            for part, name in ((content[:split], "train.bin"), (content[split:], "val.bin")):
                with (folder / name).open("wb") as file:
                    for ids in _encode_stream(tokenizer, part, advance):
                        ids.tofile(file)
        return {"vocab_size": tokenizer.vocab_size}

    name = f"bpe-{key(_FORMAT, text.info['sha256'], split, config.vocab_size)}"
    entry = cached(root, name, build)
    tokenizer = load_tokenizer(entry.path)
    train, val = (np.memmap(entry.path / file, dtype=tokenizer.dtype, mode="r") for file in ("train.bin", "val.bin"))
    made = hashlib.sha256((entry.path / "tokenizer.json").read_bytes()).hexdigest()
    return train, val, tokenizer, made


def _sample(text: np.ndarray) -> Iterator[bytes]:
    """Blocks of 1 MB spread evenly over the text, at most 32 MB, in pieces that begin at words."""
    blocks = -(-len(text) // _BLOCK)
    taken = min(blocks, _BPE_SAMPLE // _BLOCK)
    for i in range(taken):
        start = (blocks * i // taken) * _BLOCK
        yield from _pieces(text[start : start + _BLOCK].tobytes())


def _pieces(block: bytes) -> Iterator[bytes]:
    start = 0
    while len(block) - start > (1 << 15):
        stop = next_cut(block, start)
        yield block[start:stop]
        start = stop
    yield block[start:]


def _encode_stream(tokenizer: BPETokenizer, text: np.ndarray, advance: Callable[[int], None]) -> Iterator[np.ndarray]:
    """Encode in blocks that end where `encode` would cut the whole text too, so that the tokens are the same."""
    start = 0
    while start < len(text):
        block = text[start : start + _BLOCK].tobytes()
        if start + len(block) < len(text):
            cuts = [0]
            while len(block) - cuts[-1] > (1 << 15):
                cuts.append(next_cut(block, cuts[-1]))
            block = block[: cuts[-1]]
        yield tokenizer.encode(block)
        start += len(block)
        advance(len(block))


class _bar:  # noqa: N801 (a context manager, used like a function)
    """A progress bar on standard error; gives a function to advance it."""

    def __init__(self, title: str, total: int, *, show: bool) -> None:
        self.title, self.total, self.show = title, total, show and sys.stderr.isatty()

    def __enter__(self) -> Callable[[int], None]:
        if not self.show:
            return lambda size: None
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self.progress.start()
        task = self.progress.add_task(self.title, total=self.total)
        return lambda size: self.progress.advance(task, size)

    def __exit__(self, *error: object) -> None:
        if self.show:
            self.progress.stop()
