# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a machine and what to do about it: rules over what `machine` and `machine_speed` found."""

import dataclasses
import importlib
import os
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, final

import steepest

_GIB = 1 << 30


@final
@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a checkup found.

    Attributes:
        level: `broken` (training fails or is far from what the machine can do) or `warning` (it costs something).
        what: What is wrong, with the number that shows it.
        remedy: What to do.
    """

    level: Literal["broken", "warning"]
    what: str
    remedy: str


Facts = Mapping[str, Any]


def diagnose(environment: Facts, speed: Facts, probes: Facts) -> list[Finding]:
    """Return everything that is wrong, the broken first.

    Args:
        environment: What `machine.describe()` returned.
        speed: What `machine_speed.measure()` returned.
        probes: What `probe()` returned.

    Returns:
        The findings; empty when all is well.
    """
    rules: list[Callable[[Facts, Facts, Facts], Iterator[Finding]]] = [_threads, _processor, _bf16, _memory, _storage]
    rules += [_load, _accelerator, _numba]
    found = [finding for rule in rules for finding in rule(environment, speed, probes)]
    return sorted(found, key=lambda finding: finding.level != "broken")


def probe(folder: Path) -> dict[str, Any]:
    """Try what can only be known by trying.

    Args:
        folder: Where runs would be written.

    Returns:
        `numba_error` (None when it compiled and ran a function), `folder_error`, `cache_error` and `temporary_error`
        (None when a file can be written there).
    """
    caches = [Path(os.environ["NUMBA_CACHE_DIR"])] if os.environ.get("NUMBA_CACHE_DIR") else _cache_folders()
    errors = [_write_error(cache) for cache in caches]
    return {
        "numba_error": _numba_error(),
        "folder_error": _write_error(folder),
        "cache_error": None if None in errors else f"{caches[0]}: {errors[0]}",
        "temporary_error": _write_error(Path(tempfile.gettempdir())),
    }


def _cache_folders() -> list[Path]:
    """Return where Numba keeps compiled functions: beside the source, or in the user's cache."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return [Path(steepest.__file__).parent / "__pycache__", user / "numba"]


