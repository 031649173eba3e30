"""Kernels on torch's own threads: every piece once, every argument as it was given, and never after a fork."""

import ctypes
import os
import signal
import threading
import warnings

import numba
import pytest
import torch

from steepest import functional
from steepest.kernels import _pool, _team
from steepest.kernels._llvm import f64_pointer

pytestmark = pytest.mark.skipif(_team._library() is None, reason="torch comes without libgomp here")


@numba.njit("void(intp, UniTuple(intp, 2), float32, float64, Tuple((float32, intp)), intp, intp)", nogil=True)
def add(address, pair, small, large, mixed, start, stop):
    out = f64_pointer(address)
    for i in range(start, stop):
        out[i] += pair[0] + 10 * pair[1] + 100 * small + 1000 * large + 10000 * mixed[0] + 100000 * mixed[1]


ARGUMENTS = (3, -2), 0.5, 0.25, (1.5, 7)
EACH = 3 - 20 + 50 + 250 + 15000 + 700000


@pytest.mark.parametrize(("total", "size"), [(1, 1), (7, 3), (64, 64), (1000, 64), (4096, 17)])
@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (1, 3), (2, 2), (3, 4), (5, 5)])
def test_each_element_is_taken_once_with_all_arguments(total, size, workers, threads):
    out = torch.zeros(total + 1, dtype=torch.float64)
    pieces = total, size, -(-total // size)
    assert _team.TeamEntry(add).run((out.data_ptr(), *ARGUMENTS), pieces, workers, threads)
    assert (out[:-1] == EACH).all()
    assert out[-1] == 0


COEFFICIENTS = torch.tensor([0.2, 0.3, 0.4])
FUNCTIONS = {
    **{
        name: lambda x, w, name=name: getattr(functional, name)(x)
        for name in (
            *("exp", "exp2", "expm1", "sigmoid", "tanh", "erf", "softplus", "softmax", "log_softmax", "logsumexp"),
            *("relu", "silu", "gelu", "l2_normalize"),
        )
    },
    "l2_normalize of columns": lambda x, w: functional.l2_normalize(x, dim=0),
    "swiglu": lambda x, w: functional.swiglu(x, x.flip(0)),
    "rms_norm": functional.rms_norm,
    "layer_norm": lambda x, w: functional.layer_norm(x, w, w),
    "swish": functional.swish,
    "jumprelu": lambda x, w: functional.jumprelu(x, w.abs(), 0.1),
    "polynorm": lambda x, w: functional.polynorm(x, COEFFICIENTS),
    "polyrelu": lambda x, w: functional.polyrelu(x, COEFFICIENTS),
    "cross_entropy": lambda x, w: functional.cross_entropy(x, torch.arange(len(x))),
}


def values_and_gradients(name, threads):
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 1000, generator=generator, requires_grad=True)
    w = torch.randn(1000, generator=generator, requires_grad=True)
    y = FUNCTIONS[name](x, w)
    y.square().sum().backward()
    return [t for t in (y.detach(), x.grad, w.grad) if t is not None]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_kernels_go_to_the_team_and_give_the_bits_of_one_thread(name, monkeypatch):
    expected = values_and_gradients(name, 1)
    monkeypatch.setattr(_pool, "_share", None)  # Python threads are not asked
    asked, run = [], _team.TeamEntry.run
    monkeypatch.setattr(_team.TeamEntry, "run", lambda *args: asked.append(args) or run(*args))
    found = values_and_gradients(name, 3)
    assert all(map(torch.equal, found, expected))
    assert asked


def test_a_team_at_work_leaves_the_rest_to_python_threads(monkeypatch):
    torch.set_num_threads(2)
    x = torch.randn(3_000_000)
    expected = functional.exp(x)
    shared = []
    share = _pool._share
    monkeypatch.setattr(_pool, "_share", lambda *args: shared.append(args) or share(*args))
    with _team._free:
        assert torch.equal(functional.exp(x), expected)
        assert len(shared) == 1
        assert torch.equal(functional.exp(x[:200_000]), expected[:200_000])  # too little work to wake one
        assert len(shared) == 1


def test_without_the_library_python_threads_work(monkeypatch):
    torch.set_num_threads(2)
    x = torch.randn(3_000_000)
    expected = functional.exp(x)
    monkeypatch.setattr(_team, "_library", lambda: None)
    assert torch.equal(functional.exp(x), expected)


def test_sixteen_threads_at_once():
    torch.set_num_threads(2)
    x = torch.randn(64, 4096)
    expected = functional.softmax(x)
    wrong = []

    def work():
        wrong.extend(1 for _ in range(20) if not torch.equal(functional.softmax(x), expected))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_of_fork_does_not_ask_a_team_that_is_not_there():
    torch.set_num_threads(2)
    x = torch.randn(64, 4096)
    expected, out = functional.softmax(x), torch.zeros_like(x).share_memory_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads, from Python 3.12 on
        child = os.fork()
    if child == 0:  # torch's own operators would hang here with more than one thread, so the parent compares
        try:
            signal.alarm(20)
            y = functional.softmax(x)
            ctypes.memmove(out.data_ptr(), y.data_ptr(), y.nbytes)
            os._exit(int(_team._usable))
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(out, expected)
