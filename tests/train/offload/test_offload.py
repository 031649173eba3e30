"""The same bits as in memory, whatever the method and however the steps are taken."""

import dataclasses
import math

import pytest
import torch
from torch import nn

from steepest.train.offload import Offload, OffloadOptions
from tests.optim.test_contract import OPTIMIZERS, make

STEPS = 20
WAYS = {
    "after": OffloadOptions(tile_entries=4096, serial=True),
    "pipelined": OffloadOptions(tile_entries=4096, buffer_bytes=1 << 18),
    "overlapped": OffloadOptions(tile_entries=4096, overlap=True),
    "gradients on disk": OffloadOptions(tile_entries=4096, gradients="disk"),
}
#: It steps all parameters as one vector.
OFFLOADED = [name for name in OPTIMIZERS if name != "MFAC"]


class Net(nn.Module):
    """Parameters smaller than a piece, and larger; matrices of one shape; one used twice; one that may be unused."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(300, 64)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.wide, self.back = nn.Linear(64, 400), nn.Linear(400, 64, bias=False)
        self.sometimes = nn.Linear(64, 64)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 300, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor, *, sometimes: bool) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = x + torch.tanh(layer(x))
        x = x + self.back(torch.relu(self.wide(x)))
        if sometimes:
            x = x + self.sometimes(x)
        return self.head(self.norm(x))


def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def loss_of(model: Net, step: int, part: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + part)
    ids, targets = torch.randint(300, (2, 8), generator=generator)
    return nn.functional.cross_entropy(model(ids, sometimes=step % 3 != 1), targets)


def one_step(model: Net, optimizer, step: int, *, rounds: int = 1, clip: float = math.inf, offload=None) -> None:
    for part in range(rounds):
        if offload is not None and part + 1 < rounds:
            with offload.accumulating():
                loss_of(model, step, part).backward()
        else:
            loss_of(model, step, part).backward()
    if clip != math.inf and offload is None:
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], clip)
    optimizer.step()
    optimizer.zero_grad()


def assert_equal(model: nn.Module, other: nn.Module, optimizer, offloaded) -> None:
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name
    one, two = optimizer.state_dict(), offloaded.state_dict()
    assert one["param_groups"] == two["param_groups"]
    assert one["state"].keys() == two["state"].keys()
    for number, state in one["state"].items():
        assert state.keys() == two["state"][number].keys()
        for key, value in state.items():
            there = two["state"][number][key]
            assert torch.equal(value, there) if isinstance(value, torch.Tensor) else value == there, (number, key)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["AdamW", "Muon", "SinkGD"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_twenty_steps_equal_those_in_memory(name, way, rounds, tmp_path):
    clip = math.inf if WAYS[way].overlap else 0.5
    options = dataclasses.replace(WAYS[way], max_norm=clip)
    one, two = net(), net()
    reference, optimizer = make(name, one), make(name, two)
    with Offload(optimizer, tmp_path, options) as offload:
        for step in range(STEPS):
            one_step(one, reference, step, rounds=rounds, clip=clip)
            one_step(two, optimizer, step, rounds=rounds, clip=clip, offload=offload)
        assert offload.steps == STEPS
        assert not optimizer.state
        assert_equal(one, two, reference, optimizer)


@pytest.mark.parametrize("name", OFFLOADED)
def test_every_method_takes_the_same_steps(name, tmp_path):
    one, two = net(), net()
    reference, optimizer = make(name, one), make(name, two)
    options = OffloadOptions(tile_entries=4096, overlap=True)
    with Offload(optimizer, tmp_path, options) as offload:
        for step in range(6):
            one_step(one, reference, step)
            one_step(two, optimizer, step, offload=offload)
        assert_equal(one, two, reference, optimizer)
