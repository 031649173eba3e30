"""What a step takes beside the state: by the tensors that are allocated while it runs."""

import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.optim.gradients import run
from tests.optim.test_contract import OPTIMIZERS, make

LARGEST = 4 * 256 * 160
#: A direction, its factors and what the polar iteration needs at a time; `Grafted` runs two rules.
AT_A_TIME = 10


class Allocations(TorchDispatchMode):
    """Count the bytes of the tensors that are made: the largest one, and the most at a time."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.largest = self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.largest = max(self.largest, size)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def layers() -> nn.Module:
    """Two shapes in numbers that do not fit one batch, a larger matrix, many vectors."""
    sizes = (*[(64, 96)] * 24, *[(128, 64)] * 12, (160, 256), (8, 4))
    return nn.ModuleList([nn.Linear(n, m) for n, m in sizes])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_allocates_nothing_larger_than_the_largest_matrix(name, monkeypatch):
    """Small matrices go in batches of its size. A factor of a matrix, which the state holds, may be larger than it."""
    monkeypatch.setattr("steepest.optim.engine.BATCH_ENTRIES", 1)
    model = layers()
    params = list(model.parameters())
    optimizer = make(name, model)
    run(optimizer, params, range(11))
    for p in params:
        p.grad = torch.randn_like(p)
    held = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, torch.Tensor)]
    limit = max([LARGEST, *(4 * t.numel() for t in held)])
    with Allocations([*params, *(p.grad for p in params if p.grad is not None), *held]) as made:
        optimizer.step()
    assert made.largest <= limit
    assert made.peak <= AT_A_TIME * limit


def test_the_count_sees_what_a_step_allocates():
    with Allocations([]) as made:
        x = torch.zeros(100)
        y = x + 1
        del x
        y.add_(1).view(10, 10).mul_(2)
        y = y * 2
    assert (made.largest, made.peak, made.now) == (400, 800, 400)
