"""A run folder made up for the tests of the reports, in the format that the training run writes."""

import json
import math
from pathlib import Path

import numpy as np

CONFIG = {
    "model": {"dim": 256, "layers": 6, "heads": 4, "context": 256, "tied": True},
    "data": {"paths": ["default"], "vocabulary": "bytes"},
    "optim": {"name": "muon", "lr": 0.02, "weight_decay": 0.01, "schedule": "linear"},
    "train": {"steps": 400, "batch": 32, "seed": 0},
}
SUMMARY = {
    "status": "finished",
    "steps": 400,
    "tokens": 400 * 8192,
    "seconds": 187.0,
    "parameters": 4_812_288,
    "bits_per_byte": 1.826,
    "best_bits_per_byte": 1.826,
    "baselines": {"xz -9": 2.214, "3-gram": 2.61, "5-gram": 2.187},
    "train_bytes": 7_400_000,
    "val_bytes": 390_000,
    "tokens_per_second": 17_500.0,
    "flops_per_second": 5.2e11,
    "peak_rss_bytes": 912_000_000,
    "time_split": {"forward": 55.0, "backward": 101.0, "optimizer": 17.0, "data": 0.8, "evaluation": 9.0},
}


def metrics_lines(steps: int = 400, seed: int = 0, floor: float = 1.6) -> list[str]:
    """Return lines as a run writes them: a loss that falls from 8 bits with noise, an evaluation every 40 steps."""
    generator = np.random.default_rng(seed)
    lines = []
    for step in range(1, steps + 1):
        clean = floor + 6.4 * math.exp(-step / 12) + 1.5 / (1 + step / 60)
        bits = clean + 0.06 * generator.standard_normal()
        common = {"step": step, "tokens": step * 8192, "seconds": 0.46 * step + 2.0}
        row = {
            "kind": "train",
            **common,
            "loss": bits * math.log(2),
            "bits_per_byte": bits,
            "lr": 0.02 * min(1, step / 40) * (1 - step / (steps + 1)),
            "grad_norm": 0.4 + math.exp(-step / 30) + 0.05 * generator.random(),
            "tokens_per_second": 17_500 + 300 * generator.standard_normal(),
            "flops_per_second": 5.2e11,
            "rss_bytes": 800_000_000 + 250_000 * step,
        }
        lines.append(json.dumps(row))
        if step % 40 == 0:
            held_out = clean + 0.03
            lines.append(
                json.dumps({"kind": "eval", **common, "loss": held_out * math.log(2), "bits_per_byte": held_out})
            )
    return lines


def make_run(folder: Path, *, live: bool = False, steps: int = 400, seed: int = 0, floor: float = 1.6) -> Path:
    """Write a run folder; a live one lacks the summary and the sample."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in metrics_lines(steps, seed, floor)))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.2", "cpu": {"model": "a CPU", "cores": 2}}))
    if not live:
        (folder / "summary.json").write_text(json.dumps(SUMMARY))
        (folder / "sample.txt").write_text("It was the best of times, it was the worst of times,\nit was …\n")
    return folder
