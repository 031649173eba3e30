"""A comparison whose runs take a fraction of a second."""

import torch

from steepest.lab import Comparison, base_config, methods_of, with_data

TEXT = "the quick brown fox jumps over a lazy dog while seven wizards quietly judge my vow of silence"
WORDS = TEXT.split()


def small_comparison(folder, methods=("adamw", "sinkgd"), **changes) -> Comparison:
    text = folder / "fox.txt"
    if not text.exists():
        order = torch.randint(len(WORDS), (7500,), generator=torch.Generator().manual_seed(7)).tolist()
        text.write_text(" ".join(WORDS[i] for i in order))
    overrides = [
        f'data.paths=["{text}"]',
        f"data.cache={folder / 'cache'}",
        "data.tokenizer=bytes",
        "model.width=16",
        "model.layers=1",
        "model.heads=1",
        "model.context=16",
        "train.batch=4",
        "train.log_every=1",
        "train.eval_every=4",
        "train.eval_tokens=256",
        "train.checkpoint_every=5",
    ]
    run, data = with_data(base_config("nano", 12, overrides))
    settings = {"trials": 2, "extra_trials": 1, "seeds": (1, 2), "baseline": methods[0]} | changes
    return Comparison(run=run, methods=methods_of(methods), data=data, **settings)
