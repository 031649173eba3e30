"""Run by test_sharded.py in two processes: shards whose states are on disks must move as those in memory do."""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard

from steepest.cli._leaving import leaving_at_once
from steepest.optim import AdamW, Muon, Options
from steepest.optim.sharding import local
from steepest.train.offload import DamagedTileError, Offload, OffloadOptions
from tests.optim.test_contract import OPTIMIZERS, make

OVERLAP = OffloadOptions(tile_entries=4096, overlap=True)
AFTER = OffloadOptions(tile_entries=4096)
ON_DISK = OffloadOptions(tile_entries=4096, gradients="disk", max_norm=0.5, buffer_bytes=1 << 18)
SERIAL = OffloadOptions(tile_entries=4096, serial=True)


class Block(nn.Module):
    """Matrices of one shape, a number of rows that two processes cannot share equally, and one row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width, bias=False), nn.Linear(width, width + 1)
        self.back = nn.Linear(width + 1, width, bias=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.back(torch.tanh(self.two(torch.relu(self.one(x)))))


class Net(nn.Module):
    """Shards smaller than a piece, and larger; an embedding that is used twice; a layer that may be unused."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(700, 64)
        self.layers = nn.ModuleList(Block(64) for _ in range(2))
        self.sometimes = nn.Linear(64, 64)
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 700, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor, *, sometimes: bool) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        if sometimes:
            x = x + self.sometimes(x)
        return self.head(self.norm(x))


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def backward(model: Net, step: int, part: int = 0, low: int = 0) -> None:
    generator = torch.Generator().manual_seed(1000 * dist.get_rank() + 100 * step + part)
    ids, targets = torch.randint(low, 700, (2, 8), generator=generator)
    nn.functional.cross_entropy(model(ids, sometimes=step % 3 != 1), targets).backward()


def one_step(model: Net, optimizer, step: int, *, rounds: int = 1, clip: float = math.inf) -> None:
    for part in range(rounds):
        model.set_requires_gradient_sync(part + 1 == rounds)  # pyright: ignore[reportCallIssue]
        backward(model, step, part)
    if clip != math.inf and optimizer.elsewhere is None:
        params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in params]).full_tensor()  # pyright: ignore
        torch.nn.utils.clip_grads_with_norm_(params, clip, norm)
    optimizer.step()
    optimizer.zero_grad()


def assert_equal(one: nn.Module, two: nn.Module, reference, optimizer, what: object) -> None:
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(local(p), local(q)), (what, name)
    here, there = reference.state_dict(), optimizer.state_dict()
    assert here["param_groups"] == there["param_groups"], what
    assert here["state"].keys() == there["state"].keys(), what
    for number, state in here["state"].items():
        for key, value in state.items():
            other = there["state"][number][key]
            assert type(value) is type(other), (what, number, key)
            if isinstance(value, torch.Tensor):
                assert value.shape == other.shape, (what, number, key)
                assert torch.equal(local(value), local(other)), (what, number, key)
            else:
                assert value == other, (what, number, key)


def same(name: str, way: OffloadOptions, folder: Path, *, steps: int, rounds: int = 1, **settings) -> None:
    """Step in memory and on disks, and compare all bits."""
    one, two = net(), net()
    reference, optimizer = make(name, one, **settings), make(name, two, **settings)
    with Offload(optimizer, folder, way) as offload:
        for step in range(steps):
            one_step(one, reference, step, rounds=rounds, clip=way.max_norm)
            one_step(two, optimizer, step, rounds=rounds)
        assert offload.steps == steps
        assert not optimizer.state
        assert offload.store.folder.name == f"rank-{dist.get_rank()}-of-2"
        assert_equal(one, two, reference, optimizer, (name, way, settings))


def twenty_steps(folder: Path) -> None:
    for name in ("AdamW", "Muon", "SinkGD"):
        for number, way in enumerate((OVERLAP, ON_DISK)):
            same(name, way, folder / f"{name}{number}", steps=20, rounds=1 + number)


def other_ways(folder: Path) -> None:
    """Options for which processes must meet, though the rule works by entry; and steps after the backward pass."""
    cases = {"cautious": True, "hyperball": True, "clip": 0.01, "lr_scale": "spectral"}
    for key, value in cases.items():
        same("AdamW", OVERLAP, folder / key, steps=3, options=Options(**{key: value}))
    for number, way in enumerate((AFTER, SERIAL)):
        same("Muon", way, folder / f"way{number}", steps=3)


def every_method(folder: Path) -> None:
    for name in OPTIMIZERS:
        if name != "MFAC":
            same(name, OVERLAP, folder / name, steps=3)


class Pair:
    """The same model stepped in memory and on disks."""

    def __init__(self, make, folder: Path, way: OffloadOptions) -> None:
        self.make, self.folder, self.way = make, folder, way
        self.one, self.two = net(), net()
        self.reference, self.optimizer = make(self.one), make(self.two)
        self.offload = Offload(self.optimizer, folder, way)

    def step(self, step: int) -> None:
        one_step(self.one, self.reference, step)
        one_step(self.two, self.optimizer, step)

    def again(self) -> None:
        """Go on from the folder in a model of its own."""
        self.offload.close()
        self.two = net()
        self.optimizer = self.make(self.two)
        self.offload = Offload(self.optimizer, self.folder, self.way, resume=True)

    def compare(self, what: str) -> None:
        assert_equal(self.one, self.two, self.reference, self.optimizer, what)


