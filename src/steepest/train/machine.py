# SPDX-License-Identifier: Apache-2.0
"""What this process runs on: versions, processor, memory, disk; and how fast bfloat16 is here."""

import importlib.metadata
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import torch

import steepest

#: Instruction sets that matter to the kernels, as Linux names them (x86, then Arm).
_FEATURES = (
    "avx",
    "avx2",
    "fma",
    "f16c",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "asimd",
    "sve",
    "sve2",
    "bf16",
    "i8mm",
)
#: What a user may set for the threads of OpenMP, MKL and Numba.
_THREAD_SETTINGS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "GOMP_SPINCOUNT",
    "OMP_WAIT_POLICY",
)
#: A cgroup without a limit of its own says so by a number beyond any memory.
_NO_LIMIT = 1 << 60
#: bfloat16 is taken where matrix products gain at least this factor: below it the casts cost more than they save.
_BF16_PAYS_FROM = 1.3


def describe() -> dict[str, Any]:
    """Describe software and hardware, as a run records them beside its results.

    Returns:
        A nested dictionary of what JSON can hold. Unknown entries are None. Top-level keys: `steepest`, `python`,
        `torch`, `numpy`, `numba` (versions), `git` (commit, with `+changes` when files differ from it), `os`, `cpu`,
        `threads`, `blas`, `accelerator`, `memory` and `disk` (bytes).

    Example:
        >>> describe()["threads"]["torch"] >= 1
        True
    """
    return {
        "steepest": steepest.__version__,
        "git": git_commit(Path(steepest.__file__)),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "torch": str(torch.__version__),
        "numpy": _version("numpy"),
        "numba": _version("numba"),
        "os": _operating_system(),
        "cpu": _processor(),
        "threads": {
            "torch": torch.get_num_threads(),
            "interop": torch.get_num_interop_threads(),
            **{name: os.environ.get(name) for name in _THREAD_SETTINGS},
        },
        "blas": _linear_algebra(torch.__config__.show()),
        "accelerator": {"cuda_build": torch.version.cuda, "cuda_devices": torch.cuda.device_count()},
        "memory": {
            "total": psutil.virtual_memory().total,
            "limit": memory_limit(),
            "available": memory_available(),
        },
        "disk": {"folder": str(Path.cwd()), "free": shutil.disk_usage(Path.cwd()).free},
    }


def describe_for_record() -> dict[str, Any]:
    """Return what a kept measurement says of its machine: `describe` without the moment's memory, disk and folders."""
    return {key: value for key, value in describe().items() if key not in ("memory", "disk")}


def peak_rss() -> int:
    """Return the most resident memory that this process has had, in bytes."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", _read("/proc/self/status") or "", re.MULTILINE)
    if match:
        return int(match.group(1)) * 1024
    # getrusage also counts what the process was before exec, so it is the second choice.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_limit() -> int:
    """Return the bytes that this process may use: the machine's memory or the control group's limit, if lower."""
    limits = [limit for limit, _ in _cgroup_memory()]
    return min([psutil.virtual_memory().total, *limits])


def memory_available() -> int:
    """Return the bytes that can be had now without swapping, within the control group's limit."""
    free = [limit - used for limit, used in _cgroup_memory()]
    return max(0, min([psutil.virtual_memory().available, *free]))


def cores() -> int:
    """Return how many cores this process may run on, by affinity; a control group's quota is not counted."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return how many cores' worth of time the control group allows, or None without a quota.

    Args:
        root: Where control groups are mounted.
        membership: The file that says which ones this process is in.

    Returns:
        The tightest quota on the way up, in cores.
    """
    quotas = []
    for folder in _cgroup_folders("cpu", root, membership):
        words = (_read(folder / "cpu.max") or "").split()
        if not words:
            words = [(_read(folder / f"cpu.cfs_{name}_us") or "").strip() for name in ("quota", "period")]
        if len(words) == 2 and all(re.fullmatch(r"\d+", word) for word in words) and int(words[1]):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def bf16_speedup(size: int = 768) -> float:
    """Measure how much faster a matrix product is in bfloat16 than in float32, with the current number of threads.

    Takes well under a second. Above 1 bfloat16 pays; without hardware for it the answer may be far below.

    Args:
        size: Rows and columns of the square matrices, at least 1.

    Returns:
        Median float32 time over median bfloat16 time.

    Numerics:
        The two are timed in turn, so that a change of clock or load meets both.
    """
    generator = torch.Generator().manual_seed(0)
    single = torch.randn(size, size, generator=generator)
    pairs = {torch.float32: single, torch.bfloat16: single.bfloat16()}
    times: dict[torch.dtype, list[float]] = {dtype: [] for dtype in pairs}
    stop = time.perf_counter() + 0.7
    for matrix in pairs.values():
        torch.mm(matrix, matrix)  # the first product also chooses and compiles the kernel
    while len(times[torch.float32]) < 9 and (time.perf_counter() < stop or not times[torch.float32]):
        for dtype, matrix in pairs.items():
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            times[dtype].append(time.perf_counter() - start)
    return statistics.median(times[torch.float32]) / statistics.median(times[torch.bfloat16])


