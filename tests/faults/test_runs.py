"""What happens to runs: kills, signals, full disks, damaged files, other processes."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from steepest.train.session import resume, start
from tests.train.runs import assert_same_run, command, configured, newest, rows, wait_for


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "sinkgd state_dtype=8bit"])
def test_killed_and_resumed_equals_undisturbed_bit_for_bit(settings, tmp_path, optimizer):
    settings = [*settings, f"optim.name={optimizer}", "train.accumulation=2", "train.schedule=cosine"]
    start(configured(settings), out=tmp_path / "whole", quiet=True)
    killed = tmp_path / "killed"
    process = subprocess.Popen([*command(settings, "--out", str(killed), "--quiet")])
    wait_for(lambda: (killed / "checkpoints" / "step_00000020").exists())
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resume(killed, quiet=True)
    assert_same_run(tmp_path / "whole", killed)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_how_to_go_on(settings, tmp_path, number, status):
    settings = [*settings, "train.steps=100000", "train.checkpoint_every=0", "train.eval_every=0"]
    run = tmp_path / "run"
    process = subprocess.Popen(command(settings, "--out", str(run)), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(rows_or_none(run)) > 5)
    process.send_signal(number)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status, told
    assert "Traceback" not in told
    assert f"--resume {run}" in told
    step = int(newest(run).name[5:])
    assert step == rows(run)[-1]["step"]


def rows_or_none(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(settings, tmp_path, capsys):
    start(configured(settings), out=tmp_path / "whole", quiet=True)
    start(configured(settings), out=tmp_path / "hurt", quiet=True)
    weights = newest(tmp_path / "hurt") / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    resume(tmp_path / "hurt")
    told = capsys.readouterr().err
    assert "step_00000040 is damaged: model.safetensors does not match its checksum" in told
    assert "resuming" in told
    assert "step 30" in told
    assert_same_run(tmp_path / "whole", tmp_path / "hurt")


def test_no_intact_checkpoint_is_an_error(settings, tmp_path):
    start(configured(settings), out=tmp_path / "run", quiet=True)
    for manifest in (tmp_path / "run").rglob("manifest.json"):
        manifest.write_text("{")
    with pytest.raises(ValueError, match="no intact checkpoint"):
        resume(tmp_path / "run", quiet=True)


def test_two_processes_cannot_train_in_one_folder(settings, tmp_path):
    import fcntl

    start(configured(settings), out=tmp_path / "run", quiet=True)
    with (tmp_path / "run" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process"):
            resume(tmp_path / "run", quiet=True)


FULL_AT_STEP_30 = """
import resource, sys
from steepest.cli import main
from steepest.train import checkpoint

original = checkpoint.save

def save(path, model, optimizers, progress, *rest):
    if progress.step == 30:
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
    original(path, model, optimizers, progress, *rest)

