"""`steepest plan` as a user types it."""

import json
import resource
import subprocess
import sys

import pytest

from tests.cli.test_train import run

CARD = "peak_tflops=165 device_memory=24GB host_memory=256GB pcie_gbps=25 nvme_read_gbps=12 nvme_write_gbps=6"
SMALL = ["--model", "nano", "--set", "data.tokenizer=bytes", "--set", "train.threads=1"]
SMALL += ["--set", "train.precision=float32", "--batch", "2", "--context", "32"]


def test_a_plan_as_json(tmp_path, capsys):
    folder = tmp_path / "disk"
    code, out, told = run(capsys, "plan", *SMALL, "--memory-limit", "100GB", "--offload", folder, "--json")
    assert code == 0, told
    plan = json.loads(out)
    assert plan["limit_bytes"] == 100 * 10**9
    assert plan["states_and_gradients"] == "memory"  # the disk cannot be faster
    assert plan["activations"] == {"keep": 2, "recompute": 0, "swap": 0}
    assert plan["predicted_peak_bytes"] == sum(row["memory"] for row in plan["where"])
    assert plan["predicted_disk_bytes"] == 0
    assert plan["predicted_step_seconds"] == pytest.approx(sum(plan["predicted_seconds"].values()))
    reasons = {other["states_and_gradients"]: other["reason"] for other in plan["alternatives"]}
    assert "train.clip=0" in reasons["overlapped"]
    assert "slower" in reasons["pipelined"]
    assert not folder.exists()


def test_tables_fit_into_80_columns(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, told = run(capsys, "plan", *SMALL, "--memory-limit", "8GiB", "--offload", tmp_path / "disk")
    assert code == 0, told
    assert max(map(len, out.splitlines())) <= 80
    assert "8.59 GB" in out
    for word in ("weights", "optimizer states", "predicted peak", "predicted step", "Not chosen"):
        assert word in out


def test_without_a_disk_it_is_said_what_one_would_open(capsys):
    code, out, _ = run(capsys, "plan", *SMALL, "--memory-limit", "100GB", "--json")
    assert code == 0
    assert {other["reason"] for other in json.loads(out)["alternatives"]} == {"needs --offload DIR"}


def test_nothing_fits(tmp_path, capsys):
    code, out, told = run(capsys, "plan", *SMALL, "--memory-limit", "1MB", "--offload", tmp_path / "disk")
    assert code == 2
    assert out == ""
    last = told.strip().splitlines()[-1]
    assert last.startswith("steepest: error: nothing fits into --memory-limit 1.00 MB: the least is ")
    assert "the process itself" in last
    assert not (tmp_path / "disk").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--memory-limit", "4"], "expected a number and a unit, got '4'"),
        (["--memory-limit", "lots"], "write 4GB"),
        ([], "write --memory-limit 4GB"),
        (["--model", "huge", "--memory-limit", "4GB"], "no model preset"),
        (["--optim", "adamv", "--memory-limit", "4GB"], "adamw"),
        (["--optim", "mfac window=8", "--memory-limit", "4GB"], "all parameters as one vector"),
        (["--batch", "0", "--memory-limit", "4GB"], "train.batch"),
        (["--machine", CARD, "--memory-limit", "4GB"], "brings its own memory"),
        (["--machine", "nothing.toml"], "nothing.toml"),
        (["--machine", "speed=3"], "no setting 'speed'"),
    ],
)
def test_wrong_input_is_one_clear_line(capsys, arguments, expected):
    code, out, told = run(capsys, "plan", *arguments)
    last = told.strip().splitlines()[-1]
    assert code == 2
    assert last.startswith("steepest: error: ")
    assert expected in last
    assert out == ""


def test_a_machine_that_one_does_not_have(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, told = run(capsys, "plan", "--model", "3b", "--batch", "8", "--machine", CARD, "--json")
    assert code == 0, told
    plan = json.loads(out)
    assert plan["sizes"]["optimizer states"] == pytest.approx(4 * plan["sizes"]["weights and gradients"])
    assert plan["used"]["device"] <= 24e9
    assert plan["overlapped"] <= plan["serial"]
    code, out, _ = run(capsys, "plan", "--model", "3b", "--batch", "8", "--machine", CARD)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert "optimizer states" in out


def test_help_teaches_by_example(capsys):
    code, out, _ = run(capsys, "plan", "--help")
    assert code == 0
    assert "steepest plan --model 1b" in " ".join(out.split())


@pytest.mark.slow
def test_a_billion_parameters_are_planned_without_their_memory():
    """The weights alone take 4.4 GB; the process may not have 4 GB."""
    code = "from steepest.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", "--model", "1b", "--memory-limit", "1TB", "--batch", "1", "--json"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (4_000_000_000, 4_000_000_000)),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parameters"] > 10**9


@pytest.mark.parametrize("more", [["--model", "ngpt-nano"], ["--set", "model.tie_embeddings=true"]])
def test_every_family_and_a_tied_head_are_planned(tmp_path, capsys, more):
    limit = ["--memory-limit", "100GB", "--offload", tmp_path / "disk", "--json"]
    code, out, told = run(capsys, "plan", *SMALL, *more, "--set", "train.clip=0", *limit)
    assert code == 0, told
    plan = json.loads(out)
    ways = {one["states_and_gradients"] for one in (plan, *plan["alternatives"])}
    assert ways == {"memory", "pipelined", "overlapped", "gradients on disk"}


def test_diagnostics_keep_everything_in_memory(tmp_path, capsys):
    more = ["--set", "train.diagnose_every=5", "--memory-limit", "100GB", "--offload", tmp_path / "disk", "--json"]
    code, out, told = run(capsys, "plan", *SMALL, *more)
    assert code == 0, told
    assert {other["reason"] for other in json.loads(out)["alternatives"]} == {
        "cannot look into steps: needs train.diagnose_every=0"
    }
