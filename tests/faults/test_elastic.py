"""A process of several dies, and torchrun starts all of them again."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from steepest.train.session import start
from tests.train.runs import configured, newest, rows, wait_for

pytestmark = pytest.mark.distributed


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 20], ids=["before a checkpoint", "after checkpoints"])
def test_a_process_that_dies_is_started_again_and_the_run_ends_as_it_would_have(settings, tmp_path, after):
    """The command stays `--out`: the second start finds the folder of the first and goes on."""
    settings = [*settings, "optim.name=adamw", "train.steps=60"]
    settings += ["train.checkpoint_every=1000"] if after == 0 else []
    start(configured(settings), out=tmp_path / "one", quiet=True, pages=False)
    flags = [part for setting in settings for part in ("--set", setting)]
    run = tmp_path / "two"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, "--max-restarts", "2", "-m", "steepest", "train", "--out", str(run), "--quiet", *flags]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    folder = run / "checkpoints" / f"step_{after:08d}" if after else run / "metrics.jsonl"
    wait_for(lambda: folder.exists() and (after or folder.stat().st_size > 0), 240)
    os.kill(second_process(process.pid), signal.SIGKILL)
    _, told = process.communicate(timeout=300)
    assert process.returncode == 0, told[-3000:]
    torch.testing.assert_close(
        torch.tensor([row["loss"] for row in rows(run)]),
        torch.tensor([row["loss"] for row in rows(tmp_path / "one")]),
        rtol=1e-3,
        atol=1e-3,
    )
    assert newest(run).name == "step_00000060"


def second_process(parent: int) -> int:
    """The child with RANK=1."""
    import psutil

    for child in psutil.Process(parent).children(recursive=True):
        if child.environ().get("RANK") == "1":
            return child.pid
    raise AssertionError("no process has rank 1")
