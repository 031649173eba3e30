# SPDX-License-Identifier: Apache-2.0
"""The folder of a run: its configuration, metrics and lock. Everything a run leaves behind is in it."""

import datetime
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import steepest
from steepest.train import files, machine
from steepest.train.checkpoint import Checkpoints
from steepest.train.config import RunConfig, from_dict, to_dict
from steepest.train.data import TokenData, Tokenizer, load_tokenizer

#: Raised when the meaning of a run folder's files changes.
FORMAT = 1


@final
class RunFolder:
    """Paths and records of one run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def metrics(self) -> Path:
        """One JSON object a line: kind `train` or `eval`."""
        return self.path / "metrics.jsonl"

    @property
    def tokenizer(self) -> Path:
        """The folder from which the run's tokenizer loads."""
        return self.path / "tokenizer"

    def checkpoints(self, keep_last: int = 2) -> Checkpoints:
        """Return the run's checkpoints."""
        return Checkpoints(self.path / "checkpoints", keep_last)

    def has_checkpoint(self) -> bool:
        """Whether there is something to go on from."""
        return bool(self.checkpoints().steps())

    @classmethod
    def create(cls, path: Path, config: RunConfig, data: TokenData) -> "RunFolder":
        """Make a new run folder with its configuration and what it runs on.

        Args:
            path: Must not exist, or be empty.
            config: Written as `config.json`.
            data: Its fingerprint and tokenizer are kept, so that a resumed run cannot see other tokens.

        Returns:
            The folder.

        Raises:
            ValueError: If the folder holds something.
            OSError: If it cannot be written.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(
                f"{path} exists and is not an empty folder; resume it with --resume {path} or choose another --out"
            )
        run = cls(path)
        path.mkdir(parents=True, exist_ok=True)
        try:  # of two processes that are here at once, one makes the lock
            (path / ".lock").touch(exist_ok=False)
        except FileExistsError:
            raise ValueError(f"another process has just begun a run in {path}; choose another --out") from None
        run.tokenizer.mkdir(exist_ok=True)
        data.tokenizer.save(run.tokenizer)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        environment = {"run_format": FORMAT, "started": now, **machine.describe()}
        files.write_json(path / "environment.json", environment)
        about = {"fingerprint": data.fingerprint, "sizes": data.describe(), "tokenizer": run.tokenizer_checksum()}
        files.write_json(path / "data.json", about)
        files.write_json(path / "config.json", to_dict(config))
        return run

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open an existing run folder.

        Args:
            path: The folder.

        Returns:
            The folder.

        Raises:
            ValueError: If it is not a run folder, or one that this version cannot read.
        """
        if not (path / "config.json").is_file():
            raise ValueError(f"{path} is not a run folder: it holds no config.json; `steepest train` makes one")
        environment = files.read_json(path / "environment.json")
        if environment.get("run_format") != FORMAT:
            raise ValueError(
                f"{path} was written by steepest {environment.get('steepest', 'of an unknown version')} "
                f"(run format {environment.get('run_format')}); steepest {steepest.__version__} reads format {FORMAT}"
            )
        return cls(path)

    def config(self) -> RunConfig:
        """Return the run's configuration.

        Raises:
            ValueError: If `config.json` is damaged or of another version.
        """
        try:
            return from_dict(files.read_json(self.path / "config.json"))
        except ValueError as error:
            raise ValueError(f"{self.path / 'config.json'}: {error}") from None

    def tokenizer_checksum(self) -> str:
        """Return the SHA-256 of the tokenizer's file."""
        return hashlib.sha256((self.tokenizer / "tokenizer.json").read_bytes()).hexdigest()

    def read_tokenizer(self) -> Tokenizer:
        """Return the run's tokenizer.

        Raises:
            ValueError: If its file is not what the run wrote.
            OSError: If it cannot be read.
        """
        written = files.read_json(self.path / "data.json").get("tokenizer")
        if written is not None and written != self.tokenizer_checksum():
            raise ValueError(f"{self.tokenizer} is damaged: tokenizer.json does not match its checksum")
        return load_tokenizer(self.tokenizer)

    def check_data(self, data: TokenData) -> None:
        """Refuse tokens that are not those of the run.

        Raises:
            ValueError: If the text or the tokenizer has changed since the run began.
        """
        self.read_tokenizer()
        if files.read_json(self.path / "data.json").get("fingerprint") != data.fingerprint:
            raise ValueError(
                f"the text that {self.path} was trained on has changed since it began; restore the files or start anew"
            )

    def remove_incomplete(self) -> None:
        """Remove what a killed process left half written."""
        files.remove_incomplete(self.path)
        files.remove_incomplete(self.path / "checkpoints")

    @contextmanager
    def lock(self, *, owner: bool = True) -> Iterator[None]:
        """Keep other runs from training in this folder.

        Args:
            owner: Whether this process locks for its peers; the others do nothing.

        Yields:
            Nothing.

        Raises:
            ValueError: If another process does.
        """
        if not owner:
            yield
            return
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another process is training in {self.path}; wait for it or choose another --out"
                ) from None
            yield


@final
class MetricsLog:
    """Appends to `metrics.jsonl`.

    Args:
        path: The file.
        keep_bytes: Where to continue: what stands after it is cut off, for it will be computed again. A file that has
            lost its end goes on after its last whole line.
    """

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self._file = path.open("ab+")
        if keep_bytes > self._file.tell():  # lost since: truncating would fill up with zeros
            self._file.seek(0)
            keep_bytes = self._file.read().rfind(b"\n") + 1
        self._file.truncate(keep_bytes)
        self._file.seek(0, os.SEEK_END)

    @property
    def bytes_written(self) -> int:
        """Length of the file."""
        return self._file.tell()

    def write(self, row: dict[str, Any]) -> None:
        """Append one line and hand it to the operating system."""
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def sync(self) -> None:
        """Flush to the disk; a checkpoint that names this length may be written after it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
