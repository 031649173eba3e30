"""Two processes, each with the states of its own shards on a disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from steepest.optim import AdamW
from steepest.train.offload import Offload
from tests.train.offload.test_offload import net

pytestmark = pytest.mark.distributed
LAUNCH = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(folder: Path, *names: str) -> None:
    command = [*LAUNCH, "-m", "tests.train.offload.sharded", str(folder), *names]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("all equal") == 2


def test_shards_on_disks_move_as_those_in_memory_and_fail_together(tmp_path):
    run(tmp_path, "twenty", "failures")
    folder = tmp_path / "wrong_use"
    for resume in (True, False):
        with pytest.raises(ValueError, match="holds the states of the shards of 2 processes, this run is one process"):
            Offload(AdamW(net()), folder, resume=resume)
    with Offload(AdamW(net()), folder, overwrite=True):
        assert not list(folder.glob("rank-*"))


@pytest.mark.slow
def test_every_method_and_option_takes_the_same_steps_on_shards(tmp_path):
    run(tmp_path, "others", "every")


@pytest.mark.slow
def test_killed_at_any_moment_shards_go_on_to_the_same_bytes(tmp_path):
    kills = 24
    command = [
        sys.executable,
        "-W",
        "error",
        "-m",
        "tests.train.offload.killing_shards",
        str(tmp_path),
        str(kills),
        "1",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == kills
    assert not [line for line in lines if not line.endswith("same bytes")]
    assert sum("killed" in line for line in lines) >= kills * 3 // 4  # those at a write are for certain
