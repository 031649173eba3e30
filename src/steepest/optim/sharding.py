# SPDX-License-Identifier: Apache-2.0
"""Distributed tensors (FSDP2): what is local, what must be gathered, and how a whole tensor is spread again."""

import sys
from dataclasses import dataclass
from typing import Any, final

import torch.distributed as dist
from torch import Tensor
from torch.nn import Parameter

_PLAIN = frozenset((Tensor, Parameter))


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is distributed. Importing the module takes half a second, so it is not done just to ask."""
    if type(tensor) in _PLAIN:
        return False
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def any_sharded(tensors: list[Tensor]) -> bool:
    """Whether one of some tensors is distributed."""
    return not _PLAIN.issuperset(map(type, tensors)) and any(map(is_sharded, tensors))


def local(tensor: Any) -> Tensor:
    """Return this process's part, sharing memory with the tensor; a plain tensor is its own part."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def whole(tensor: Any) -> Tensor:
    """Return the whole tensor, gathered from all processes if it is distributed."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def cut_like(part: Tensor, like: Any, *, mesh: Any = None) -> Tensor:
    """Return the distributed tensor of which this process has a part, cut as `like` is; the part if that is plain.

    Args:
        part: Of this process; its memory is shared.
        like: Gives shape, placements and processes.
        mesh: Of the same processes, to be used instead.
    """
    if not is_sharded(like):
        return part
    module = sys.modules["torch.distributed.tensor"]
    return module.DTensor.from_local(
        part, mesh or like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def gathered(part: Tensor, like: Any) -> Tensor:
    """Return the whole of which this process has a part, cut as `like` is; as it is if that is plain."""
    return whole(cut_like(part, like))


def total_over(mesh: Any, values: Tensor) -> Tensor:
    """Return the sum of numbers over all processes of a mesh; the same bits everywhere."""
    module = sys.modules["torch.distributed.tensor"]
    return module.DTensor.from_local(values, mesh, [module.Partial()] * mesh.ndim, run_check=False).full_tensor()


def spread_again(value: Tensor, like: Any) -> Tensor:
    """Return a whole tensor, equal in all processes, cut as `like` is; as it is if that is plain."""
    if not is_sharded(like):
        return value
    module = sys.modules["torch.distributed.tensor"]
    return module.distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def spread_like(value: Tensor, like: Any) -> Tensor:
    """Return this process's part of a whole tensor that is equal in all processes, cut as `like` is."""
    return local(spread_again(value, like))


@final
@dataclass(frozen=True)
class Part:
    """Where this process's part of a matrix stands in the whole.

    Args:
        rows: Of the whole matrix.
        columns: Of the whole matrix.
        dim: Along which it is cut: 0 or 1.
        group: The processes that hold its parts.
    """

    rows: int
    columns: int
    dim: int
    group: Any

    @property
    def turned(self) -> "Part":
        """The same part of the transposed matrix."""
        return Part(self.columns, self.rows, 1 - self.dim, self.group)

    def total(self, values: Tensor) -> Tensor:
        """Return the sum over all parts, in place; the same bits everywhere."""
        dist.all_reduce(values, group=self.group)
        return values

    def largest(self, values: Tensor) -> Tensor:
        """Return the largest over all parts, in place."""
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return values


def part_of(tensor: Any) -> Part | None:
    """Return where the local part of a matrix stands; None unless it is cut in one dimension by one row of processes.

    Args:
        tensor: Distributed or not.
    """
    if not is_sharded(tensor) or tensor.ndim != 2 or tensor.device_mesh.ndim != 1:
        return None
    placement = tensor.placements[0]
    if type(placement) is not sys.modules["torch.distributed.tensor"].Shard:
        return None
    rows, columns = tensor.shape
    return Part(rows, columns, placement.dim % 2, tensor.device_mesh.get_group())
