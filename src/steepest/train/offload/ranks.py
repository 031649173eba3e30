# SPDX-License-Identifier: Apache-2.0
"""The processes that hold the shards of one optimizer's parameters, and what they must agree on."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from steepest.optim.sharding import cut_like, is_sharded, local

T = TypeVar("T")


@final
class Ranks:
    """The processes of a sharded optimizer, each with its shards on its own disk; one process where none is sharded.

    Pieces are stepped in another thread than the backward pass, and both have collectives, so pieces have a process
    group of their own: within a group all processes then see the same collectives in the same order.

    Args:
        params: Of the optimizer, the same in all processes. Making this is a collective.

    Raises:
        ValueError: If they are spread in a way that this does not know.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        sharded: list[Any] = [param for param in params if is_sharded(param)]
        self.sharded = bool(sharded)
        self.rank, self.world = 0, 1
        if not sharded:
            return
        from torch.distributed.device_mesh import DeviceMesh

        mesh = sharded[0].device_mesh
        for param in sharded:
            fits = param.device_mesh == mesh and not any(place.is_partial() for place in param.placements)
            if not fits or mesh.ndim != 1 or mesh.size() != dist.get_world_size():
                raise ValueError(
                    "states on a disk are for parameters sharded along one row of all processes, got "
                    f"{param.placements} on {param.device_mesh}"
                )
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.new_group()
        # Meshes of the same processes are the same to torch unless their names differ, whatever their groups.
        name = f"offload {self._group.group_name}"
        self._mesh = DeviceMesh.from_group(self._group, "cpu", mesh_dim_names=(name,))

    def folder(self, root: Path) -> Path:
        """Return where the store of this process lies."""
        return root / f"rank-{self.rank}-of-{self.world}" if self.sharded else root

    def wrapped(self, part: Tensor, like: Any) -> Tensor:
        """Return a shard as a distributed tensor whose collectives are of the pieces' own group.

        Args:
            part: Of this process.
            like: The parameter; a plain one leaves the part as it is.
        """
        return cut_like(part, like, mesh=self._mesh) if is_sharded(like) else part

    def agree(self, value: T) -> list[T]:
        """Return the values of all processes; a collective of the main thread."""
        if not self.sharded:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Fail in all processes if one fails within; what is within has no collectives.

        Yields:
            Nothing.

        Raises:
            OSError: If another process has failed.
        """
        if not self.sharded:
            yield
            return
        error = None
        try:
            yield
        except Exception as failure:  # any of them must be told
            error = failure
        told = self.agree(None if error is None else str(error) or type(error).__name__)
        if error is not None:
            raise error
        for rank, message in enumerate(told):
            if message is not None:
                raise OSError(f"process {rank} of {self.world} could not go on: {message}")

    def all_go_on(self, number: int, *, fine: bool) -> bool:
        """Return whether all processes can step a piece; a collective of the thread that steps.

        Args:
            number: Of the piece among those that are stepped together.
            fine: Whether this process can.

        Raises:
            RuntimeError: If they are not at the same piece.
        """
        told = torch.tensor([number, -number, 0 if fine else 1])
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._group)
        last, first, failed = told.tolist()
        if last != -first:
            raise RuntimeError(
                f"process {self.rank} steps piece {number} while others are between {-first} and {last}: gradients "
                "come in another order in each process; use overlap=False"
            )
        return not failed

    def close(self) -> None:
        """Give the group back."""
        if self.sharded and dist.is_initialized():
            dist.destroy_process_group(self._group)


def entries_here(param: Tensor) -> int:
    """Return how many entries of a parameter this process has."""
    return local(param).numel()


def most_entries(param: Any) -> int:
    """Return the entries of the largest shard of a parameter: the same number in all processes."""
    entries = param.numel()
    if is_sharded(param) and entries:
        for placement, count in zip(param.placements, param.device_mesh.shape, strict=True):
            if placement.is_shard():
                size = param.shape[placement.dim]
                entries = entries // size * -(-size // count)
    return entries
