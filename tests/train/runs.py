"""What the tests of whole runs share."""

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from steepest.train.config import RunConfig, apply_overrides


def configured(settings: list[str], *more: str) -> RunConfig:
    return apply_overrides(RunConfig(), [*settings, *more])


def rows(run: Path) -> list[dict]:
    """Metrics without what depends on the clock and the machine's memory."""
    timing = ("seconds", "tokens_per_second", "flops_per_second", "rss_bytes")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in timing} for line in lines]


def newest(run: Path) -> Path:
    return max((run / "checkpoints").glob("step_*"))


def assert_same_run(one: Path, two: Path) -> None:
    assert rows(one) == rows(two)
    for name in ("model.safetensors", "optimizer.safetensors"):
        before, after = load_file(newest(one) / name), load_file(newest(two) / name)
        assert before.keys() == after.keys()
        for key, tensor in before.items():
            assert torch.equal(tensor, after[key]), key


def command(settings: list[str], *arguments: str) -> list[str]:
    flags = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "steepest", "train", *arguments, *flags]


def wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)
