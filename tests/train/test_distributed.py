"""Two processes under torchrun against one, at the same global batch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from steepest.nn import Llama
from steepest.train.run_folder import RunFolder
from steepest.train.sample import read_model
from steepest.train.session import resume, start
from tests.train.runs import configured, newest, rows

pytestmark = pytest.mark.distributed


def torchrun(settings: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    flags = [part for setting in settings for part in ("--set", setting)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "steepest"]
    done = subprocess.run([*launch, "train", *arguments, *flags], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def losses(run: Path) -> torch.Tensor:
    return torch.tensor([row["loss"] for row in rows(run)])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_model(newest(run)).state_dict()


def assert_close_runs(one: Path, two: Path) -> None:
    torch.testing.assert_close(losses(one), losses(two), rtol=2e-4, atol=2e-4)
    assert [row["kind"] for row in rows(one)] == [row["kind"] for row in rows(two)]


@pytest.mark.parametrize("flags", [[], ["--shard"]], ids=["copied", "sharded"])
def test_two_processes_learn_what_one_does(settings, tmp_path, flags):
    settings = [*settings, "optim.name=adamw", "train.accumulation=2", "train.steps=20"]
    start(configured(settings), out=tmp_path / "one", quiet=True)
    torchrun(settings, "--out", str(tmp_path / "two"), *flags)
    assert_close_runs(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("flags", [[], ["--shard"]], ids=["copied", "sharded"])
def test_a_checkpoint_of_two_resumes_on_one_and_the_other_way_round(settings, tmp_path, flags):
    settings = [*settings, "optim.name=adamw", "train.schedule=constant"]
    short, long = [*settings, "train.steps=20"], [*settings, "train.steps=30"]
    start(configured(long), out=tmp_path / "one", quiet=True)
    torchrun(short, "--out", str(tmp_path / "two then one"), *flags)
    resume(tmp_path / "two then one", overrides=["train.steps=30"], quiet=True)
    start(configured(short), out=tmp_path / "one then two", quiet=True)
    torchrun(["train.steps=30"], "--resume", str(tmp_path / "one then two"), *flags)
    for name in ("two then one", "one then two"):
        # The run of 20 steps also evaluates at its end, on the whole split.
        ours = torch.tensor([row["loss"] for row in rows(tmp_path / name) if row["kind"] == "train"])
        whole = torch.tensor([row["loss"] for row in rows(tmp_path / "one") if row["kind"] == "train"])
        torch.testing.assert_close(ours, whole, rtol=2e-4, atol=2e-4)
        for key, value in weights(tmp_path / "one").items():
            torch.testing.assert_close(weights(tmp_path / name)[key], value, rtol=1e-3, atol=1e-3)


def test_sharded_muon_equals_one_process(settings, tmp_path):
    settings = [*settings, "optim.name=muon", "train.steps=20"]
    start(configured(settings), out=tmp_path / "one", quiet=True)
    torchrun(settings, "--out", str(tmp_path / "two"), "--shard")
    # Newton-Schulz runs in bfloat16, so the order of a sum shows in the third digit.
    torch.testing.assert_close(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=2e-2, atol=2e-2)


def test_sharded_checkpoint_gives_a_model_that_writes(settings, tmp_path):
    torchrun([*settings, "train.steps=10", "train.sample_tokens=10"], "--out", str(tmp_path / "run"), "--shard")
    path, warnings = RunFolder.open(tmp_path / "run").checkpoints().newest_intact()
    assert not warnings
    assert not (path / "model.safetensors").exists()
    model = read_model(path)
    assert isinstance(model, Llama)
    assert len((tmp_path / "run" / "sample.txt").read_text()) > 20


def test_a_batch_that_cannot_be_split_is_one_clear_line(settings, tmp_path):
    flags = [part for setting in [*settings, "train.batch=3"] for part in ("--set", setting)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "steepest"]
    done = subprocess.run(
        [*launch, "train", "--out", str(tmp_path / "run"), *flags], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "cannot be split among 2 processes" in done.stderr
    assert not (tmp_path / "run").exists()


def test_sharding_needs_several_processes(settings, tmp_path):
    with pytest.raises(ValueError, match="torchrun"):
        start(configured(settings), out=tmp_path / "run", shard=True, quiet=True)


def test_metrics_are_written_once(settings, tmp_path):
    torchrun([*settings, "train.steps=10"], "--out", str(tmp_path / "run"))
    steps = [row["step"] for row in rows(tmp_path / "run") if row["kind"] == "train"]
    assert steps == list(range(1, 11))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["tokens"] == 10 * 4 * 32
    assert load_file(newest(tmp_path / "run") / "model.safetensors").keys() == weights(tmp_path / "run").keys()
