# SPDX-License-Identifier: Apache-2.0
"""Files that are either whole or absent: write to a temporary name, flush to the disk, rename."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

_TEMPORARY = ".incomplete-"
MANIFEST = "manifest.json"


def write_text(path: Path, text: str) -> None:
    """Replace a text file at once; see `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file at once: a reader, or a crash, finds the old content or the new one.

    Args:
        path: The file; its folder exists.
        content: Its new content.

    Raises:
        OSError: If the disk refuses; the old file is then untouched.
    """
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file at once; see `write_text`."""
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        ValueError: If the file is missing or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError(f"{path} is damaged: it is not JSON") from None
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is not whole: it holds no {path.name}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object")
    return value


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears under its name only when it is whole, with a manifest of its files' checksums.

    Args:
        path: Final name. Its parent is made if missing.

    Yields:
        A temporary folder beside it, to be filled.

    Raises:
        OSError: If the disk refuses; nothing is then left behind.
    """
    temporary = incomplete(path)
    try:  # from before the folder is made, so that no moment is left in which an interrupt would leave it
        temporary.mkdir(parents=True)
        yield temporary
        publish(temporary, path)
    except BaseException:
        discard(temporary)
        raise


def incomplete(path: Path) -> Path:
    """Return the name under which this process prepares `path`, free of what an earlier try left there."""
    temporary = path.with_name(f"{_TEMPORARY}{path.name}-{os.getpid()}")
    discard(temporary)
    return temporary


def publish(temporary: Path, path: Path) -> None:
    """Seal a prepared folder and give it its name; what had that name (a damaged one, made again) goes."""
    seal_folder(temporary)
    if path.exists():
        path.rename(incomplete(path.with_name(f"{path.name}-before")))
    temporary.rename(path)
    sync_folder(path.parent)
    discard(incomplete(path.with_name(f"{path.name}-before")))


def discard(temporary: Path) -> None:
    """Remove a folder that is not going to be whole."""
    shutil.rmtree(temporary, ignore_errors=True)


def seal_folder(folder: Path) -> None:
    """Flush every file of a folder to the disk and write the manifest of their sizes and SHA-256 checksums."""
    entries = {}
    for file in _files(folder):
        file.chmod(0o666 & ~_umask())  # safetensors makes its files readable by their owner alone
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        entries[file.relative_to(folder).as_posix()] = {"bytes": file.stat().st_size, "sha256": digest}
    write_json(folder / MANIFEST, {"files": entries})


def damage(folder: Path) -> str | None:
    """Return what is wrong with a sealed folder, or None when every file is as it was written.

    Args:
        folder: Made by `complete_folder`.
    """
    try:
        listed = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, entry in listed.items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                return f"{MANIFEST} names a file outside"
            file = folder / name
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
            with file.open("rb") as stream:
                if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                    return f"{name} does not match its checksum"
    except OSError as error:
        return f"{Path(error.filename or MANIFEST).name} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return None


def remove_incomplete(folder: Path) -> None:
    """Remove what a killed process left half written in a folder."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
