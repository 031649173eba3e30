"""The same gradients wherever the activations wait."""

import gc
import itertools
import weakref

import pytest
import torch
from torch import nn

from steepest.train.offload import ActivationStore, DamagedTileError, place_activations


class Block(nn.Module):
    """Products, a transposed view, a broadcast, dropout, and a tensor used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(32, 96), nn.Linear(96, 32), nn.LayerNorm(32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(self.norm(x)))
        mixed = torch.softmax(h @ h.mT, dim=-1) @ h
        return x + nn.functional.dropout(self.second(mixed * h.sum(-1, keepdim=True)), 0.3)


def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(Block() for _ in range(3)))


def gradients(net: nn.Module) -> list[torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(4, 24, 32, requires_grad=True)
    net(x).square().mean().backward()
    assert x.grad is not None
    return [x.grad, *(p.grad for p in net.parameters() if p.grad is not None)]


@pytest.mark.parametrize("places", list(itertools.product(["keep", "recompute", "swap"], repeat=3)))
def test_gradients_are_the_same_bits(places, tmp_path):
    net = model()
    expected = gradients(model())
    with ActivationStore(tmp_path, smallest=1, buffer_bytes=1 << 15) as store:
        for block, place in zip(net, places, strict=True):
            place_activations(block, place, store)
        found = gradients(net)
        gc.collect()
        assert store.in_use == 0
    assert len(expected) == len(found) == 19
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert not (tmp_path / "activations.bin").exists()


@pytest.mark.parametrize(("place", "lives"), [("keep", True), ("recompute", False), ("swap", False)])
def test_only_what_is_kept_stays_in_memory(place, lives, tmp_path):
    seen = []

    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = x * 2
            seen.append(weakref.ref(inner.untyped_storage()))
            return (inner * inner).sum()

    block = Square()
    with ActivationStore(tmp_path, smallest=1) as store:
        place_activations(block, place, store)
        x = torch.arange(64.0, requires_grad=True)
        y = block(x)
        gc.collect()
        assert (seen[0]() is not None) == lives
        assert (store.in_use > 0) == (place == "swap")
        y.backward()
        assert torch.equal(x.grad, 8 * x)


def test_room_is_used_again_and_a_choice_can_be_undone(tmp_path):
    net = model()
    with ActivationStore(tmp_path, smallest=1) as store:
        undo = [place_activations(block, "swap", store) for block in net]
        gradients(net)
        gc.collect()
        size = (tmp_path / "activations.bin").stat().st_size
        for _ in range(3):
            gradients(net)
            gc.collect()
        assert (tmp_path / "activations.bin").stat().st_size == size
        for one in undo:
            one()
        net(torch.zeros(1, 4, 32))
        assert store.in_use == 0
        assert all("forward" not in vars(block) for block in net)


def test_a_changed_byte_is_found(tmp_path):
    x = torch.arange(4096.0, requires_grad=True)
    with ActivationStore(tmp_path, smallest=1) as store:
        with store.swapping():
            y = (x * 1).sin().sum()
        store._writers.submit(lambda: None).result()
        with (tmp_path / "activations.bin").open("r+b") as file:
            file.seek(100)
            file.write(b"\x01\x02\x03")
        with pytest.raises(DamagedTileError, match="activation at byte 0"):
            y.backward()


def test_wrong_choices_are_refused():
    with pytest.raises(ValueError, match="needs a store"):
        place_activations(nn.Linear(1, 1), "swap")
    with pytest.raises(ValueError, match="place"):
        place_activations(nn.Linear(1, 1), "forget")  # pyright: ignore[reportArgumentType]