def training_precision(wanted: str) -> str:
    """Return the precision to train in: what is wanted, or for `"auto"` what pays here by `bf16_speedup`."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if bf16_speedup() >= _BF16_PAYS_FROM else "float32"


def git_commit(file: Path) -> str | None:
    """Return the commit of the checkout that `file` is tracked in, with `+changes` when the work tree differs.

    A package installed into somebody else's repository is not tracked there and has no commit.

    Args:
        file: A file of the package.

    Returns:
        The full hash, or None without git or without such a checkout.
    """
    file = file.resolve()

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+changes" if changed else commit


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _operating_system() -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release") or "", re.MULTILINE)
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return f"{name.group(1)}, {system}" if name else system


def _processor() -> dict[str, Any]:
    info = _read("/proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model|Processor)\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    present = set(flags.group(1).split()) if flags else set()
    return {
        "model": model.group(1).strip() if model else platform.processor() or None,
        "cores": cores(),
        "cores_of_machine": os.cpu_count(),
        "physical_cores_of_machine": psutil.cpu_count(logical=False),
        "quota": cpu_quota(),
        "features": [name for name in _FEATURES if name in present],
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "caches": _caches(Path("/sys/devices/system/cpu/cpu0/cache")),
    }


def _caches(folder: Path) -> dict[str, str]:
    """Return cache name -> size as the kernel prints it, such as `{"L1 data": "32K"}`."""
    found = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = ((_read(index / name) or "").strip() for name in ("level", "type", "size"))
        if level and size:
            found[f"L{level}" if kind == "Unified" else f"L{level} {kind.lower()}"] = size
    return found


def _linear_algebra(config: str) -> dict[str, Any]:
    """Parse the text of `torch.__config__.show()`."""

    def find(pattern: str) -> str | None:
        match = re.search(pattern, config)
        return match.group(1).strip() if match else None

    return {
        "library": find(r"BLAS_INFO=(\w+)"),
        "mkl": find(r"Math Kernel Library Version ([\w.]+)"),
        "onednn": find(r"MKL-DNN v([\d.]+)"),
        "onednn_available": torch.backends.mkldnn.is_available(),
        "openmp": find(r"OpenMP (\d+)"),
        "built_with_instructions": find(r"CPU capability usage: (\w+)"),
    }


def _cgroup_memory(
    root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> list[tuple[int, int]]:
    """Return (limit, bytes in use and not reclaimable) of every control group with a memory limit on the way up."""
    found = []
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    for folder in _cgroup_folders("memory", root, membership):
        for limit_name, used_name in names:
            limit, used = ((_read(folder / name) or "").strip() for name in (limit_name, used_name))
            if limit.isdigit() and int(limit) < _NO_LIMIT:
                cache = re.search(r"^(?:total_)?inactive_file (\d+)", _read(folder / "memory.stat") or "", re.MULTILINE)
                reclaimable = int(cache.group(1)) if cache else 0
                found.append((int(limit), max(0, (int(used) if used.isdigit() else 0) - reclaimable)))
    return found


def _cgroup_folders(controller: str, root: Path, membership: Path) -> list[Path]:
    """Return the folders of this process's control group and its parents, of version 1 and 2."""
    folders: dict[Path, None] = {}
    for line in (_read(membership) or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / controller if controllers else root
        inside = mount / path.lstrip("/")
        # In a container the path may be that of the host; what is mounted is then the group itself.
        while inside != mount and mount in inside.parents:
            folders[inside] = None
            inside = inside.parent
        folders[mount] = None
    return [folder for folder in folders if folder.is_dir()]


def _read(path: str | Path) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