checkpoint.save = save
main(sys.argv[1:])
"""


@pytest.mark.parametrize("limit", ["file size", "small disk"])
def test_a_full_disk_while_checkpointing_loses_nothing_complete(settings, tmp_path, limit):
    """The first checkpoints fit, then the room ends; a limit on file size is a full disk without privileges."""
    run = tmp_path / "run"
    code = FULL_AT_STEP_30
    if limit == "small disk":
        run = mount_small_disk(tmp_path, bytes_=1_200_000)
        if run is None:
            pytest.skip("mounting a tmpfs needs privileges that this process lacks")
        code = "import sys; from steepest.cli import main; main(sys.argv[1:])"
        settings = [*settings, "train.keep_last=9"]
    try:
        arguments = command(settings, "--out", str(run))[3:]
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert "could not be written" in done.stderr or "No space left" in done.stderr, done.stderr
        assert f"--resume {run}" in done.stderr
        assert not list(run.rglob(".incomplete-*"))
        from steepest.train.run_folder import RunFolder

        path, warnings = RunFolder.open(run).checkpoints().newest_intact()
        assert not warnings
        assert int(path.name[5:]) >= 10
    finally:
        if limit == "small disk":
            subprocess.run(["umount", str(run.parent)], check=True)


def mount_small_disk(tmp_path: Path, bytes_: int) -> Path | None:
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        return None
    options = ["-o", f"size={bytes_}", "-t", "tmpfs", "tmpfs", str(place)]
    return place / "run" if subprocess.run(["mount", *options], capture_output=True).returncode == 0 else None


def test_a_file_of_metrics_that_lost_its_end_goes_on_after_its_last_whole_line(settings, tmp_path):
    start(configured(settings), out=tmp_path / "run", quiet=True, pages=False)
    path = tmp_path / "run" / "metrics.jsonl"
    os.truncate(path, path.stat().st_size // 2 + 3)
    resume(tmp_path / "run", overrides=["train.steps=42"], quiet=True)
    steps = [row["step"] for row in rows(tmp_path / "run") if row["kind"] == "train"]
    assert steps[-2:] == [41, 42]
    assert steps == sorted(set(steps))


def test_settings_that_changed_in_the_file_are_found_at_the_checkpoint(settings, tmp_path):
    start(configured(settings), out=tmp_path / "run", quiet=True, pages=False)
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text().replace('"adam_lr": 0.02', '"adam_lr": 0.03'))
    with pytest.raises(ValueError, match=r"optim.adam_lr=0.03, but step_00000040 was trained with 0.02"):
        resume(tmp_path / "run", quiet=True)


def test_a_tokenizer_that_changed_is_found(settings, tmp_path):
    start(configured(settings), out=tmp_path / "run", quiet=True, pages=False)
    path = tmp_path / "run" / "tokenizer" / "tokenizer.json"
    path.write_text(path.read_text() + " ")
    with pytest.raises(ValueError, match=r"tokenizer\.json does not match its checksum"):
        resume(tmp_path / "run", quiet=True)


def test_two_processes_that_begin_or_go_on_at_once(settings, tmp_path):
    """One trains, the other says so; the folder is that of one run."""
    run = tmp_path / "run"
    start(configured(settings), out=tmp_path / "whole", quiet=True, pages=False)  # fills the cache of tokens
    told = race(command(settings, "--out", str(run), "--quiet"))
    assert len(told) == 1
    assert "another process" in told[0] or "not an empty folder" in told[0]
    assert_same_run(tmp_path / "whole", run)
    resumed = [sys.executable, "-m", "steepest", "train", "--resume", str(run), "--set", "train.steps=300", "--quiet"]
    told = race(resumed)
    assert [line for line in told if "another process is training" in line] == told
    assert rows(run)[-1]["step"] == 300


def race(arguments: list[str]) -> list[str]:
    """Start a command twice at once; return what those that failed said."""
    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[1] for process in both]
    assert any(process.returncode == 0 for process in both), told
    return [text for process, text in zip(both, told, strict=True) if process.returncode]


def without_root() -> None:
    """Give up root's right to write where the permissions forbid it; the next program starts without."""
    import ctypes

    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.parametrize("what", ["run folder", "checkpoints"])
def test_a_folder_that_may_not_be_written_is_one_line(settings, tmp_path, what):
    run = tmp_path / "run"
    if what == "checkpoints":
        start(configured(settings), out=run, quiet=True, pages=False)
        (run / "checkpoints").chmod(0o555)
        arguments = [sys.executable, "-m", "steepest", "train", "--resume", str(run), "--set", "train.steps=50"]
    else:
        (tmp_path / "shut").mkdir(mode=0o555)
        arguments = command(settings, "--out", str(tmp_path / "shut" / "run"))
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, preexec_fn=without_root)
    assert done.returncode == 2, done.stderr
    assert "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
    if what == "checkpoints":
        (run / "checkpoints").chmod(0o755)
        resume(run, overrides=["train.steps=50"], quiet=True, pages=False)
        assert newest(run).name == "step_00000050"


def test_clocks_that_jump_change_nothing(settings, tmp_path, monkeypatch):
    """Order and age come from step numbers: a clock that runs backwards, files from other years."""
    import time

    settings = [*settings, "train.schedule=constant"]
    start(configured(settings), out=tmp_path / "whole", quiet=True, pages=False)
    calls = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 2e9 - 1e5 * (next(calls) % 10_000))
    start(configured(settings, "train.steps=20"), out=tmp_path / "run", quiet=True, pages=False)
    for age, path in enumerate(sorted((tmp_path / "run" / "checkpoints").rglob("*"))):
        os.utime(path, (4_000_000_000 - 10_000_000 * age,) * 2)
    resume(tmp_path / "run", overrides=["train.steps=40"], quiet=True, pages=False)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (newest(tmp_path / "run") / name).read_bytes() == (newest(tmp_path / "whole") / name).read_bytes()


SMALL_MEMORY = """
import resource, sys
from steepest.cli import main
from steepest.train import trainer

step = trainer.Trainer._step

def starved(self, stop):
    if self.progress.step == 25:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20),) * 2)
        import torch
        torch.empty(1 << 24)
    return step(self, stop)

trainer.Trainer._step = starved
main(sys.argv[1:])
"""


def test_no_memory_left_is_one_line_and_the_run_goes_on_elsewhere(settings, tmp_path):
    start(configured(settings), out=tmp_path / "whole", quiet=True, pages=False)
    run = tmp_path / "run"
    arguments = command(settings, "--out", str(run))[3:]
    done = subprocess.run([sys.executable, "-c", SMALL_MEMORY, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert "out of memory" in done.stderr
    assert "Traceback" not in done.stderr
    assert newest(run).name == "step_00000020"
    resume(run, quiet=True, pages=False)
    assert_same_run(tmp_path / "whole", run)
