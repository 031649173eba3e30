# SPDX-License-Identifier: Apache-2.0
"""Reads folders of `torch.distributed.checkpoint` without executing what is in them.

torch reads their index with `pickle.load` and their plain values with `weights_only=False`; both run any function that
a file names. Here an index may name nothing but the classes that an index is made of, and values are plain ones.
"""

import io
import pickle
import warnings
from pathlib import Path, PurePosixPath
from typing import Any, final

import torch
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

_CLASSES = {
    "torch.distributed.checkpoint.metadata": {
        "_MEM_FORMAT_ENCODING",
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size", "device"},
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath"},
    "pathlib._local": {"Path", "PosixPath"},
}


def read_shards(folder: Path, state: dict[str, Any]) -> None:
    """Fill a nested dictionary of tensors and plain values from a sharded checkpoint, in place.

    Args:
        folder: Written by `torch.distributed.checkpoint`.
        state: With the tensors to fill, sharded or not.

    Raises:
        ValueError: If the folder is damaged, holds something else, or not what is asked for.
    """
    SafeReader(folder).read_metadata()  # torch tries two files, and logs tracebacks of both
    with warnings.catch_warnings():
        # A single process reads shards without a process group; DCP says so each time.
        warnings.filterwarnings("ignore", message=".*torch.distributed is.*")
        try:
            state_dict_loader.load(state, storage_reader=SafeReader(folder), planner=SafePlanner())
        except CheckpointException as error:
            reasons = "; ".join(str(failure[0]) for failure in error.failures.values())
            raise ValueError(f"{folder} cannot be read: {reasons}") from None


def _member(kind: Any, name: Any) -> _MEM_FORMAT_ENCODING:
    """Return a member of the enumeration that an index may hold, in place of any attribute of anything."""
    if kind is not _MEM_FORMAT_ENCODING or not isinstance(name, str) or name not in _MEM_FORMAT_ENCODING.__members__:
        raise pickle.UnpicklingError(f"it asks for {name!r} of {kind!r}")
    return _MEM_FORMAT_ENCODING[name]


@final
class _IndexUnpickler(pickle.Unpickler):
    """Knows the classes of an index and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that an index may hold.

        Raises:
            UnpicklingError: For anything else.
        """
        if (module, name) == ("builtins", "getattr"):  # how Python 3.11.0 to 3.11.3 wrote a member of an enumeration
            return _member
        constant = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.memory_format)
        if constant or name in _CLASSES.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}")


@final
class SafeReader(FileSystemReader):
    """`FileSystemReader` that builds nothing but an index from an index, and stays in its folder."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Return the index.

        Raises:
            ValueError: If the file holds something else.
        """
        path = Path(str(self.path)) / ".metadata"
        with path.open("rb") as file:
            try:
                index = _IndexUnpickler(file).load()
            except Exception as error:  # a damaged pickle fails in any way
                raise ValueError(f"{path} is no index of a checkpoint: {error}") from None
        if not isinstance(index, Metadata) or not isinstance(index.storage_data, dict):
            raise ValueError(f"{path} is no index of a checkpoint")
        for place in index.storage_data.values():
            name = str(getattr(place, "relative_path", ".."))
            if PurePosixPath(name).name != name:
                raise ValueError(f"{path} points out of its folder: {name!r}")
        if not isinstance(index.storage_meta, StorageMeta):
            index.storage_meta = StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index


@final
class SafePlanner(DefaultLoadPlanner):
    """`DefaultLoadPlanner` that takes plain values and no objects."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Read one value.

        Raises:
            UnpicklingError: If it is not plain.
        """
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)
