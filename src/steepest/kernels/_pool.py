# SPDX-License-Identifier: Apache-2.0
"""Ranges of rows or elements spread over threads, as many as `torch.get_num_threads()` says.

Compiled kernels go to the threads of torch's own operators (`_team`). Where there are none, or another caller has them,
one small pool of Python threads does it, because the kernels release the GIL. The caller works too and takes pieces
until none is left; it waits only for pieces that another thread has begun, so many callers at once, or a pool that is
busy, cost time but cannot deadlock. A forked child has neither the team nor the pool of its parent, and makes its own.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from steepest.kernels._registry import BY_RUN

#: Less work than this many nanoseconds (estimated) is not worth another of torch's threads, which are awake.
WORTH_A_TEAM_NS = 10_000
#: The same for a thread of the pool, which must be woken: some 20 us.
WORTH_A_THREAD_NS = 100_000
_PIECES_PER_THREAD = 4

_executor: ThreadPoolExecutor | None = None
_lock = threading.Lock()


def _forget_pool() -> None:
    global _executor, _lock
    _executor, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _pool() -> ThreadPoolExecutor:
    global _executor
    if _executor is None:
        with _lock:
            if _executor is None:
                _executor = ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1), thread_name_prefix="steepest-kernel")
    return _executor


def spread(run: Callable[..., Any], total: int, nanoseconds: float, *args: Any, multiple: int = 1) -> None:
    """Call `run(*args, start, stop)` over pieces of `range(total)`, on several threads where that pays.

    Args:
        run: A compiled kernel (`Kernel.run`) that works on any sub-range independently.
        total: Number of rows or elements.
        nanoseconds: Estimated time of one of them, on one thread; decides whether to use threads.
        *args: What comes before start and stop.
        multiple: Pieces begin at multiples of this, so that two threads never write one cache line (use 64 or more
            for elements, 1 for long rows).
    """
    # First, because it is the whole cost of a small call.
    work = total * nanoseconds
    if work < 2 * WORTH_A_TEAM_NS or (threads := torch.get_num_threads()) == 1:
        run(*args, 0, total)
        return
    workers = min(threads, int(work / WORTH_A_TEAM_NS))
    size = _size(total, workers, multiple)
    kernel = BY_RUN.get(run)
    if kernel is not None and kernel.team_entry.run(args, (total, size, -(-total // size)), workers, threads):
        return
    if work < 2 * WORTH_A_THREAD_NS:
        run(*args, 0, total)
        return
    workers = min(threads, int(work / WORTH_A_THREAD_NS))
    size = _size(total, workers, multiple)
    _share(run, args, [(start, min(start + size, total)) for start in range(0, total, size)], workers)


def _size(total: int, workers: int, multiple: int) -> int:
    size = -(-total // (workers * _PIECES_PER_THREAD))
    return -(-size // multiple) * multiple


def _share(run: Callable[..., Any], args: tuple[Any, ...], pieces: list[tuple[int, int]], threads: int) -> None:
    left = set(range(len(pieces)))  # `remove` is atomic; a lock is not needed

    def work(order: range) -> None:
        for mine in order:
            try:
                left.remove(mine % len(pieces))
            except KeyError:
                continue
            run(*args, *pieces[mine % len(pieces)])

    helpers: list[Future[None]] = []
    orders = [_order(worker, min(threads, len(pieces)), len(pieces)) for worker in range(min(threads, len(pieces)))]
    try:
        for order in orders[1:]:
            helpers.append(_pool().submit(work, order))  # noqa: PERF401  those begun must be known if a later one fails
    except RuntimeError:  # the interpreter is shutting down: the caller does it all
        pass
    try:
        work(orders[0])
    finally:
        for helper in helpers:
            if not helper.cancel():
                helper.result()


def _order(worker: int, workers: int, count: int) -> range:
    """Return the order in which a worker asks for pieces: its own first, and in pairs that meet in the middle.

    A worker gets the same pieces again in the next pass over the same memory, and finds them in its own cache.
    """
    if worker % 2 == 0:
        first = count * worker // workers
        return range(first, first + count)
    last = count * (worker + 1) // workers - 1
    return range(last, last - count, -1)
