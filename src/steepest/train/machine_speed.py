# SPDX-License-Identifier: Apache-2.0
"""How fast this machine is, measured in a few seconds: matrix products, memory, disk, and who else is busy."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from steepest.train import machine

_SIZE = 1024
_COPY_BYTES = 128 << 20
_WRITE_BYTES = 64 << 20


def measure(folder: Path, seconds: float = 0.6) -> dict[str, Any]:
    """Measure what `steepest doctor` prints.

    Args:
        folder: Where the disk is tried; the file is removed again.
        seconds: Time to spend on each of the five speed measurements.

    Returns:
        `matmul_gflops` (dtype -> threads -> GFLOP/s), `copy_gb_per_second` (bytes read plus bytes written),
        `write_mb_per_second` (None when the folder cannot be written), `others` (see `load_of_others`).
    """
    others = load_of_others()  # first: our own measurements would heat the machine
    counts = sorted({1, machine.cores()})
    products = {
        str(dtype).removeprefix("torch."): {str(count): matmul_gflops(dtype, count, seconds) for count in counts}
        for dtype in (torch.float32, torch.bfloat16)
    }
    return {
        "matmul_gflops": products,
        "copy_gb_per_second": copy_bandwidth(seconds),
        "write_mb_per_second": write_speed(folder),
        "others": others,
    }


def matmul_gflops(dtype: torch.dtype, threads: int, seconds: float = 0.6) -> float:
    """Return the median GFLOP/s (10^9 floating-point operations a second) of a 1024 x 1024 matrix product.

    Args:
        dtype: Of both factors and the result.
        threads: How many threads torch may use meanwhile, at least 1.
        seconds: Time to spend; at least one product is done.

    Returns:
        2 n^3 over the median time.
    """
    matrix = torch.randn(_SIZE, _SIZE, generator=torch.Generator().manual_seed(0)).to(dtype)
    out = torch.empty_like(matrix)
    with torch_threads(threads):
        return 2 * _SIZE**3 / _median_time(lambda: torch.mm(matrix, matrix, out=out), seconds) / 1e9


def copy_bandwidth(seconds: float = 0.6) -> float:
    """Return GB/s (10^9 bytes, read plus written) of copying an array larger than most caches, with torch's threads."""
    size = min(_COPY_BYTES, machine.memory_available() // 8)
    source = torch.ones(max(size // 4, 1))
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _median_time(lambda: target.copy_(source), seconds) / 1e9


def write_speed(folder: Path) -> float | None:
    """Return MB/s (10^6 bytes) of writing a file and forcing it to the disk, or None if the folder refuses it."""
    block = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            start = time.perf_counter()
            written = 0
            while written < _WRITE_BYTES and time.perf_counter() - start < 1.5:
                written += file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return written / (time.perf_counter() - start) / 1e6
    except OSError:
        return None


def load_of_others(seconds: float = 0.4) -> dict[str, Any]:
    """Return how much of the machine other processes use while this one sleeps.

    Args:
        seconds: How long to watch.

    Returns:
        `cores`: how many cores are busy; `process`: name and id of the busiest other process, None when none uses as
        much as a tenth of a core.
    """
    before = _processor_times()
    busy_before, start = _busy_seconds(), time.perf_counter()
    time.sleep(seconds)
    elapsed = time.perf_counter() - start
    busy = max(0.0, _busy_seconds() - busy_before) / elapsed
    after = _processor_times()
    used = {key: (after[key] - before[key]) / elapsed for key in after.keys() & before.keys()}
    (pid, name), most = max(used.items(), key=lambda item: item[1], default=((0, ""), 0.0))
    return {"cores": busy, "process": f"{name} (process {pid})" if most >= 0.1 else None}


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def _processor_times() -> dict[tuple[int, str], float]:
    found = {}
    for process in psutil.process_iter(["name", "cpu_times"]):
        times = process.info["cpu_times"]
        if process.pid != os.getpid() and times is not None:
            found[process.pid, process.info["name"] or "?"] = times.user + times.system
    return found


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads inside the block, and as many as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _median_time(call: Callable[[], object], seconds: float) -> float:
    call()
    times = []
    stop = time.perf_counter() + seconds
    while not times or (time.perf_counter() < stop and len(times) < 50):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
