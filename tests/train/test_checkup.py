import copy
import sys

import pytest

from steepest.train import checkup
from steepest.train.checkup import diagnose, probe

ENVIRONMENT = {
    "numba": "0.63.0",
    "numpy": "2.3.0",
    "cpu": {
        "cores": 4,
        "quota": None,
        "physical_cores_of_machine": 4,
        "torch_capability": "AVX512",
        "features": ["avx2", "avx512f"],
    },
    "threads": {"torch": 4, "interop": 4, "OMP_NUM_THREADS": None, "MKL_NUM_THREADS": None, "NUMBA_NUM_THREADS": None},
    "blas": {"onednn_available": True},
    "accelerator": {"cuda_build": None, "cuda_devices": 0},
    "memory": {"available": 8 << 30},
    "disk": {"folder": "/here", "free": 50 << 30},
}
SPEED = {
    "matmul_gflops": {"float32": {"1": 100.0, "4": 380.0}, "bfloat16": {"1": 200.0, "4": 700.0}},
    "copy_gb_per_second": 20.0,
    "write_mb_per_second": 800.0,
    "others": {"cores": 0.1, "process": None},
}
PROBES = {"numba_error": None, "folder_error": None, "cache_error": None, "temporary_error": None}


def findings(changes):
    """Diagnose a healthy machine on which `changes` (dotted path -> value) went wrong."""
    parts = {"environment": ENVIRONMENT, "speed": SPEED, "probes": PROBES}
    parts = copy.deepcopy(parts)
    for path, value in changes.items():
        *way, key = path.split("/")
        place = parts
        for step in way:
            place = place[step]
        place[key] = value
    return diagnose(**parts)


def test_a_healthy_machine_has_no_finding():
    assert findings({}) == []


@pytest.mark.parametrize(
    ("changes", "level", "what", "remedy"),
    [
        ({"environment/threads/torch": 8}, "broken", "8 threads on 4 cores", "at most 4"),
        ({"environment/cpu/quota": 1.5}, "warning", "allows 1.5 cores", "OMP_NUM_THREADS=1"),
        (
            {"environment/threads/torch": 1, "environment/threads/OMP_NUM_THREADS": "1"},
            "warning",
            "1 of 4 cores",
            "OMP_NUM_THREADS=1 to 4",
        ),
        ({"environment/threads/OMP_NUM_THREADS": "many"}, "broken", "not a number", "unset it"),
        ({"environment/cpu/torch_capability": "DEFAULT"}, "warning", "no AVX2", "pass the host's CPU model"),
        ({"environment/blas/onednn_available": False}, "warning", "without oneDNN", "own wheels"),
        ({"speed/matmul_gflops/bfloat16/4": 95.0}, "warning", "0.25 times the speed of float32", "float32"),
        ({"speed/matmul_gflops/float32/4": 110.0}, "warning", "only 1.10 times as fast as one", "quota"),
        ({"environment/memory/available": 1 << 29}, "broken", "0.5 GiB", "close other programs"),
        ({"environment/memory/available": 3 << 29}, "warning", "1.5 GiB", "small model"),
        ({"environment/disk/free": 1 << 26}, "broken", "64 MiB", "make room"),
        ({"environment/disk/free": 1 << 29}, "warning", "512 MiB", "make room"),
        ({"probes/folder_error": "Permission denied"}, "broken", "/here: Permission denied", "folder of your own"),
        ({"probes/temporary_error": "Permission denied"}, "broken", "temporary folder", "TMPDIR"),
        ({"probes/cache_error": "/c: Read-only"}, "warning", "/c: Read-only", "NUMBA_CACHE_DIR"),
        ({"speed/write_mb_per_second": 3.0}, "warning", "3 MB/s", "local disk"),
        (
            {"speed/others": {"cores": 1.9, "process": "cc (process 7)"}},
            "warning",
            "most of all cc (process 7)",
            "wait",
        ),
        ({"environment/accelerator/cuda_build": "12.8"}, "warning", "CUDA 12.8, but finds no GPU", "CPU build"),
        ({"probes/numba_error": "ImportError: no"}, "broken", "ImportError: no", "numpy 2.3.0"),
    ],
)
def test_each_fault_is_found_and_alone(changes, level, what, remedy):
    (finding,) = findings(changes)
    assert finding.level == level
    assert what in finding.what
    assert remedy in finding.remedy


def test_what_is_broken_comes_first():
    found = findings({"environment/cpu/torch_capability": "DEFAULT", "probes/numba_error": "x"})
    assert [finding.level for finding in found] == ["broken", "warning"]


def test_probe_of_a_healthy_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache" / "deep"))
    assert probe(tmp_path) == dict.fromkeys(PROBES)
    assert list(tmp_path.iterdir()) == []


def test_probe_sees_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    # Root may write anywhere but under /proc, so that is where this is tried.
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/cache")
    found = probe(tmp_path)
    assert found["cache_error"].startswith("/proc/cache: ")
    assert probe(tmp_path.__class__("/proc"))["folder_error"]


def test_probe_tells_a_missing_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    assert checkup._numba_error().startswith("ModuleNotFoundError")
