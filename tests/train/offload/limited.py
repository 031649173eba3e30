"""A training process for others to measure or to limit.

`python -m tests.train.offload.limited WAY LAYERS WIDTH [FOLDER]` writes `ready` when a model, one forward pass and
compiled kernels are there, waits for a line, trains, and writes the last loss. WAY is `memory`, `disk` (states), or
`streamed` (weights, too); then the weights are in a file from the start, which `python -m ... write` makes.
"""

import contextlib
import sys
from pathlib import Path

import torch
from torch import nn

from steepest.optim import AdamW
from steepest.train.memory import memory_given_back
from steepest.train.offload import Offload, OffloadOptions, WeightStream

STEPS, ROWS = 4, 4


def build(layers: int, width: int, path: Path | None, way: str) -> nn.Sequential:
    """The model; its weights in memory, or mapped from a file that is written first."""
    if way != "streamed":
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    if path is None:
        return model
    numbers = layers * width * width
    whole = torch.from_file(str(path), shared=True, size=numbers).view(layers, width, width)
    if way == "write":
        for layer, room in zip(model, whole, strict=True):
            room.copy_(layer.weight.detach())
        return model
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    for layer, room in zip(model, whole, strict=True):
        layer.weight = nn.Parameter(room)
    return model


def main(way: str, layers: int, width: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warm = nn.Linear(200, 200)
    warm(torch.ones(1, 200)).sum().backward()
    AdamW(warm).step()
    model = build(layers, width, Path(folder) / "weights.bin" if way in ("streamed", "write") else None, way)
    if way == "write":
        return
    x = torch.randn(ROWS, width, generator=torch.Generator().manual_seed(1))
    loss = model(x).square().mean()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    del loss
    with memory_given_back() if way == "streamed" else contextlib.nullcontext():
        train(model, x, way, folder)


def train(model: nn.Module, x: torch.Tensor, way: str, folder: str) -> None:
    optimizer = AdamW(model.parameters(), lr=1e-3)
    if way != "memory":
        options = OffloadOptions(overlap=True, buffer_bytes=16 << 20, tile_entries=1 << 18)
        offload = Offload(optimizer, Path(folder) / "store", options)
        if way == "streamed":
            WeightStream(offload, model, model.children())
    for _ in range(STEPS):
        loss = (model(x) - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    sys.stdout.write(f"{loss.item().hex()}\n")
    sys.stdout.flush()
    sys.stdin.readline()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] if len(sys.argv) > 4 else "")
