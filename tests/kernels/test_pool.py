import threading

import pytest
import torch

from steepest.kernels import _pool


def collect(total, nanoseconds, threads, multiple=1):
    torch.set_num_threads(threads)
    seen, lock = [], threading.Lock()

    def run(tag, start, stop):
        assert tag == "tag"
        with lock:
            seen.append((start, stop, threading.get_ident()))

    _pool.spread(run, total, nanoseconds, "tag", multiple=multiple)
    return sorted(seen)


@pytest.mark.parametrize("total", [0, 1, 63, 64, 1000, 1 << 20])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_pieces_cover_the_range_once(total, threads):
    pieces = collect(total, 1e6, threads, multiple=64)
    assert [i for i, _, _ in pieces] == [0, *(stop for _, stop, _ in pieces)][: len(pieces)]
    assert pieces[-1][1] == total
    assert all(start % 64 == 0 for start, _, _ in pieces)


def test_small_work_and_one_thread_stay_with_the_caller():
    assert collect(1000, 1.0, 4) == [(0, 1000, threading.get_ident())]
    assert collect(10**9, 1.0, 1) == [(0, 10**9, threading.get_ident())]


def test_an_error_reaches_the_caller():
    torch.set_num_threads(2)

    def fail(start, stop):
        raise RuntimeError("from a piece")

    with pytest.raises(RuntimeError, match="from a piece"):
        _pool.spread(fail, 100, 1e6)


def test_a_busy_pool_does_not_block_a_caller():
    torch.set_num_threads(2)
    release, pool = threading.Event(), _pool._pool()
    blocked = [pool.submit(release.wait, 30) for _ in range(pool._max_workers)]
    try:
        assert collect(1000, 1e6, 2)[-1][1] == 1000
        assert not any(future.done() for future in blocked)
    finally:
        release.set()
