import json

import pytest
from typer.testing import CliRunner

from steepest.cli import build_app
from steepest.train import checkup, machine_speed

SPEED = {
    "matmul_gflops": {"float32": {"1": 100.0}, "bfloat16": {"1": 200.0}},
    "copy_gb_per_second": 20.0,
    "write_mb_per_second": 800.0,
    "others": {"cores": 0.0, "process": None},
}


@pytest.fixture
def run(monkeypatch):
    """Run the command with the measurements taken as given: they have tests of their own."""

    def call(*arguments, findings=()):
        monkeypatch.setattr(machine_speed, "measure", lambda folder: SPEED)
        monkeypatch.setattr(checkup, "diagnose", lambda *facts: list(findings))
        return CliRunner().invoke(build_app(), ["doctor", *arguments])

    return call


def test_all_is_well(run):
    done = run()
    assert done.exit_code == 0
    assert "Nothing is wrong." in done.output
    assert "200 GFLOP/s with 1 thread" in done.output


def test_a_warning_is_printed_and_exits_zero(run):
    done = run(findings=[checkup.Finding("warning", "slow [disk]", "buy another")])
    assert done.exit_code == 0
    assert "warning: slow [disk]." in done.output
    assert "buy another." in done.output


def test_something_broken_exits_one(run):
    done = run("--json", findings=[checkup.Finding("broken", "a", "b")])
    assert done.exit_code == 1
    printed = json.loads(done.output)
    assert printed["findings"] == [{"level": "broken", "what": "a", "remedy": "b"}]
    assert printed["environment"]["threads"]["torch"] == 1
    assert printed["speed"] == SPEED