def _write_error(folder: Path) -> str | None:
    # The nearest folder that exists decides: the missing ones would be made inside it.
    existing = next(parent for parent in (folder, *folder.resolve().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
    except OSError as error:
        return error.strerror or str(error)
    return None


def _numba_error() -> str | None:
    try:
        numba = importlib.import_module("numba")
        doubled = numba.njit("float32(float32)")(lambda x: x * 2)
        return None if doubled(21.0) == 42.0 else "a compiled function gave a wrong result"
    except Exception as error:  # whatever it raises is the finding
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _threads(environment: Facts, speed: Facts, probes: Facts) -> Iterator[Finding]:
    cores, quota = environment["cpu"]["cores"], environment["cpu"]["quota"]
    threads = environment["threads"]["torch"]
    named = next((n for n in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if environment["threads"].get(n)), None)
    mend = f"change {named}={environment['threads'][named]}" if named else "call torch.set_num_threads"
    if threads > cores:
        yield Finding("broken", f"torch uses {threads} threads on {cores} cores", f"{mend} to at most {cores}")
    elif quota is not None and threads > max(1.0, quota) * 1.01:
        what = f"torch uses {threads} threads, but the control group allows {quota:.1f} cores' worth of time"
        yield Finding("warning", what, f"set OMP_NUM_THREADS={max(1, int(quota))}")
    elif threads < min(cores, environment["cpu"]["physical_cores_of_machine"] or cores):
        idle = f"torch uses {threads} of {cores} cores"
        yield Finding("warning", idle, f"{mend} to {cores}" if named else f"set OMP_NUM_THREADS={cores}")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        value = environment["threads"].get(name)
        if value is not None and not all(part.strip().isdigit() and int(part) > 0 for part in value.split(",")):
            yield Finding("broken", f"{name}={value!r} is not a number of threads", f"unset it or set it to {cores}")


def _processor(environment: Facts, speed: Facts, probes: Facts) -> Iterator[Finding]:
    cpu = environment["cpu"]
    if cpu["torch_capability"] == "DEFAULT":
        yield Finding(
            "warning",
            "torch uses no vector instructions beyond the baseline (no AVX2)",
            "use a processor with AVX2; inside a virtual machine, pass the host's CPU model through; and unset "
            "ATEN_CPU_CAPABILITY",
        )
    elif "avx512f" in cpu["features"] and cpu["torch_capability"] == "AVX2" and os.environ.get("ATEN_CPU_CAPABILITY"):
        yield Finding("warning", "ATEN_CPU_CAPABILITY keeps torch from AVX-512", "unset ATEN_CPU_CAPABILITY")
    if not environment["blas"]["onednn_available"]:
        yield Finding(
            "warning", "torch was built without oneDNN: bfloat16 is slow", "install torch from its own wheels"
        )


def _bf16(environment: Facts, speed: Facts, probes: Facts) -> Iterator[Finding]:
    single, half = speed["matmul_gflops"]["float32"], speed["matmul_gflops"]["bfloat16"]
    most = max(single, key=int)
    ratio = half[most] / single[most]
    if ratio < 1:
        what = (
            f"bfloat16 products run at {ratio:.2f} times the speed of float32: this processor has no support for them"
        )
        yield Finding("warning", what, "train in float32")
    if int(most) > 1 and single[most] < 1.3 * single["1"]:
        what = f"{most} threads are only {single[most] / single['1']:.2f} times as fast as one in float32 products"
        yield Finding("warning", what, "look for other load, a quota, or cores that share one physical core")


def _memory(environment: Facts, speed: Facts, probes: Facts) -> Iterator[Finding]:
    available = environment["memory"]["available"]
    if available < _GIB:
        level, remedy = "broken", "close other programs or raise the limit; the default run needs about 1 GiB"
    elif available < 2 * _GIB:
        level, remedy = "warning", "take a small model and batch, or free memory"
    else:
        return
    yield Finding(level, f"only {available / _GIB:.1f} GiB of memory are free", remedy)


def _storage(environment: Facts, speed: Facts, probes: Facts) -> Iterator[Finding]:
    folder, free = environment["disk"]["folder"], environment["disk"]["free"]
    if probes["folder_error"]:
        what = f"no file can be written in {folder}: {probes['folder_error']}"
        yield Finding("broken", what, "go to a folder of your own before you start a run")
    elif free < _GIB:
        level = "broken" if free < _GIB // 8 else "warning"
        yield Finding(level, f"only {free / 2**20:.0f} MiB are free in {folder}", "make room: checkpoints take space")
    write = speed["write_mb_per_second"]
    if write is not None and write < 20:
        yield Finding(
            "warning", f"the disk writes {write:.0f} MB/s: checkpoints will be slow", "put runs on a local disk"
        )
    if probes["temporary_error"]:
        what = f"the temporary folder cannot be written: {probes['temporary_error']}"
        yield Finding("broken", what, "set TMPDIR to a folder that you can write to")
    if probes["cache_error"]:
        what = f"compiled kernels cannot be kept: {probes['cache_error']}"
        yield Finding("warning", what, "set NUMBA_CACHE_DIR to a folder that you can write to")


def _load(environment: Facts, speed: Facts, probes: Facts) -> Iterator[Finding]:
    others = speed["others"]
    if others["cores"] > 0.5:
        busiest = f", most of all {others['process']}" if others["process"] else ""
        what = f"other processes keep {others['cores']:.1f} cores busy{busiest}"
        yield Finding("warning", what, "wait for them before you measure anything; training will be slower meanwhile")


def _accelerator(environment: Facts, speed: Facts, probes: Facts) -> Iterator[Finding]:
    if environment["accelerator"]["cuda_build"] and not environment["accelerator"]["cuda_devices"]:
        yield Finding(
            "warning",
            f"torch was built for CUDA {environment['accelerator']['cuda_build']}, but finds no GPU",
            "with a GPU, check its driver with nvidia-smi; without one, the CPU build of torch is several GB smaller",
        )


def _numba(environment: Facts, speed: Facts, probes: Facts) -> Iterator[Finding]:
    if probes["numba_error"]:
        versions = (
            f"numba {environment['numba']}, numpy {environment['numpy']}, Python {sysconfig.get_python_version()}"
        )
        yield Finding(
            "broken",
            f"numba does not work ({probes['numba_error']})",
            f"install a numba that supports what is here: {versions}",
        )
