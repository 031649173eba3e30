"""A training process for others to measure or to limit.

`python -m tests.train.offload.limited WAY LAYERS WIDTH [FOLDER]` writes `ready` when a model, one forward pass and
compiled kernels are there, waits for a line, trains, and writes the last loss. WAY is `memory` or `disk`.
"""

import sys

import torch
from torch import nn

from steepest.optim import AdamW
from steepest.train.offload import Offload, OffloadOptions

STEPS, ROWS = 4, 4


def main(way: str, layers: int, width: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warm = nn.Linear(200, 200)
    warm(torch.ones(1, 200)).sum().backward()
    AdamW(warm).step()
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(layers)))
    x = torch.randn(ROWS, width)
    loss = model(x).square().mean()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    del loss
    optimizer = AdamW(model.parameters(), lr=1e-3)
    if way == "disk":
        Offload(optimizer, folder, OffloadOptions(overlap=True, buffer_bytes=16 << 20, tile_entries=1 << 18))
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
