"""Counts what collectives bring to a process."""

from typing import Any

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode


class Traffic(TorchDispatchMode):
    """Bytes that this process receives in the block, by the best ring: what it has already does not travel.

    A gather brings all but the own part. A sum over P processes brings 2 (P - 1) / P of its size.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func)
        if "wait_tensor" in name or "c10d" not in name:
            return result
        self.calls[name] = self.calls.get(name, 0) + 1
        share = (dist.get_world_size() - 1) / dist.get_world_size()
        if "all_gather" in name or "allgather" in name:
            out = result if isinstance(result, torch.Tensor) else args[0]
            self.bytes += share * size(out)
        elif "all_reduce" in name or "allreduce" in name:
            self.bytes += 2 * share * size(args[0])
        elif "all_to_all" in name or "alltoall" in name or "reduce_scatter" in name:
            self.bytes += share * size(args[0])
        elif "broadcast" in name or "scatter" in name:
            self.bytes += size(args[0])
        return result


def size(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    return sum(map(size, value)) if isinstance(value, list | tuple) else 0
