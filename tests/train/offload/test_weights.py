"""Weights on the disk: float32 ones behind parameters of 16 bits, and those of blocks that are not computing."""

import contextlib
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from steepest.optim import AdamW, Muon, SinkGD
from steepest.train.offload import DamagedTileError, Offload, OffloadOptions, WeightStream
from tests.optim.test_contract import make
from tests.train.offload.test_offload import WAYS, assert_equal

WIDTH = 160
METHODS = {"AdamW": AdamW, "Muon": Muon, "SinkGD": SinkGD}


class Block(nn.Module):
    """Two matrices larger than what always stays in memory, and a gain that stays."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.wide, self.back = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH, bias=False)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.back(torch.relu(self.wide(self.norm(x)))))


class Net(nn.Module):
    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(200, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.head = nn.Linear(WIDTH, 200, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def net(dtype: torch.dtype = torch.float32) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().to(dtype)


def backward(model: nn.Module, step: int, part: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * step + part)
    ids, targets = torch.randint(200, (2, 8), generator=generator)
    torch.manual_seed(step)  # for the dropout
    loss = nn.functional.cross_entropy(model(ids).float(), targets)
    loss.backward()
    return loss


def clip_all(optimizer, limit: float) -> None:
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], limit)


def streaming(model: Net, optimizer, folder: Path, options: OffloadOptions) -> tuple[Offload, WeightStream]:
    offload = Offload(optimizer, folder, options)
    return offload, WeightStream(offload, model, model.blocks)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", METHODS)
def test_steps_with_weights_on_the_disk_equal_those_in_memory(name, way, tmp_path):
    clip = math.inf if WAYS[way].overlap else 0.5
    one, two = net(), net()
    reference, optimizer = make(name, one), make(name, two)
    offload, stream = streaming(two, optimizer, tmp_path, dataclasses.replace(WAYS[way], max_norm=clip))
    with offload:
        for step in range(6):
            for part in range(2):
                with contextlib.nullcontext() if part else offload.accumulating():
                    there = backward(two, step, part)
                assert torch.equal(backward(one, step, part), there)
            if clip != math.inf:
                clip_all(reference, clip)
            for some in (reference, optimizer):
                some.step()
                some.zero_grad()
            assert stream.in_memory == 0
        stream.close()
        assert stream.in_memory == stream.nbytes > 0
        assert_equal(one, two, reference, optimizer)


def test_at_most_two_blocks_are_in_memory(tmp_path):
    model = net()
    offload, stream = streaming(model, AdamW(model), tmp_path, OffloadOptions(overlap=True))
    seen = []
    for block in model.blocks:
        block.wide.register_forward_hook(lambda *_: seen.append(stream.in_memory))
    with offload:
        backward(model, 0)
        offload.optimizer.step()
        with torch.no_grad():
            model(torch.arange(8))
    assert len(seen) == 3 * len(model.blocks)
    of_a_block = stream.nbytes // len(model.blocks)
    assert of_a_block <= min(seen) <= max(seen) <= 2 * of_a_block


def test_weights_can_be_read_and_come_back_to_stay(tmp_path):
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    offload, stream = streaming(model, AdamW(model), tmp_path, OffloadOptions())
    with offload:
        with stream.all_in_memory():
            for name, value in model.state_dict().items():
                assert torch.equal(value, before[name])
        assert stream.in_memory == 0
        evaluated = model.eval()(torch.arange(8))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert torch.equal(model(torch.arange(8)), evaluated)  # nothing is wrapped any more
    assert all("forward" not in vars(block) for block in model.blocks)


def test_a_step_that_is_taken_back_leaves_the_weights_of_the_disk(tmp_path):
    model, other = net(), net()
    reference, optimizer = AdamW(other, lr=0.1), AdamW(model, lr=0.1)
    offload, stream = streaming(model, optimizer, tmp_path, OffloadOptions(overlap=True))
    with offload:
        for step in range(3):
            backward(model, step)
            if step == 1:
                offload.rollback()
            else:
                optimizer.step()
                backward(other, step)
                reference.step()
            optimizer.zero_grad()
            reference.zero_grad()
            assert stream.in_memory == 0
        stream.close()
        assert_equal_weights(model, other)


def assert_equal_weights(model: nn.Module, other: nn.Module) -> None:
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name


def test_a_process_that_died_goes_on_from_the_disk(tmp_path):
    model, other = net(), net()
    offload, stream = streaming(model, AdamW(model, lr=0.1), tmp_path, OffloadOptions())
    reference = AdamW(other, lr=0.1)
    backward(model, 0)
    offload.optimizer.step()
    backward(model, 1)  # never stepped
    offload.store.close()  # what the end of a process does
    backward(other, 0)
    reference.step()
    again = net()
    with Offload(AdamW(again, lr=0.1), tmp_path, resume=True) as offload:
        assert offload.steps == 1
        assert_equal_weights(again, other)
        with WeightStream(offload, again, again.blocks):
            backward(again, 1)
            offload.optimizer.step()
        reference.zero_grad()
        backward(other, 1)
        reference.step()
        assert_equal_weights(again, other)
    del stream


def test_a_damaged_weight_is_named(tmp_path):
    model = net()
    offload, _ = streaming(model, AdamW(model), tmp_path, OffloadOptions())
    tile = next(tile for tile in offload.store.tiles if tile.name == "weights of blocks.2.wide.weight")
    with (tmp_path / "tiles.bin").open("r+b") as file:
        for version in (0, 1):
            file.seek(tile.offset + version * tile.nbytes)
            file.write(b"other")
    with pytest.raises(DamagedTileError, match=r"weights of blocks\.2\.wide\.weight"):
        backward(model, 0)


def test_what_cannot_go_is_refused(tmp_path):
    model = net()
    with Offload(AdamW(model), tmp_path / "one") as offload:
        with pytest.raises(ValueError, match=r"embedding\.weight and head\.weight are one weight"):
            WeightStream(offload, model, [model.embedding])
        with pytest.raises(ValueError, match="give the model"):
            WeightStream(offload, model.embedding, model.blocks)
        with pytest.raises(TypeError, match="expected an Offload"):
            WeightStream(offload.optimizer, model, model.blocks)
        with WeightStream(offload, model, model.blocks):
            with pytest.raises(ValueError, match="already"):
                WeightStream(offload, model, model.blocks)
            with pytest.raises(RuntimeError, match="close the WeightStream"):
                offload.optimizer.load_state_dict(offload.optimizer.state_dict())
        offload.optimizer.register_step_post_hook(lambda *_: None)
        with pytest.raises(ValueError, match="post-hook"):
            WeightStream(offload, model, model.blocks)
    hooked = AdamW(model)
    hooked.register_step_post_hook(lambda *_: None)
    with pytest.raises(ValueError, match="master=True"):
        Offload(hooked, tmp_path / "two", OffloadOptions(master=True))
    turned = nn.Parameter(torch.ones(4, 8).t())
    with pytest.raises(ValueError, match="contiguous"):
        Offload(AdamW([turned]), tmp_path / "three", OffloadOptions(master=True))


def float32_twin(model: nn.Module) -> nn.Module:
    twin = net()
    for p, q in zip(twin.parameters(), model.parameters(), strict=True):
        p.data.copy_(q)
    return twin


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("streamed", [False, True])
def test_master_weights_are_those_of_a_float32_optimizer(name, way, streamed, tmp_path):
    model = net(torch.bfloat16)
    twin = float32_twin(model)
    clip = math.inf if WAYS[way].overlap else 0.5
    reference, optimizer = make(name, twin), make(name, model)
    copy = net(torch.bfloat16)
    options = dataclasses.replace(WAYS[way], max_norm=clip, master=True)
    with Offload(optimizer, tmp_path, options) as offload:
        for step in range(5):
            with WeightStream(offload, model, model.blocks) if streamed else contextlib.nullcontext():
                backward(model, step)
                optimizer.step()
                optimizer.zero_grad()
            backward(copy, step)
            for p, q in zip(twin.parameters(), copy.parameters(), strict=True):
                p.grad = None if q.grad is None else q.grad.float()
                q.grad = None
            if clip != math.inf:
                clip_all(reference, clip)
            reference.step()
            for p, q in zip(twin.parameters(), copy.parameters(), strict=True):
                q.data.copy_(p)
            assert_equal_weights(model, copy)
        masters = offload.states
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(masters.weights_of(p), q)


def test_master_weights_move_where_rounded_ones_stand_still(tmp_path):
    layers = [nn.Linear(8, 8, bias=False).bfloat16() for _ in range(2)]
    for layer, master in zip(layers, (True, False), strict=True):
        nn.init.ones_(layer.weight)
        optimizer = AdamW(layer, lr=1e-3, weight_decay=0.0)
        with Offload(optimizer, tmp_path / str(master), OffloadOptions(master=master)):
            for _ in range(10):
                layer.weight.grad = torch.ones_like(layer.weight)
                optimizer.step()
    with_master, without = layers
    assert torch.all(without.weight == 1)  # a thousandth is less than half of bfloat16's spacing below 1
    assert torch.all((with_master.weight - 0.99).abs() < 2**-9)


def test_master_weights_survive_the_end_of_the_process(tmp_path):
    model, other = net(torch.bfloat16), net(torch.bfloat16)
    options = OffloadOptions(master=True)
    with Offload(AdamW(other, lr=1e-3), tmp_path / "whole", options) as whole:
        for step in range(4):
            backward(other, step)
            whole.optimizer.step()
            whole.optimizer.zero_grad()
        for part in range(2):
            again = net(torch.bfloat16)
            with Offload(AdamW(again, lr=1e-3), tmp_path / "parts", options, resume=part > 0) as offload:
                for step in (2 * part, 2 * part + 1):
                    backward(again, step)
                    offload.optimizer.step()
                    offload.optimizer.zero_grad()
                if part:
                    assert_equal_weights(again, other)
                    for p, q in zip(again.parameters(), other.parameters(), strict=True):
                        assert torch.equal(offload.states.weights_of(p), whole.states.weights_of(q))
    with pytest.raises(ValueError, match="bfloat16"):
        Offload(AdamW(model, lr=1e-3), tmp_path / "parts", resume=True)


def views_of_one_tensor() -> nn.Sequential:
    whole = torch.randn(3, WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)) / WIDTH**0.5
    model = nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3)))
    for layer, room in zip(model, whole, strict=True):
        layer.weight = nn.Parameter(room)
    with torch.no_grad():
        model[0].weight.mul_(2)
    assert {layer.weight._version for layer in model} == {1}  # of the count by which autograd sees changes there is one
    return model


def test_only_steps_count_as_changes_of_weights_that_come_and_go(tmp_path):
    model = views_of_one_tensor()
    optimizer = AdamW(model)
    overlap = OffloadOptions(overlap=True)
    with Offload(optimizer, tmp_path, overlap) as offload, WeightStream(offload, model, model.children()) as stream:
        for _ in range(2):
            before = model[0].weight._version
            model(torch.ones(2, WIDTH)).square().mean().backward()
            with stream.all_in_memory():
                assert model[0].weight._version == before
            optimizer.step()
            assert model[0].weight._version > before


def test_views_of_one_tensor_are_refused_where_a_step_of_one_would_seem_a_change_of_another(tmp_path):
    model, x = views_of_one_tensor(), torch.ones(2, WIDTH)
    optimizer = AdamW(model)
    with Offload(optimizer, tmp_path / "after") as offload:
        model(x).sum().backward()
        optimizer.step()
        assert offload.steps == 1
    optimizer = AdamW(model)
    with (
        Offload(optimizer, tmp_path / "overlapped", OffloadOptions(overlap=True)),
        pytest.raises(
            ValueError, match=r"2.weight and another parameter are views of one tensor.*nn.Parameter\(view.data\)"
        ),
    ):
        model(x).sum().backward()
    for layer in model:
        layer.weight = nn.Parameter(layer.weight.data)
    optimizer = AdamW(model)
    with Offload(optimizer, tmp_path / "own", OffloadOptions(overlap=True)) as offload:
        model(x).sum().backward()
        optimizer.step()
        assert offload.steps == 1
