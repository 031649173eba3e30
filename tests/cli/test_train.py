"""`steepest train` and `steepest sample` as a user types them: what works, and one clear line for what does not."""

import json
import tomllib

import pytest

from steepest.cli import main

FAST = ["model.width=32", "model.layers=1", "model.heads=2", "model.context=16", "train.steps=4", "train.batch=2"]
QUIET = ["train.baselines=false", "train.sample_tokens=5", "train.threads=1", "train.precision=float32"]


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    code = caught.value.code
    out, err = capsys.readouterr()
    return code if isinstance(code, int) else 0, out, err


def settings(tmp_path, *more: str) -> list[str]:
    return [part for one in (*FAST, *QUIET, f"data.cache={tmp_path / 'cache'}", *more) for part in ("--set", one)]


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("It was the best of times, it was the worst of times. " * 200)
    return path


def test_train_then_sample_then_resume(tmp_path, text, capsys):
    out = tmp_path / "run"
    code, _, told = run(capsys, "train", "--data", text, "--tokenizer", "bytes", "--out", out, *settings(tmp_path))
    assert code == 0, told
    assert "report.html" in told
    code, written, _ = run(capsys, "sample", out, "--prompt", "It was", "--tokens", "12", "--temperature", "0")
    assert code == 0
    assert written.startswith("It was")
    assert written == run(capsys, "sample", out, "--prompt", "It was", "--tokens", "12", "--temperature", "0")[1]
    code, _, told = run(capsys, "train", "--resume", out, "--set", "train.steps=6")
    assert code == 0, told
    assert json.loads((out / "summary.json").read_text())["steps"] == 6
    code, _, told = run(capsys, "train", "--resume", out)
    assert code == 0, told


def test_printed_settings_make_the_same_settings(tmp_path, capsys):
    code, printed, _ = run(capsys, "train", "--model", "nano", "--lr", "0.01", "--print-config", *settings(tmp_path))
    assert code == 0
    (tmp_path / "run.toml").write_text(printed)
    assert tomllib.loads(printed)["optim"]["lr"] == 0.01
    assert run(capsys, "train", "--config", tmp_path / "run.toml", "--print-config")[1] == printed


def bad_inputs(tmp_path):
    empty, binary, short = tmp_path / "empty.txt", tmp_path / "binary.txt", tmp_path / "short.txt"
    empty.write_text("")
    binary.write_bytes(bytes(range(256)) * 40)
    short.write_text("too short")
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    (tmp_path / "bad.toml").write_text("[train")
    return {
        "missing file": (["--data", tmp_path / "nowhere.txt"], "nowhere.txt"),
        "empty file": (["--data", empty], "empty.txt"),
        "binary file": (["--data", binary], "binary.txt"),
        "glob that matches nothing": (["--data", tmp_path / "*.zzz"], "zzz"),
        "text shorter than one context": (["--data", short, "--tokenizer", "bytes"], "context"),
        "context longer than the data": (["--set", "model.context=100000000"], "context"),
        "lr of zero": (["--lr", "0"], "optim.lr"),
        "negative lr": (["--lr", "-1"], "optim.lr"),
        "no such optimizer": (["--optim", "adamv"], "adamw"),
        "no such model": (["--model", "huge"], "nano"),
        "no such setting": (["--set", "train.stpes=3"], "train.steps"),
        "run folder under a file": (["--out", blocker / "run"], "file"),
        "no such config": (["--config", tmp_path / "nothing.toml"], "nothing.toml"),
        "broken config": (["--config", tmp_path / "bad.toml"], "well-formed"),
        "no such run": (["--resume", tmp_path / "no run"], "not a run folder"),
        "resume with other settings": (["--resume", tmp_path, "--model", "nano"], "--set"),
        "shard alone": (["--shard"], "torchrun"),
    }


BAD = (
    "missing file",
    "empty file",
    "binary file",
    "glob that matches nothing",
    "text shorter than one context",
    "context longer than the data",
    "lr of zero",
    "negative lr",
    "no such optimizer",
    "no such model",
    "no such setting",
    "run folder under a file",
    "no such config",
    "broken config",
    "no such run",
    "resume with other settings",
    "shard alone",
)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_clear_line(tmp_path, text, capsys, name):
    arguments, expected = bad_inputs(tmp_path)[name]
    default = [] if "--data" in arguments else ["--data", text]
    base = [] if "--resume" in arguments else [*default, *settings(tmp_path)]
    if "--out" not in arguments and "--resume" not in arguments:
        base = [*base, "--out", tmp_path / "run"]
    code, _, told = run(capsys, "train", *base, *arguments)
    last = told.strip().splitlines()[-1]
    assert code == 2, name
    assert last.startswith("steepest: error: "), name
    assert expected in last, (name, last)
    assert "Traceback" not in told
    assert not (tmp_path / "run").exists(), name


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--prompt", ""], "prompt"),
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "0"], "top_p"),
        ([], "not a run folder"),
    ],
)
def test_bad_sampling_is_one_clear_line(tmp_path, capsys, arguments, expected):
    code, _, told = run(capsys, "sample", tmp_path, *arguments)
    assert code == 2
    assert expected in told.strip().splitlines()[-1]
