# SPDX-License-Identifier: Apache-2.0
"""How fast this CPU multiplies and factorizes, measured once and kept in a small file."""

import contextlib
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch

SIZES = (64, 256, 768)
#: The fastest of at least so many runs, and of as many as fit in a tenth of a second: another process can stop a
#: short run for a time slice.
_REPEATS, _LEAST_SECONDS = 5, 0.1
_LAYOUT = 1


@final
@dataclass(frozen=True)
class Rates:
    """Seconds that one square operation takes, for each of `SIZES`.

    Attributes:
        float32: Matrix product in float32.
        float64: Matrix product in float64.
        bfloat16: Matrix product in bfloat16.
        eigh: Symmetric eigenvalues and vectors in float64.
        eigh32: The same in float32.
        svd: Singular value decomposition in float32.
        svd64: The same in float64.
    """

    float32: tuple[float, ...]
    float64: tuple[float, ...]
    bfloat16: tuple[float, ...]
    eigh: tuple[float, ...]
    eigh32: tuple[float, ...]
    svd: tuple[float, ...]
    svd64: tuple[float, ...]

    def seconds(self, operation: str, size: int) -> float:
        """Predict the time of a square operation, log-log interpolated and cubic beyond the ends.

        Args:
            operation: Name of a field.
            size: Rows of the square matrix, 1 or more.

        Returns:
            Seconds.
        """
        times = getattr(self, operation)
        if size > SIZES[-1]:
            return times[-1] * (size / SIZES[-1]) ** 3
        logs = np.interp(np.log(size), np.log(SIZES), np.log(times))
        return float(np.exp(logs))


_memory: dict[str, Rates] = {}
_override: list[Rates] = []


def cache_file() -> pathlib.Path:
    """Return the path of the file that keeps the measurements: `steepest/polar.json` in the user's cache folder.

    Returns:
        `$XDG_CACHE_HOME/steepest/polar.json`, or the same under `~/.cache`. Deleting it is safe: the next automatic
        choice measures again. It is keyed by processor, torch version and number of threads.
    """
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "steepest" / "polar.json"


def current_rates() -> Rates:
    """Return the rates of this machine at torch's present number of threads, measuring them when they are not known.

    Returns:
        The rates in force: those of `fixed_rates`, of this process, of the cache file, or new ones (about 3 s, once).
    """
    if _override:
        return _override[-1]
    key = f"{_LAYOUT}|{_processor()}|torch {torch.__version__}|threads {torch.get_num_threads()}"
    if key not in _memory:
        _memory[key] = _read(key) or _measure_and_write(key)
    return _memory[key]


@contextlib.contextmanager
def fixed_rates(rates: Rates) -> Iterator[None]:
    """Take these rates instead of measuring, so that every automatic choice is the same on every machine.

    Args:
        rates: What to believe inside the `with` block (in all threads of the process).

    Yields:
        Nothing.
    """
    _override.append(rates)
    try:
        yield
    finally:
        _override.pop()


def measure_rates() -> Rates:
    """Time every operation of `Rates` on this machine: the fastest of five runs or more, after a warm-up.

    Returns:
        New rates; nothing is stored.
    """

    def times(prepare: Callable[[torch.Tensor], torch.Tensor], run: Callable[[torch.Tensor], object]) -> tuple:
        generator = torch.Generator().manual_seed(0)
        return tuple(_time(prepare(torch.randn(n, n, generator=generator)), run) for n in SIZES)

    return Rates(
        float32=times(lambda x: x, lambda x: x @ x),
        float64=times(lambda x: x.double(), lambda x: x @ x),
        bfloat16=times(lambda x: x.bfloat16(), lambda x: x @ x),
        eigh=times(lambda x: (x @ x.T).double(), torch.linalg.eigh),
        eigh32=times(lambda x: x @ x.T, torch.linalg.eigh),
        svd=times(lambda x: x, lambda x: torch.linalg.svd(x, full_matrices=False)),
        svd64=times(lambda x: x.double(), lambda x: torch.linalg.svd(x, full_matrices=False)),
    )


def _time(x: torch.Tensor, run: Callable[[torch.Tensor], object]) -> float:
    run(x)
    spans = []
    while len(spans) < _REPEATS or sum(spans) < _LEAST_SECONDS:
        start = time.perf_counter()
        run(x)
        spans.append(time.perf_counter() - start)
    return min(spans)


def _processor() -> str:
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {os.cpu_count()} cores"


def _entries() -> dict[str, dict[str, list[float]]]:
    try:
        entries = json.loads(cache_file().read_text())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _read(key: str) -> Rates | None:
    try:
        return Rates(**{name: tuple(map(float, times)) for name, times in _entries()[key].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # absent, or of another layout: measure


def _measure_and_write(key: str) -> Rates:
    rates = measure_rates()
    path = cache_file()
    with contextlib.suppress(OSError):  # a read-only home costs one measurement a process
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**_entries(), key: asdict(rates)}, indent=1))
        temporary.replace(path)
    return rates
