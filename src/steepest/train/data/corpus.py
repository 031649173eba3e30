# SPDX-License-Identifier: Apache-2.0
"""Streams the documents of text files, compressed files and table columns, a chunk at a time."""

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from steepest.train import corpus as shipped
from steepest.train.data.sources import Source, find_sources

CHUNK = 1 << 20
_UNDECODABLE = 0.1

#: A part of a document, and whether the document ends with it.
Chunk = tuple[bytes, bool]
Advance = Callable[[int], None]


def iter_documents(paths: Sequence[str] = (), *, column: str | None = None) -> Iterator[bytes]:
    r"""Yield every document of the files, folders and globs, or of the shipped corpus if there are none.

    A text file is one document, so is a row of a table. Documents come whole: for files that do not fit in memory use
    `iter_chunks`.

    Args:
        paths: Files (also `.gz`, `.xz`), folders, globs; empty for the shipped corpus.
        column: Column that holds the text of JSON Lines and Parquet files.

    Yields:
        The bytes of one document.

    Raises:
        FileNotFoundError: If something named does not exist or holds no text.
        ValueError: If a file is empty, binary, damaged, or has no such column.
        ModuleNotFoundError: If a Parquet file is read without pyarrow.

    Example:
        >>> next(iter_documents()).split(b"\n")[0]
        b'George Washington, 1790'
    """
    chunks = iter_shipped() if not paths else iter_chunks(find_sources(paths, column=column).files, column)
    parts: list[bytes] = []
    for part, ends in chunks:
        parts.append(part)
        if ends:
            yield b"".join(parts)
            parts.clear()


def iter_shipped() -> Iterator[Chunk]:
    """Yield the documents of the shipped corpus, each in one chunk."""
    for document in lzma.decompress(shipped.PATH.read_bytes()).split(shipped.DOCUMENT_END):
        yield document, True


def iter_chunks(files: Sequence[Source], column: str | None, advance: Advance = lambda size: None) -> Iterator[Chunk]:
    """Yield the documents of the files in chunks: about 1 MB of a text file, a row of a table.

    Args:
        files: From `find_sources`.
        column: Column of tables.
        advance: Called with the number of bytes of the files on disk that were read since the last call.

    Yields:
        A part of a document, and whether it is its last.

    Raises:
        ValueError: As `iter_documents`.
    """
    readers = {"text": _text_chunks, "jsonl": _json_lines, "parquet": _parquet}
    for source in files:
        yield from readers[source.kind](source, column or "", advance)


def _text_chunks(source: Source, column: str, advance: Advance) -> Iterator[Chunk]:
    held = b""
    with source.path.open("rb") as raw:
        for chunk in _read(source, raw, advance):
            if not held:
                _check_text(source, chunk)
            elif b"\0" in chunk:
                raise _binary(source, "a NUL byte")
            if held:
                yield held, False
            held = chunk
    if not held:
        raise ValueError(f"{source.path}: expected text, got an empty file; leave it out or give another")
    yield held, True


def _read(source: Source, raw: IO[bytes], advance: Advance) -> Iterator[bytes]:
    file = _opened(source, raw)
    before = 0
    while True:
        try:
            chunk = file.read(CHUNK)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise _damaged(source, error) from error
        advance(raw.tell() - before)
        before = raw.tell()
        if not chunk:
            return
        yield chunk


def _opened(source: Source, raw: IO[bytes]) -> IO[bytes]:
    suffix = source.path.suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    return lzma.LZMAFile(raw) if suffix == ".xz" else raw  # type: ignore[return-value]


def _check_text(source: Source, chunk: bytes) -> None:
    if b"\0" in chunk:
        raise _binary(source, "a NUL byte")
    # A character cut at the chunk's end counts for one, which the fraction does not feel.
    wrong = chunk.decode("utf-8", errors="replace").count("\N{REPLACEMENT CHARACTER}")
    if wrong > _UNDECODABLE * len(chunk) + 1:
        raise _binary(source, f"{100 * wrong / len(chunk):.0f} % that is not UTF-8")


def _binary(source: Source, what: str) -> ValueError:
    return ValueError(
        f"{source.path}: expected text, got a binary file or another encoding ({what}); leave it out, or convert it: "
        "iconv -f ENCODING -t UTF-8"
    )


def _damaged(source: Source, error: BaseException) -> ValueError:
    return ValueError(f"{source.path}: cannot be unpacked ({error}); the file is damaged or cut short, fetch it again")


def _json_lines(source: Source, column: str, advance: Advance) -> Iterator[Chunk]:
    with source.path.open("rb") as raw:
        lines = io.BufferedReader(_opened(source, raw), CHUNK)  # type: ignore[arg-type]
        before = number = 0
        while True:
            try:
                line = lines.readline()
            except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
                raise _damaged(source, error) from error
            if not line:
                break
            number += 1
            if raw.tell() != before:
                advance(raw.tell() - before)
                before = raw.tell()
            if not line.isspace():
                text = _field(source, number, line, column)
                if text:
                    yield text, True


def _field(source: Source, number: int, line: bytes, column: str) -> bytes:
    where = f"{source.path}, line {number}"
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{where}: expected a JSON object a line, got what JSON refuses ({error}); mend the line"
        ) from None
    if not isinstance(row, dict) or column not in row:
        got = f"the columns {', '.join(row)}" if isinstance(row, dict) else f"a {type(row).__name__}"
        raise ValueError(f"{where}: expected the column {column!r}, got {got}; set data.column to one that is there")
    return _as_bytes(row[column], where, column)


def _as_bytes(value: Any, where: str, column: str) -> bytes:
    if value is None:
        return b""
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: expected text in the column {column!r}, got {type(value).__name__}; name another column"
        )
    # Python's JSON reader lets lone surrogates through, which UTF-8 cannot hold.
    return value.encode("utf-8", errors="replace")


def _parquet(source: Source, column: str, advance: Advance) -> Iterator[Chunk]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{source.path}: reading Parquet needs pyarrow; install it with: pip install 'steepest[parquet]'"
        ) from error
    try:
        with pq.ParquetFile(source.path) as table:
            names = table.schema_arrow.names
            if column not in names:
                raise ValueError(
                    f"{source.path}: expected the column {column!r}, got the columns {', '.join(names)}; "
                    "set data.column to one that is there"
                )
            rows = max(1, table.metadata.num_rows)
            for batch in table.iter_batches(batch_size=1024, columns=[column]):
                advance(source.size * batch.num_rows // rows)
                for value in batch.column(0).to_pylist():
                    text = _as_bytes(value, str(source.path), column)
                    if text:
                        yield text, True
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source.path}: expected UTF-8 in the column {column!r}, got other bytes ({error})"
        ) from error
    except pa.ArrowException as error:
        raise ValueError(f"{source.path}: expected a Parquet file, got what pyarrow refuses ({error})") from error
