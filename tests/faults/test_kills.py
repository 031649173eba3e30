"""Runs that are killed at any moment lose nothing but the steps since their last checkpoint."""

import json
import subprocess
import sys

import pytest

from tests.faults.killed import EVERY


def killed(what: str, folder, number: int, settings: list[str], seed: int = 0) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.killed", what, str(folder), str(number), str(seed), *settings],
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_at_random_moments(settings, tmp_path, kills):
    found = killed("training", tmp_path, kills, settings)
    assert found["kills"] == kills
    assert found["most_lost"] <= EVERY
    assert found["same"]


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_the_file_operations_of_a_checkpoint(settings, tmp_path, stride):
    """Every one of them in turn (each seventh here): the checkpoint before or the new one, whole."""
    found = killed("checkpoints", tmp_path, stride, settings)
    assert found["kills"] >= 5
    assert str(2 * EVERY) in found["found"]
    if stride == 1:
        assert set(found["found"]) == {str(2 * EVERY), str(3 * EVERY)}
