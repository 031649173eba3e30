"""Whole runs with the states on a disk."""

import signal
import subprocess

import pytest
import torch
from safetensors.torch import load_file

from steepest.train.session import resume, start
from tests.train.runs import assert_same_run, command, configured, newest, wait_for


@pytest.mark.parametrize(
    "more", [["train.clip=1"], ["train.clip=0", "optim.name=adamw"]], ids=["clipped", "overlapped"]
)
def test_a_run_is_the_same_with_its_states_on_a_disk(settings, tmp_path, more):
    settings = [*settings, "train.accumulation=2", "train.steps=10", "train.checkpoint_every=5", *more]
    start(configured(settings), out=tmp_path / "memory", quiet=True, pages=False)
    start(configured(settings), out=tmp_path / "disk", offload=tmp_path / "states", quiet=True, pages=False)
    assert_same_run(tmp_path / "memory", tmp_path / "disk")
    assert not (tmp_path / "states").exists()


def test_killed_and_resumed_with_and_without_a_disk_it_is_the_same_run(settings, tmp_path):
    settings = [*settings, "train.clip=1", "train.steps=30"]
    start(configured(settings), out=tmp_path / "whole", quiet=True, pages=False)
    killed = tmp_path / "killed"
    flags = ["--out", str(killed), "--offload", str(tmp_path / "states"), "--quiet"]
    process = subprocess.Popen(command(settings, *flags))
    wait_for(lambda: (killed / "checkpoints" / "step_00000010").exists(), 600)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resume(killed, offload=tmp_path / "states", quiet=True, pages=False)
    assert_same_run(tmp_path / "whole", killed)


def test_a_run_may_go_to_a_disk_and_back(settings, tmp_path):
    settings = [*settings, "train.schedule=constant", "train.eval_every=0"]
    start(configured(settings, "train.steps=15"), out=tmp_path / "whole", quiet=True, pages=False)
    run = start(configured(settings, "train.steps=5"), out=tmp_path / "run", quiet=True, pages=False).path
    resume(run, offload=tmp_path / "states", overrides=["train.steps=10"], quiet=True, pages=False)
    resume(run, overrides=["train.steps=15"], quiet=True, pages=False)
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, two = (load_file(newest(path) / name) for path in (tmp_path / "whole", run))
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)


def test_what_it_cannot_do_is_said(settings, tmp_path):
    with pytest.raises(ValueError, match="diagnose_every=0"):
        start(configured(settings, "train.diagnose_every=5"), out=tmp_path / "run", offload=tmp_path / "s", quiet=True)
