# SPDX-License-Identifier: Apache-2.0
"""From names, folders and globs to the list of files to read."""

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PACKED = (".gz", ".xz")
_TABLES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_TEXT = (
    ".txt .text .md .markdown .rst .adoc .org .tex .log .csv .tsv .html .htm .xml .json .yaml .yml .toml .ini "
    ".cfg .py .pyi .ipynb .c .h .cc .cpp .hpp .cu .rs .go .java .kt .scala .js .ts .jsx .tsx .css .sh .sql .r .jl "
    ".m .lua .rb .pl .php .hs .ml .el .lisp .clj .swift .f90 "
)
#: What a folder is searched for. A file that is named itself may have any suffix.
TEXT_SUFFIXES = frozenset(_TEXT.split())
_SNIFF = 1 << 16


@dataclass(frozen=True)
class Source:
    """A file to read: where it is, how it is read (`text`, `jsonl` or `parquet`), and what its state was."""

    path: Path
    kind: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Sources:
    """The files to read, in order, and what was left out with the reason."""

    files: tuple[Source, ...]
    skipped: tuple[str, ...]


def find_sources(paths: Sequence[str], *, column: str | None = None) -> Sources:
    """Expand files, folders and globs into the files to read.

    Folders are searched recursively in sorted order; hidden files, files without a suffix of text, empty files and
    binary files in them are skipped and listed. A file that is named twice is read once.

    Args:
        paths: File names, folders, globs (`**` goes into folders); `~` is the home folder.
        column: Column of JSON Lines and Parquet files; folders are then searched for those alone.

    Returns:
        The files and what was skipped.

    Raises:
        FileNotFoundError: If a name or glob matches nothing, or a folder holds nothing to read.
        ValueError: If a named file is empty or is a table while `column` is missing.
        OSError: If a file may not be read.
    """
    files: dict[Path, Source] = {}
    skipped: list[str] = []
    for name in paths:
        for path, named in _expand(name):
            reason = _why_not(path, column, named=named)
            if reason is None and path.resolve() in files:
                reason = "given twice"
            if reason is None:
                files[path.resolve()] = _source(path, column)
            else:
                skipped.append(f"{path}: {reason}")
    if not files:
        shown = "; ".join(skipped[:3]) or "the folder is empty"
        raise FileNotFoundError(
            f"no text to read in {', '.join(map(repr, paths))} ({shown}); name the files themselves, "
            "or a glob such as 'folder/*.xyz'"
        )
    return Sources(tuple(files.values()), tuple(skipped))


def kind_of(path: Path, column: str | None) -> str:
    """Return `text`, `jsonl` or `parquet`; a `.json` file is JSON Lines if a column is wanted."""
    suffix = _suffix(path)
    return "jsonl" if suffix == ".json" and column else _TABLES.get(suffix, "text")


def _expand(name: str) -> Iterator[tuple[Path, bool]]:
    """The files of one name, and whether they were named (or matched), not found in a folder."""
    path = Path(name).expanduser()
    if path.exists():
        found = [path]
    elif glob.has_magic(name):
        found = [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]
        if not found:
            raise FileNotFoundError(
                f"the glob {name!r} matches nothing from {os.getcwd()}; quote it and check the folder"
            )
        files = [match for match in found if not match.is_dir()]
        found = files or found  # `folder/**` matches folders beside the files in them
    else:
        raise FileNotFoundError(f"{name!r}: no such file or folder (looked from {os.getcwd()}); check the name")
    for match in found:
        if match.is_dir():
            yield from ((inner, False) for inner in _walk(match))
        else:
            yield match, True


def _walk(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise error

    for base, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        yield from (Path(base, name) for name in sorted(names))


def _why_not(path: Path, column: str | None, *, named: bool) -> str | None:
    kind = kind_of(path, column)
    if not named:
        if path.name.startswith("."):
            return "hidden"
        if kind == "text" and _suffix(path) not in TEXT_SUFFIXES:
            return "not a suffix of text"
    if named and not path.is_file():
        raise ValueError(f"{path}: expected a regular file, got a device or pipe; write its content into a file first")
    if not path.is_file() or path.stat().st_size == 0:
        if named:
            raise ValueError(f"{path}: expected text, got an empty file; leave it out or give another")
        return "empty"
    if (kind == "text") != (column is None):
        reason = (
            "a table whose text column is not named (data.column)"
            if kind != "text"
            else "not a table, but a column is named"
        )
        if named:
            raise ValueError(f"{path}: {_column_advice(kind, column)}")
        return reason
    with path.open("rb") as file:  # refuses here what may not be read
        binary = kind == "text" and _suffix(path) == path.suffix.lower() and b"\0" in file.read(_SNIFF)
    return "binary" if binary and not named else None


def _column_advice(kind: str, column: str | None) -> str:
    if kind == "text":
        return f"expected JSON Lines or Parquet for the column {column!r}, got plain text; leave the column out"
    return "expected the name of the column that holds the text, got none; set data.column"


def _source(path: Path, column: str | None) -> Source:
    state = path.stat()
    return Source(path, kind_of(path, column), state.st_size, state.st_mtime_ns)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED:
        suffixes.pop()
        return suffixes[-1] if suffixes else ".txt"
    return suffixes[-1] if suffixes else ""
