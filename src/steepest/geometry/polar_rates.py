# SPDX-License-Identifier: Apache-2.0
"""How fast a CPU multiplies and factorizes: from a table by its instructions, or measured on request and kept."""

import contextlib
import functools
import json
import math
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
_LAYOUT = 2


@final
@dataclass(frozen=True)
class Rates:
    """Seconds that one square operation takes, for each of `SIZES`.

    Attributes:
        float32: Matrix product in float32.
        float64: Matrix product in float64.
        bfloat16: Matrix product in bfloat16; infinite where the processor has no instruction for it.
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
        """Predict the time of a square operation: log-log interpolated, beyond the largest size by a power.

        The power is 3, and 3.6 for singular value decompositions, whose sweeps leave the caches there.

        Args:
            operation: Name of a field.
            size: Rows of the square matrix, 1 or more.

        Returns:
            Seconds.
        """
        times = getattr(self, operation)
        if math.inf in times:
            return math.inf
        if size > SIZES[-1]:
            return times[-1] * (size / SIZES[-1]) ** (_SVD_GROWTH if operation in ("svd", "svd64") else 3)
        logs = np.interp(np.log(size), np.log(SIZES), np.log(times))
        return float(np.exp(logs))


#: One thread of an AMD EPYC 9004 (AVX512-BF16), fitted to the recorded times of whole methods. Decides where bfloat16
#: products are an instruction, but not one of tiles.
_NATIVE_BFLOAT16 = Rates(
    float32=(1.2e-5, 5.1e-4, 1.0e-2),
    float64=(2.4e-5, 8.9e-4, 2.0e-2),
    bfloat16=(1.0e-5, 2.3e-4, 4.7e-3),
    eigh=(3.0e-4, 8.1e-3, 1.12e-1),
    eigh32=(2.0e-4, 1.9e-3, 5.1e-2),
    svd=(3.0e-4, 6.3e-3, 1.51e-1),
    svd64=(4.0e-4, 1.1e-2, 2.3e-1),
)
#: The same of an AMD EPYC 7001 (AVX2), for every other processor.
_NO_BFLOAT16 = Rates(
    float32=(2.0e-5, 8.3e-4, 2.18e-2),
    float64=(4.1e-5, 1.9e-3, 4.4e-2),
    bfloat16=(math.inf,) * len(SIZES),
    eigh=(5.0e-4, 1.1e-2, 1.57e-1),
    eigh32=(3.7e-4, 3.6e-3, 6.5e-2),
    svd=(7.3e-4, 1.18e-2, 2.22e-1),
    svd64=(1.0e-3, 1.8e-2, 3.3e-1),
)
#: The same of an Intel Xeon of the fifth generation, which multiplies bfloat16 in tiles (AMX): measured operations.
_TILES = Rates(
    float32=(6.7e-6, 2.5e-4, 6.8e-3),
    float64=(1.1e-5, 5.0e-4, 1.43e-2),
    bfloat16=(2.7e-5, 7.8e-5, 1.2e-3),
    eigh=(3.0e-4, 6.0e-3, 9.6e-2),
    eigh32=(2.6e-4, 4.0e-3, 5.2e-2),
    svd=(5.3e-4, 8.9e-3, 1.36e-1),
    svd64=(7.0e-4, 1.15e-2, 2.26e-1),
)
#: With p threads an operation of `SIZES` is p to this power times faster, up to `_MOST_THREADS`: products, the others.
_PRODUCT_SPEEDUP, _FACTOR_SPEEDUP = (0.0, 0.15, 0.73), (0.0, -0.12, 0.54)
_MOST_THREADS = 16
_PRODUCTS = ("float32", "float64", "bfloat16")
#: Measured from 768 to 1024 rows on AVX2: 3.6 for one thread, 3.8 for two; eigenvalues stay at 3.
_SVD_GROWTH = 3.6

_memory: dict[str, Rates | None] = {}
_override: list[Rates] = []


def fast_dtype() -> torch.dtype:
    """Return the faster dtype for the products of a polar iteration on this CPU; nothing is measured.

    Returns:
        bfloat16 where the processor has an instruction for its products (AVX512-BF16, AMX, the Arm extension), else
        float32: emulated bfloat16 products are about 20 times slower than float32 ones.

    Example:
        >>> fast_dtype() in (torch.bfloat16, torch.float32)
        True
    """
    return torch.bfloat16 if _has_bfloat16() else torch.float32


@functools.cache
def _has_bfloat16() -> bool:
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if any(getattr(torch.cpu, name, bool)() for name in names):
        return True
    on_arm = platform.machine() in ("aarch64", "arm64")
    return on_arm and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@functools.cache
def has_tiles() -> bool:
    """Say whether the processor multiplies bfloat16 matrices in tiles (AMX).

    Returns:
        Whether torch sees the instruction.
    """
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def nominal_rates(threads: int | None = None) -> Rates:
    """Return the table for this kind of processor: nothing is measured, so the choice is the same in every process.

    Args:
        threads: Number of threads, 1 or more; None takes torch's present number.

    Returns:
        Times of a processor with tiles for bfloat16 products, with instructions for them, or with neither. Only their
        ratios matter to a choice.
    """
    tiles, native = has_tiles(), _has_bfloat16()
    base = _TILES if tiles and native else _NATIVE_BFLOAT16 if native else _NO_BFLOAT16
    return _with_threads(base, min(threads or torch.get_num_threads(), _MOST_THREADS))


@functools.cache
def _with_threads(base: Rates, count: int) -> Rates:

    def scaled(name: str, times: tuple[float, ...]) -> tuple[float, ...]:
        powers = _PRODUCT_SPEEDUP if name in _PRODUCTS else _FACTOR_SPEEDUP
        return tuple(time / count**power for time, power in zip(times, powers, strict=True))

    return Rates(**{name: scaled(name, times) for name, times in asdict(base).items()})


def cache_file() -> pathlib.Path:
    """Return the path of the file that `calibrate` writes: `steepest/polar.json` in the user's cache folder.

    Returns:
        `$XDG_CACHE_HOME/steepest/polar.json`, or the same under `~/.cache`. Deleting it is safe: choices go by the
        table again. It is keyed by processor, torch version and number of threads.
    """
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "steepest" / "polar.json"


def current_rates() -> Rates:
    """Return the rates in force at torch's present number of threads. Never measures.

    Returns:
        Those of `fixed_rates`, else those that `calibrate` has stored for this machine, else `nominal_rates`.
    """
    if _override:
        return _override[-1]
    key = _key()
    if key not in _memory:
        _memory[key] = _read(key)
    return _memory[key] or nominal_rates()


def calibrate() -> Rates:
    """Measure this machine at torch's present number of threads (some seconds) and keep the result for all processes.

    Worth it on a processor unlike those of the table; the machine should do nothing else meanwhile.

    Returns:
        The rates, which automatic choices use from now on.
    """
    rates, key, path = measure_rates(), _key(), cache_file()
    _memory[key] = rates
    with contextlib.suppress(OSError):  # a read-only home: this process alone profits
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps({**_entries(), key: asdict(rates)}, indent=1))
        temporary.replace(path)
    return rates


@contextlib.contextmanager
def fixed_rates(rates: Rates) -> Iterator[None]:
    """Take these rates, so that every automatic choice is the same on every machine.

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
        bfloat16=(times(lambda x: x.bfloat16(), lambda x: x @ x) if _has_bfloat16() else (math.inf,) * len(SIZES)),
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


def _key() -> str:
    processor = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {os.cpu_count()} cores"
    return f"{_LAYOUT}|{processor}|torch {torch.__version__}|threads {torch.get_num_threads()}"


def _entries() -> dict[str, dict[str, list[float]]]:
    try:
        entries = json.loads(cache_file().read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _read(key: str) -> Rates | None:
    try:
        return Rates(**{name: tuple(map(float, times)) for name, times in _entries()[key].items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # absent, or of another layout
