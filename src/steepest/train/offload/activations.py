# SPDX-License-Identifier: Apache-2.0
"""Activations between the forward and the backward pass: kept, computed again, or on a disk; chosen block by block."""

import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from steepest.kernels.checksum import checksum
from steepest.optim.options import one_of
from steepest.train.offload.buffers import Buffer, BufferPool, blocks
from steepest.train.offload.data_file import DataFile
from steepest.train.offload.store import DamagedTileError

Place = Literal["keep", "recompute", "swap"]
#: Activations that were saved just before the one that is needed are read ahead.
_AHEAD = 2


class _Saved:
    """An activation on the disk."""

    def __init__(self, tensor: Tensor, number: int, offset: int) -> None:
        self.shape, self.stride, self.dtype = tensor.shape, tensor.stride(), tensor.dtype
        self.number, self.offset, self.nbytes = number, offset, blocks(tensor.numel() * tensor.element_size())
        self.checksum: Future[int] | None = None
        self.ahead: Future[Buffer] | None = None


@final
class ActivationStore:
    """A file for activations, which are written in the forward pass and read in the backward pass, by threads.

    Args:
        folder: Made if missing; the file in it is removed by `close`.
        smallest: Activations of fewer bytes stay in memory.
        buffer_bytes: Memory for what is on its way to the disk.
        direct: Pass the page cache by; None where the file system allows it.

    Raises:
        OSError: If the folder cannot be used.

    Numerics:
        Gradients are the same, bit for bit.

    Example:
        >>> import tempfile
        >>> layer, x = nn.Linear(64, 64), torch.ones(64, 64)
        >>> with tempfile.TemporaryDirectory() as folder, ActivationStore(folder, smallest=1) as store:
        ...     with store.swapping(layer.parameters()):
        ...         y = layer(x).exp()
        ...     print(store.in_use, "bytes on the disk")
        ...     y.sum().backward()
        32768 bytes on the disk
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        smallest: int = 1 << 16,
        buffer_bytes: int = 64 << 20,
        direct: bool | None = None,
    ) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._smallest, self._pool = smallest, BufferPool(buffer_bytes)
        self._file = DataFile(folder / "activations.bin", direct=direct)
        self._writers, self._readers = (ThreadPoolExecutor(1, f"swap-{name}") for name in ("write", "read"))
        self._free: dict[int, list[int]] = {}
        self._end = self.in_use = 0
        self._guard = threading.Lock()
        self._order: dict[int, weakref.ref[_Saved]] = {}
        self._count = 0

    def swapping(self, own: Iterable[Tensor] = ()) -> AbstractContextManager[Any]:
        """Return a context in which what the backward pass needs goes to the disk.

        Args:
            own: Tensors that stay in memory anyway, such as parameters; they and their views are not written.
        """
        kept = {tensor.untyped_storage().data_ptr() for tensor in own}
        return saved_tensors_hooks(lambda tensor: self._pack(tensor, kept), self._unpack)

    @torch.no_grad()
    def _pack(self, tensor: Tensor, kept: set[int]) -> Tensor | _Saved:
        nbytes = tensor.numel() * tensor.element_size()
        span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        plain = type(tensor) in (Tensor, nn.Parameter) and tensor.device.type == "cpu"
        if not plain or nbytes < max(1, self._smallest) or span != tensor.numel():
            return tensor
        if tensor.untyped_storage().data_ptr() in kept:
            return tensor
        saved = _Saved(tensor, self._count, self._place(blocks(nbytes)))
        self._order[self._count] = weakref.ref(saved)
        self._count += 1
        buffer = self._pool.take(saved.nbytes)
        buffer.tensor(0, tensor.shape, tensor.stride(), tensor.dtype).copy_(tensor)
        saved.checksum = self._writers.submit(self._write, buffer, saved.offset)
        weakref.finalize(saved, self._release, saved.checksum, saved.number, saved.offset, saved.nbytes)
        return saved

    def _place(self, nbytes: int) -> int:
        with self._guard:
            self.in_use += nbytes
            if self._free.get(nbytes):
                return self._free[nbytes].pop()
            offset, self._end = self._end, self._end + nbytes
        self._file.grow(self._end)
        return offset

    def _write(self, buffer: Buffer, offset: int) -> int:
        try:
            self._file.write(buffer.view, offset)
            return checksum(buffer.view)
        finally:
            self._pool.give(buffer)

    def _release(self, written: Future[int], number: int, offset: int, nbytes: int) -> None:
        def free(_: Future[int]) -> None:
            with self._guard:
                self._order.pop(number, None)
                self._free.setdefault(nbytes, []).append(offset)
                self.in_use -= nbytes

        written.add_done_callback(free)  # its place is free when nothing is written there any more

    def _read(self, offset: int, nbytes: int, written: Future[int]) -> Buffer:
        expected, buffer = written.result(), Buffer(nbytes)
        self._file.read(buffer.view, offset)
        if checksum(buffer.view) != expected:
            raise DamagedTileError(
                f"an activation at byte {offset} does not match its checksum: the disk or the memory changed it; "
                "compute the step again",
                self._file.path,
            )
        return buffer

    def _unpack(self, saved: Tensor | _Saved) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        self._begin_to_read(saved)
        for number in range(saved.number - 1, saved.number - 1 - _AHEAD, -1):
            reference = self._order.get(number)
            before = reference() if reference else None
            if before is not None:
                self._begin_to_read(before)
        assert saved.ahead is not None
        buffer, saved.ahead = saved.ahead.result(), None
        return buffer.tensor(0, saved.shape, saved.stride, saved.dtype)

    def _begin_to_read(self, saved: _Saved) -> None:
        if saved.ahead is None:
            assert saved.checksum is not None
            saved.ahead = self._readers.submit(self._read, saved.offset, saved.nbytes, saved.checksum)

    def close(self) -> None:
        """End the threads and remove the file; no backward pass may come after it."""
        self._writers.shutdown()
        self._readers.shutdown()
        self._file.close()
        self._file.path.unlink(missing_ok=True)

    def __enter__(self) -> "ActivationStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def place_activations(block: nn.Module, place: Place, store: ActivationStore | None = None) -> Callable[[], None]:
    """Choose where the activations of a block wait for the backward pass.

    Args:
        block: Its `forward` is wrapped; choose again to change it.
        place: `"keep"` as torch does; `"recompute"` keeps the inputs and runs the block again in the backward pass,
            with the same random numbers; `"swap"` sends them to the disk.
        store: For `"swap"`.

    Returns:
        Call it to undo the choice.

    Raises:
        ValueError: If `place` is unknown, or `"swap"` comes without a store.
    """
    one_of("place", place, ("keep", "recompute", "swap"))
    if place == "swap" and store is None:
        raise ValueError("place='swap' needs a store: ActivationStore(folder)")
    block.__dict__.pop("forward", None)
    forward = block.forward
    if place == "recompute":
        block.forward = lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)
    elif store is not None and place == "swap":

        def swapped(*args: Any, **kwargs: Any) -> Any:
            with store.swapping(block.parameters()):
                return forward(*args, **kwargs)

        block.forward = swapped
    return lambda: block.__dict__.pop("forward", None) and None
