"""Run by test_parallel.py in several processes; the first prints what it found as JSON."""

import json
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from steepest.cli._leaving import leaving_at_once
from steepest.geometry.polar import polar_factor
from steepest.optim import AdamW, Engine, Muon, Shampoo, SinkGD
from tests.integrations.traffic import Traffic

WIDTH, WIDER = 8, 24


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, WIDER, bias=False)
        self.down = nn.Linear(WIDER, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.LayerNorm(WIDTH)).double()


def exact(x: Tensor) -> Tensor:
    return polar_factor(x, method="svd")


METHODS = {
    "muon": lambda model: Muon(model, lr=0.05, polar=exact, weight_decay=0.1),
    "shampoo": lambda model: Shampoo(model, lr=0.05, precondition_frequency=1, weight_decay=0.1),
    "sinkgd": lambda model: SinkGD(model, lr=0.05, weight_decay=0.1),
    "adamw": lambda model: AdamW(model, lr=0.05, weight_decay=0.1),
}


def batch(step: int) -> Tensor:
    return torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(step), dtype=torch.float64)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range, part: slice = slice(None)) -> float:
    """Return the bytes that the optimizer's last step received."""
    traffic = Traffic()
    for step in steps:
        x = batch(step)[part]
        (model(x) - x.flip(-1)).square().mean().backward()
        with (traffic := Traffic()):
            optimizer.step()
        optimizer.zero_grad()
    return traffic.bytes


def plain(method: str, steps: int = 4) -> nn.Module:
    model = network()
    train(model, METHODS[method](model), range(steps))
    return model


def distance(model: nn.Module, expected: nn.Module, blocks: slice = slice(None)) -> float:
    """Largest difference of two models' weights, over the largest change of a weight since the start."""
    worst = 0.0
    for (name, p), q, start in zip(
        model.named_parameters(), expected.parameters(), network()[blocks].parameters(), strict=True
    ):
        whole = p.full_tensor() if hasattr(p, "full_tensor") else p  # pyright: ignore[reportCallIssue]
        worst = max(worst, ((whole - q).abs().max() / (q - start).abs().max()).item())
        assert whole.shape == q.shape, name
    return worst


def own_half() -> slice:
    size = 8 // dist.get_world_size()
    return slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)


def data_parallel(method: str) -> dict[str, float]:
    model = DistributedDataParallel(network())
    train(model, METHODS[method](model), range(4), own_half())
    return {"difference": distance(model.module, plain(method))}


def zero_redundancy(method: str) -> dict[str, float]:
    """Each process keeps the states of some parameters alone; matrices only, for it takes a list of tensors."""
    kind, more = {"muon": (Muon, {"polar": exact}), "adamw": (AdamW, {})}[method]
    model, expected = network()[:2], network()[:2]
    one = ZeroRedundancyOptimizer(model.parameters(), kind, lr=0.05, weight_decay=0.1, **more)
    two = kind(expected.parameters(), lr=0.05, weight_decay=0.1, **more)
    train(model, one, range(4))
    train(expected, two, range(4))
    one.consolidate_state_dict()
    whole = len(one.state_dict()["state"]) if dist.get_rank() == 0 else 4
    held = sum(len(state) > 0 for state in one.optim.state.values())
    return {"difference": distance(model, expected, slice(2)), "held": held, "consolidated": whole}


def sharded(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    for block in model.children():
        if isinstance(block, Block):
            fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fully_sharded(method: str, folder: Path) -> dict[str, float]:
    """Through a checkpoint of torch.distributed in the middle."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    whole = sharded(network(), mesh)
    bytes_ = train(whole, METHODS[method](whole), range(4), own_half())
    half = sharded(network(), mesh)
    optimizer = METHODS[method](half)
    train(half, optimizer, range(2), own_half())
    states = dict(zip(("model", "optimizer"), get_state_dict(half, optimizer), strict=True))
    checkpoint.save(states, checkpoint_id=folder / method)
    again = sharded(network(), mesh)
    other: Engine = METHODS[method](again)
    train(again, other, range(1), own_half())  # states to be filled; what they hold is replaced
    states = dict(zip(("model", "optimizer"), get_state_dict(again, other), strict=True))
    checkpoint.load(states, checkpoint_id=folder / method)
    set_state_dict(again, other, model_state_dict=states["model"], optim_state_dict=states["optimizer"])
    train(again, other, range(2, 4), own_half())
    same = all(
        torch.equal(p.to_local(), q.to_local())  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        for p, q in zip(whole.parameters(), again.parameters(), strict=True)
    )
    return {"difference": distance(whole, plain(method)), "resumed": float(same), "bytes": bytes_}


def tensor_parallel(method: str) -> dict[str, float]:
    """Rows of one matrix, columns of the other: each process computes with its own."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = network()
    for block in model.children():
        if isinstance(block, Block):
            parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    bytes_ = train(model, METHODS[method](model), range(4))
    return {"difference": distance(model, plain(method)), "bytes": bytes_}


def both(method: str) -> dict[str, float]:
    """Tensor parallel inside, sharded outside: a mesh of two dimensions."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = network()
    for block in model.children():
        if isinstance(block, Block):
            parallelize_module(block, mesh["tensor"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
    sharded(model, mesh["data"])
    rank = mesh.get_local_rank("data")
    train(model, METHODS[method](model), range(4), slice(4 * rank, 4 * (rank + 1)))
    return {"difference": distance(model, plain(method))}


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found: dict[str, dict[str, float]] = {}
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(folder)
    for method in METHODS:
        if dist.get_world_size() == 4:
            found[f"both {method}"] = both(method)
            continue
        found[f"fsdp {method}"] = fully_sharded(method, Path(folder[0]))
        found[f"tp {method}"] = tensor_parallel(method)
    if dist.get_world_size() == 2:
        for method in ("muon", "adamw"):
            found[f"ddp {method}"] = data_parallel(method)
            found[f"zero {method}"] = zero_redundancy(method)
    dist.barrier()
    if dist.get_rank() == 0:
        sys.stdout.write(json.dumps(found) + "\n")
    dist.destroy_process_group()


if __name__ == "__main__":
    with leaving_at_once():
        sys.exit(main())
