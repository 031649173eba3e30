import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

import steepest
from steepest.train import machine


def test_describe_is_json_and_true():
    found = json.loads(json.dumps(machine.describe()))
    assert found["steepest"] == steepest.__version__
    assert found["torch"] == torch.__version__
    assert found["threads"]["torch"] == torch.get_num_threads() == 1
    assert found["cpu"]["cores"] == len(psutil.Process().cpu_affinity())
    assert 0 < found["memory"]["available"] <= found["memory"]["limit"] <= found["memory"]["total"]
    assert found["cpu"]["torch_capability"] == torch.backends.cpu.get_cpu_capability()
    if found["cpu"]["torch_capability"] == "AVX512":
        assert "avx512f" in found["cpu"]["features"]
    assert found["blas"]["onednn_available"] == torch.backends.mkldnn.is_available()


def test_cores_follow_the_affinity_of_the_process():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    code += "from steepest.train import machine; print(machine.cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "1"


def test_peak_rss_sees_memory_that_was_used_and_given_back():
    # In a process of its own: what earlier tests freed would be used again and no peak would be new.
    code = (
        "import numpy as np; from steepest.train import machine; before = machine.peak_rss();"
        "block = np.ones(before + (64 << 20), dtype=np.uint8); del block;"
        "assert machine.peak_rss() >= before + (64 << 20)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_tightest_group_of_version_2_counts(tmp_path):
    write(tmp_path / "self", "0::/a/b\n")
    write(tmp_path / "root/a/memory.max", "1000000\n")
    write(tmp_path / "root/a/memory.current", "600000\n")
    write(tmp_path / "root/a/memory.stat", "anon 5\ninactive_file 100000\n")
    write(tmp_path / "root/a/b/memory.max", "max\n")
    write(tmp_path / "root/a/b/cpu.max", "150000 100000\n")
    write(tmp_path / "root/a/cpu.max", "max 100000\n")
    assert machine._cgroup_memory(tmp_path / "root", tmp_path / "self") == [(1000000, 500000)]
    assert machine.cpu_quota(tmp_path / "root", tmp_path / "self") == 1.5


def test_version_1_and_a_path_of_the_host(tmp_path):
    write(tmp_path / "self", "4:memory:/docker/xyz\n3:cpu,cpuacct:/docker/xyz\n0::/\n")
    write(tmp_path / "root/memory/memory.limit_in_bytes", "2000000\n")
    write(tmp_path / "root/memory/memory.usage_in_bytes", "500000\n")
    write(tmp_path / "root/cpu/cpu.cfs_quota_us", "50000\n")
    write(tmp_path / "root/cpu/cpu.cfs_period_us", "100000\n")
    assert machine._cgroup_memory(tmp_path / "root", tmp_path / "self") == [(2000000, 500000)]
    assert machine.cpu_quota(tmp_path / "root", tmp_path / "self") == 0.5


@pytest.mark.parametrize("limit", ["max", "9223372036854771712", ""])
def test_no_limit_is_no_limit(tmp_path, limit):
    write(tmp_path / "self", "4:memory:/x\n0::/x\n")
    write(tmp_path / "root/x/memory.max", limit)
    write(tmp_path / "root/memory/x/memory.limit_in_bytes", limit)
    write(tmp_path / "root/cpu/cpu.cfs_quota_us", "-1\n")
    assert machine._cgroup_memory(tmp_path / "root", tmp_path / "self") == []
    assert machine.cpu_quota(tmp_path / "root", tmp_path / "self") is None


def test_memory_limit_is_the_lower_of_machine_and_group(monkeypatch):
    total = psutil.virtual_memory().total
    monkeypatch.setattr(machine, "_cgroup_memory", lambda: [(total // 2, total // 2 - 1000), (2 * total, 0)])
    assert machine.memory_limit() == total // 2
    assert machine.memory_available() <= 1000


def test_git_commit_is_that_of_a_tracked_file_only(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert machine.git_commit(tmp_path / "a.py") is None
    git("init", "-q")
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("1")
    git("add", "a.py")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "HEAD")
    assert machine.git_commit(tmp_path / "a.py") == commit
    assert machine.git_commit(tmp_path / "b.py") is None
    (tmp_path / "a.py").write_text("2")
    assert machine.git_commit(tmp_path / "a.py") == f"{commit}+changes"


def test_linear_algebra_of_another_build():
    found = machine._linear_algebra("  - OpenMP 201511 (a)\n  - Build settings: BLAS_INFO=open, BUILD_TYPE=Release")
    assert found["library"] == "open"
    assert found["mkl"] is None
    assert found["onednn"] is None


def test_bf16_speedup_is_a_ratio_of_times_that_leaves_the_threads_alone():
    ratio = machine.bf16_speedup(64)
    assert 0 < ratio < float("inf")
    assert torch.get_num_threads() == 1
