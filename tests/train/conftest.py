"""A small text and the settings of a run that takes a second or two."""

from pathlib import Path

import pytest
import torch

TEXT = "the quick brown fox jumps over a lazy dog while seven wizards quietly judge my vow of silence"


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """40 kB of sentences drawn with a fixed seed."""
    generator = torch.Generator().manual_seed(7)
    words = TEXT.split()
    order = torch.randint(len(words), (7500,), generator=generator).tolist()
    path = tmp_path_factory.mktemp("text") / "fox.txt"
    path.write_text(" ".join(words[i] for i in order))
    return path


@pytest.fixture
def settings(text, tmp_path) -> list[str]:
    return [
        f'data.paths=["{text}"]',
        f"data.cache={tmp_path / 'cache'}",
        "data.tokenizer=bytes",
        "model.width=32",
        "model.layers=2",
        "model.heads=2",
        "model.context=32",
        "train.steps=40",
        "train.batch=4",
        "train.warmup=4",
        "train.precision=float32",
        "train.threads=1",
        "train.log_every=1",
        "train.eval_every=10",
        "train.eval_tokens=256",
        "train.checkpoint_every=10",
        "train.baselines=false",
        "train.sample_tokens=0",
    ]