def fails(action, message: str) -> type:
    with pytest.raises(OSError, match=message) as found:
        action()
    return found.type


def a_commit_that_one_process_cannot_make(folder: Path) -> None:
    pair = Pair(AdamW, folder, OVERLAP)
    pair.step(0)
    journal, rank = pair.offload.store._journal, dist.get_rank()
    append = journal.append
    if rank == 1:

        def refuse(record: dict) -> None:
            raise OSError(28, "No space left on device")

        journal.append = refuse
    before = [local(p.detach()).clone() for p in pair.two.parameters()]
    backward(pair.two, 1)
    fails(pair.optimizer.step, "No space left")
    journal.append = append
    assert all(torch.equal(local(p), q) for p, q in zip(pair.two.parameters(), before, strict=True))
    assert pair.offload.steps == 1
    for step in range(1, 3):
        pair.step(step)
    pair.compare("a refused commit")
    pair.again()
    pair.step(3)
    pair.compare("resumed after a refused commit")
    pair.offload.close()


def a_commit_that_one_process_did_not_live_to_make(folder: Path) -> None:
    for dead in range(2):
        pair = Pair(Muon, folder / str(dead), OVERLAP)
        for step in range(3):
            pair.step(step)
        one_step(pair.two, pair.optimizer, 3)  # that the reference has not taken
        path = pair.offload.store.folder / "journal.jsonl"
        pair.offload.close()
        if dist.get_rank() == dead:
            path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
        dist.barrier()
        pair.again()
        assert pair.offload.steps == 3
        for step in range(3, 5):
            pair.step(step)
        pair.compare("one process died in a commit")
        pair.offload.close()
        if dist.get_rank() == dead:  # two commits behind: no store has what both have
            path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))
        dist.barrier()
        with pytest.raises(ValueError, match="2 steps apart"):
            pair.again()


def a_damaged_tile_of_one_process(folder: Path) -> None:
    pair = Pair(Muon, folder, OVERLAP)
    pair.step(0)
    before = [local(p.detach()).clone() for p in pair.two.parameters()]
    if dist.get_rank() == 1:
        tile = next(t for t in pair.offload.store.tiles if t.name.startswith("states of layers.0.one.weight"))
        with (pair.offload.store.folder / "tiles.bin").open("r+b") as file:
            for version in range(2):
                file.seek(tile.offset + version * tile.nbytes + 1000)
                file.write(b"\xff\x00\xff")
    backward(pair.two, 1)
    kind = fails(pair.optimizer.step, "could not go on" if dist.get_rank() == 0 else "layers.0.one.weight")
    assert kind is (OSError if dist.get_rank() == 0 else DamagedTileError)
    assert all(torch.equal(local(p), q) for p, q in zip(pair.two.parameters(), before, strict=True))
    pair.offload.close()


def a_gradient_that_is_not_finite_in_one_process(folder: Path) -> None:
    def skipping(model: nn.Module) -> Muon:
        return Muon(model, options=Options(nonfinite="skip"))

    def spoil(_module, _arguments, output: torch.Tensor) -> None:
        output.register_hook(lambda grad: grad * math.nan)

    for number, way in enumerate((OVERLAP, AFTER)):
        pair = Pair(skipping, folder / str(number), way)
        for step in range(3):
            for model, optimizer in ((pair.one, pair.reference), (pair.two, pair.optimizer)):
                if step != 1:
                    one_step(model, optimizer, step)
                    continue
                handle = model.embedding.register_forward_hook(spoil)
                backward(model, step, low=350)  # rows that the second process has
                handle.remove()
                optimizer.step()
                optimizer.zero_grad()
        assert pair.reference.skipped == pair.optimizer.skipped == 1
        assert pair.offload.steps == 2
        pair.compare("a gradient that is not finite")
        pair.offload.close()


def wrong_use(folder: Path) -> None:
    with Offload(AdamW(net()), folder):
        pass
    with pytest.raises(ValueError, match="after its step 0: continue it with resume=True"):
        Offload(AdamW(net()), folder)
    with pytest.raises(ValueError, match="in its place"):
        Offload(AdamW(net()), folder, OVERLAP, resume=True)
    with Offload(AdamW(net()), folder, resume=True) as offload:
        assert offload.steps == 0
    with Offload(AdamW(net()), folder, overwrite=True) as offload:
        assert offload.steps == 0


CASES = {
    "twenty": [twenty_steps],
    "failures": [
        a_commit_that_one_process_cannot_make,
        a_commit_that_one_process_did_not_live_to_make,
        a_damaged_tile_of_one_process,
        a_gradient_that_is_not_finite_in_one_process,
        wrong_use,
    ],
    "others": [other_ways],
    "every": [every_method],
}


def main(folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for name in names:
        for case in CASES[name]:
            case(folder / case.__name__)
            dist.barrier()
    dist.destroy_process_group()
    sys.stdout.write("all equal\n")


if __name__ == "__main__":
    with leaving_at_once():
        sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
