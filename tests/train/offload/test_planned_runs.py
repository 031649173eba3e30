"""Runs under a limit of memory: the same bits, the memory that was predicted, and no run where nothing fits."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from steepest.train import planned
from steepest.train.distributed import Peers
from steepest.train.offload import Choice, NothingFitsError
from steepest.train.planned import Within, place
from steepest.train.progress import Display
from steepest.train.session import resume, start
from tests.train.offload.planned import forced
from tests.train.runs import assert_same_run, configured

CHOICES = {
    "computed again": (Choice("memory", 0, 2, 0), []),
    "after backward": (Choice("pipelined", 1, 1, 0), ["train.accumulation=2"]),
    "during backward": (Choice("overlapped", 0, 1, 1), ["train.clip=0"]),
    "all on the disk": (Choice("gradients on disk", 0, 0, 2), ["optim.name=adamw", "train.accumulation=2"]),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_bits_do_not_depend_on_the_plan(settings, tmp_path, monkeypatch, name):
    choice, more = CHOICES[name]
    settings = [*settings, "train.steps=10", "train.checkpoint_every=5", *more]
    start(configured(settings), out=tmp_path / "plain", quiet=True, pages=False)
    monkeypatch.setattr(planned, "choose", forced(choice))
    within = Within(limit=1, folder=tmp_path / "states")
    start(configured(settings), out=tmp_path / "planned", offload=within, quiet=True, pages=False)
    assert_same_run(tmp_path / "plain", tmp_path / "planned")
    assert not (tmp_path / "states").exists()
    plan = json.loads((tmp_path / "planned" / "summary.json").read_text())["plan"]
    assert plan["states_and_gradients"] == choice.way
    assert min(plan["predicted_step_seconds"], plan["measured_step_seconds"], plan["measured_peak_bytes"]) > 0


def test_a_run_goes_on_under_other_limits_to_the_same_bits(settings, tmp_path, monkeypatch):
    settings = [*settings, "train.schedule=constant", "train.eval_every=0", "train.clip=0"]
    start(configured(settings, "train.steps=15"), out=tmp_path / "whole", quiet=True, pages=False)
    within = Within(limit=10**12, folder=tmp_path / "states")
    run = start(configured(settings, "train.steps=5"), out=tmp_path / "run", offload=within, quiet=True, pages=False)
    monkeypatch.setattr(planned, "choose", forced(Choice("overlapped", 1, 1, 0)))
    resume(run.path, offload=within, overrides=["train.steps=10"], quiet=True, pages=False)
    resume(run.path, overrides=["train.steps=15"], quiet=True, pages=False)
    newest = [max((tmp_path / name / "checkpoints").iterdir()) for name in ("whole", "run")]
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, two = ((path / name).read_bytes() for path in newest)
        assert one == two


@pytest.mark.parametrize("folder", [True, False])
def test_where_nothing_fits_nothing_begins(settings, tmp_path, folder):
    within = Within(limit=1000, folder=tmp_path / "states" if folder else None)
    with pytest.raises(NothingFitsError, match="the least is") as caught:
        start(configured(settings), out=tmp_path / "run", offload=within, quiet=True)
    assert caught.value.minimum > 10**7
    assert ("--offload DIR" in str(caught.value)) != folder
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "states").exists()


def test_a_limit_is_for_one_process(settings):
    with pytest.raises(ValueError, match="one process"):
        place(configured(settings), Within(limit=10**12), Peers(0, 2), Display(1, quiet=True))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize(
    "choice",
    [("memory", 6, 0, 0), pytest.param(("gradients on disk", 0, 6, 0), marks=pytest.mark.slow)],
    ids=["memory", "disk"],
)
def test_the_predicted_peak_is_what_the_system_sees(text, tmp_path, choice):
    """Above the process itself within a sixth, for the C library and the system; buffers need not fill up."""
    command = [sys.executable, "-m", "tests.train.offload.planned", str(text), str(tmp_path), *map(str, choice)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        found = json.loads(process.stdout.readline())
        match = re.search(r"^VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
        process.stdin.close()
    assert match is not None
    measured = int(match.group(1)) * 1024 - found["baseline"]
    predicted = found["predicted"] - found["baseline"]
    assert predicted > 10**8
    assert 5 / 6 * (predicted - found["buffers"]) <= measured <= 7 / 6 * predicted
