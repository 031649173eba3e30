import subprocess
import sys
import threading

import pytest
import torch

from steepest.functional import tanh
from steepest.kernels import _memory, release_memory

LARGE = 1 << 20  # float32 numbers: 4 MiB
linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch's allocator is used")


@pytest.fixture(autouse=True)
def _nothing_waits():
    release_memory()
    yield
    release_memory()


@linux
def test_a_large_output_lies_where_the_last_one_was():
    first = _memory.empty((LARGE + 1000,), torch.float32).fill_(1)
    address = first.data_ptr()
    assert address % (2 << 20) == 0
    view = first[5:].view(-1)
    del first
    other = _memory.empty((LARGE,), torch.float32)
    assert other.data_ptr() != address  # a view still uses the first
    assert (view == 1).all()
    del view
    assert _memory.empty((2 * LARGE + 100,), torch.bfloat16).data_ptr() == address


@pytest.mark.parametrize("size", [10, LARGE])
def test_outputs_are_ordinary_tensors(size):
    x = torch.rand(2, size // 2)
    for model in (x, x.t()):
        y, rows = _memory.empty_like(model), _memory.empty_rows(model)
        assert (y.shape, y.stride()) == (model.shape, torch.empty_like(model).stride())
        assert rows.shape == model.shape
        assert rows.is_contiguous()
        assert not y._is_view()
    y = tanh(x.requires_grad_())
    y.mul_(2)  # an output may be changed in place
    (gradient,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(gradient, 2 - 2 * torch.tanh(x.detach()) ** 2)
    z = y.detach().clone().share_memory_()
    assert torch.equal(z, y)


@linux
def test_only_so_much_waits(monkeypatch):
    monkeypatch.setattr(_memory, "_MOST_WAITING", 18 << 20)
    several = [_memory.empty((LARGE + (i << 21),), torch.float32) for i in range(4)]
    del several
    assert 0 < release_memory() <= 18 << 20
    assert release_memory() == 0


@linux
def test_threads_never_share_a_block():
    wrong = []

    def work(number):
        for _ in range(20):
            mine = _memory.empty((LARGE,), torch.float32)
            mine[::4096] = number
            if not (mine[::4096] == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not _memory._leases


@linux
def test_tensors_that_outlive_the_interpreter_are_quiet():
    code = "import torch; from steepest.kernels import _memory; torch.kept = _memory.empty((9 << 20,), torch.float32)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
