"""Killed at any moment, a run goes on to the same bytes."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_between_and_inside_tiles_it_recovers_the_exact_bytes(tmp_path, kills):
    command = [sys.executable, "-W", "error", "-m", "tests.train.offload.killing", str(tmp_path), str(kills), "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == kills
    assert not [line for line in lines if not line.endswith("same bytes")]
    assert sum("killed" in line for line in lines) >= kills // 2  # those at a write are for certain
