"""Whole sharded runs with the states on disks."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from steepest.train.session import resume, start
from steepest.train.sharded_reading import SafeReader, read_shards
from tests.train.runs import assert_same_run, configured, newest, rows, wait_for

pytestmark = pytest.mark.distributed
LAUNCH = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
SHORT = ["train.steps=3", "train.warmup=1", "train.schedule=constant", "train.eval_every=0"]


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([*LAUNCH, *arguments], stderr=subprocess.PIPE, text=True, env=environment)


def run(jobs: list) -> None:
    process = torchrun("-m", "tests.train.offload.sharded_runs", json.dumps(jobs))
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors[-4000:]


def content(path: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """All tensors of a sharded checkpoint, whole, and the names of its other values."""
    index = SafeReader(path / "shards").read_metadata().state_dict_metadata
    tensors = {
        key: torch.empty(entry.size, dtype=entry.properties.dtype)
        for key, entry in index.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    read_shards(path / "shards", tensors)
    return tensors, sorted(index.keys() - tensors.keys())


def assert_same(one: Path, two: Path) -> None:
    (here, names), (there, others) = content(newest(one)), content(newest(two))
    assert names == others
    assert here.keys() == there.keys()
    assert any("optimizer.state" in key for key in here)
    for key, tensor in here.items():
        assert torch.equal(tensor, there[key]), key


def numbers(path: Path) -> dict:
    state = json.loads((newest(path) / "state.json").read_text())
    return state["optimizers"]


def test_sharded_runs_are_the_same_with_their_states_on_disks(settings, tmp_path):
    jobs = []
    for name, clip in (("adamw", 0), ("muon", 1), ("sinkgd", 0)):
        mine = [*settings, f"optim.name={name}", f"train.clip={clip}", "train.accumulation=2", "train.steps=6"]
        jobs.append(["start", str(tmp_path / f"{name} memory"), mine, ""])
        jobs.append(["start", str(tmp_path / f"{name} disk"), mine, str(tmp_path / f"{name} states")])
    mine = [*settings, *SHORT, "optim.name=muon"]
    whole = [*mine, "train.steps=6"]
    start(configured(mine), out=tmp_path / "alone", quiet=True, pages=False)
    shutil.copytree(tmp_path / "alone", tmp_path / "alone, disks")
    jobs += [
        ["start", str(tmp_path / "whole"), whole, ""],
        ["start", str(tmp_path / "disk, memory"), mine, str(tmp_path / "a")],
        ["resume", str(tmp_path / "disk, memory"), ["train.steps=6"], ""],
        ["start", str(tmp_path / "memory, disk"), mine, ""],
        ["resume", str(tmp_path / "memory, disk"), ["train.steps=6"], str(tmp_path / "b")],
        ["resume", str(tmp_path / "alone"), ["train.steps=6"], ""],
        ["resume", str(tmp_path / "alone, disks"), ["train.steps=6"], str(tmp_path / "c")],
    ]
    run(jobs)
    for name in ("adamw", "muon", "sinkgd"):
        assert rows(tmp_path / f"{name} memory") == rows(tmp_path / f"{name} disk")
        assert_same(tmp_path / f"{name} memory", tmp_path / f"{name} disk")
        assert numbers(tmp_path / f"{name} memory") == numbers(tmp_path / f"{name} disk")
        assert not (tmp_path / f"{name} states").exists()
    for other in ("disk, memory", "memory, disk"):
        assert_same(tmp_path / "whole", tmp_path / other)
    assert_same(tmp_path / "alone", tmp_path / "alone, disks")
    # The shards of two processes go on in one, in memory and on a disk.
    shutil.copytree(tmp_path / "whole", tmp_path / "whole, disk")
    resume(tmp_path / "whole", overrides=["train.steps=9"], quiet=True, pages=False)
    resume(tmp_path / "whole, disk", overrides=["train.steps=9"], offload=tmp_path / "d", quiet=True, pages=False)
    assert_same_run(tmp_path / "whole", tmp_path / "whole, disk")


@pytest.mark.slow
def test_killed_and_resumed_by_the_command_a_sharded_run_is_the_same(settings, tmp_path):
    settings = [*settings, "train.steps=20", "train.checkpoint_every=5"]
    flags = [part for setting in settings for part in ("--set", setting)]
    train = ["-m", "steepest", "train", "--shard", "--quiet"]
    whole = torchrun(*train, "--out", str(tmp_path / "whole"), *flags)
    whole.communicate(timeout=300)
    assert whole.returncode == 0
    disks = ["--offload", str(tmp_path / "states")]
    killed = torchrun(*train, "--out", str(tmp_path / "killed"), *disks, *flags)
    wait_for(lambda: (tmp_path / "killed" / "checkpoints" / "step_00000005").exists(), 300)
    killed.send_signal(signal.SIGTERM)
    killed.communicate(timeout=300)
    again = torchrun(*train, "--resume", str(tmp_path / "killed"), *disks)
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors[-4000:]
    assert rows(tmp_path / "whole") == rows(tmp_path / "killed")
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert not (tmp_path / "states").exists()
