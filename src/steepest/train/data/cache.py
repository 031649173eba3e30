# SPDX-License-Identifier: Apache-2.0
"""Prepared data on disk: an entry is a folder that is whole or not there."""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MANIFEST = "manifest.json"
_WHOLE = 64 << 20
_BLOCK = 1 << 20
_SAMPLES = 64


@dataclass(frozen=True)
class Entry:
    """A folder of the cache: its path and what its builder said about it."""

    path: Path
    info: dict[str, Any]


def cache_root(folder: str | None) -> Path:
    """Return the cache folder: the one given, else `$XDG_CACHE_HOME/steepest`, else `~/.cache/steepest`."""
    if folder:
        return Path(folder).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base and os.path.isabs(base) else Path.home() / ".cache") / "steepest"


def cached(root: Path, name: str, build: Callable[[Path], dict[str, Any]]) -> Entry:
    """Return the entry `name`, built if it is missing or damaged.

    The builder writes into a temporary folder that is renamed at the end, so an interrupt or a full disk leaves nothing
    half done. Of several processes that want the same entry one builds and the others wait for it.

    Args:
        root: The cache folder; made if missing.
        name: Name of the entry; must tell its content apart from every other.
        build: Writes files into the folder that it is given, returns a JSON dictionary.

    Raises:
        ValueError: If the cache folder cannot be written.
    """
    entry = _read(root / name)
    if entry:
        return entry
    with _writable(root):
        root.mkdir(parents=True, exist_ok=True)
        lock_file = open(root / f".{name}.lock", "a")  # noqa: SIM115 (closed below, after the build)
    with lock_file:
        alone = _lock(lock_file.fileno())
        return _read(root / name) or _build(root, name, build, alone=alone)


def key(*parts: object) -> str:
    """Return a short name (32 hex digits) for settings that decide an entry's content."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """Return a sha256: of the whole file up to 64 MB; above, of its length and 64 blocks of 1 MB spread over it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE:
            digest.update(file.read())
        else:
            for i in range(_SAMPLES):
                file.seek((size - _BLOCK) * i // (_SAMPLES - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _read(path: Path) -> Entry | None:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        if all(file_digest(path / name) == digest for name, digest in manifest["files"].items()):
            return Entry(path, manifest["info"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return None


def _build(root: Path, name: str, build: Callable[[Path], dict[str, Any]], *, alone: bool) -> Entry:
    final = root / name
    with _writable(root):
        if alone:  # what a killed process left
            for stale in root.glob(f"{name}.tmp-*"):
                shutil.rmtree(stale, ignore_errors=True)
    temporary = root / f"{name}.tmp-{secrets.token_hex(8)}"
    try:  # from before the folder is made, so that no moment is left in which an interrupt would leave it
        with _writable(root):
            temporary.mkdir()
            _finish(temporary, build(temporary))
            if final.exists():  # damaged, or made meanwhile where locks do not work
                shutil.rmtree(final)
            os.rename(temporary, final)
            _sync(root)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    entry = _read(final)
    if entry is None:
        raise ValueError(f"{final} was written but does not read back the same; check the disk, or give another cache")
    return entry


def _finish(folder: Path, info: dict[str, Any]) -> None:
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    (folder / _MANIFEST).write_text(json.dumps({"files": files, "info": info}, indent=1) + "\n")
    for path in [*folder.iterdir(), folder]:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Wait for the lock; False where the system or the file system has none (the rename alone then keeps us safe)."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except (ImportError, OSError):
        return False
    return True


@contextlib.contextmanager
def _writable(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = root if error.filename is None else Path(os.fsdecode(error.filename))
        if not where.is_relative_to(root) and not root.is_relative_to(where):
            raise  # about a file of the user's, not about the cache
        raise ValueError(
            f"cannot write the cache folder {root}: {error.strerror or error}; free or unlock it, or name another one "
            "(data.cache)"
        ) from error
