# SPDX-License-Identifier: Apache-2.0
"""One process or many: what a run needs to know about its peers, in one code path."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from steepest.nn.decoder import Decoder

_joined = itertools.count()


@dataclass(frozen=True)
class Peers:
    """The processes that train one model together.

    Args:
        rank: This process, from 0.
        world: Number of processes.
        shard: Whether parameters, gradients and optimizer states are split among them (FSDP2) or copied (DDP).
    """

    rank: int = 0
    world: int = 1
    shard: bool = False

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Return the sums over all processes."""
        if self.world == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return total.tolist()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def share(self, value: str | None) -> str:
        """Return the main process's text in every process."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box)
        assert box[0] is not None
        return box[0]


def is_restart() -> bool:
    """Whether torchrun has started these processes again, after one of them died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def join_peers(*, shard: bool = False) -> Iterator[Peers]:
    """Join the processes that torchrun started, or be the only one.

    Args:
        shard: Split the model's tensors among the processes.

    Yields:
        The peers.

    Raises:
        ValueError: If `shard` is asked for and torchrun did not start this process.
    """
    if "RANK" not in os.environ:
        if shard:
            raise ValueError(
                "--shard splits a model among processes, but there is one; "
                "start with torchrun --nproc-per-node 2 -m steepest train --shard"
            )
        yield Peers()
        return
    store, rank, size = next(rendezvous("env://"))
    # The store of torchrun keeps the addresses of groups that are gone: before a restart, or of an earlier run.
    meeting = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}, run {next(_joined)}"
    dist.init_process_group("gloo", store=PrefixStore(meeting, store), rank=rank, world_size=size)
    try:
        yield Peers(dist.get_rank(), dist.get_world_size(), shard)
    finally:
        dist.destroy_process_group()


def spread(model: Decoder, peers: Peers) -> nn.Module:
    """Return the module to call in training: the model itself, its DDP wrapper, or the model sharded in place.

    Args:
        model: The same weights in every process.
        peers: Who trains it.
    """
    if peers.shard:
        from torch.distributed.fsdp import fully_shard  # takes most of a second to import

        for block in model.model.get_submodule("layers").children():
            fully_shard(block)
        fully_shard(model)
        return model
    if peers.world > 1:
        return DistributedDataParallel(model)
    return model


@contextmanager
def gradients_stay_local(net: nn.Module, peers: Peers, *, local: bool) -> Iterator[None]:
    """While `local`, leave gradients unreduced: all but the last round of a gradient accumulation.

    Args:
        net: From `spread`.
        peers: Who trains it.
        local: Whether to wait with the reduction.

    Yields:
        Nothing.
    """
    if peers.shard:
        net.set_requires_gradient_sync(not local)  # pyright: ignore[reportCallIssue] (FSDP2 adds the method)
        yield
    elif isinstance(net, DistributedDataParallel) and local:
        with net.no_sync():
            yield
    else:
        yield
