# SPDX-License-Identifier: Apache-2.0
"""How many tokens a method needs to reach the best loss of a tuned AdamW, on the default text and model.

Fixed before the run: the shipped text, the default model, context 128, 8 sequences a step, linear decay, warm-up of a
tenth; AdamW gets `STEPS` steps, every other method `SHARE` of them, with its schedule ending there. Each method has one
number to tune, its learning rate, and the same trials of it (seed 0); a method for matrices steps the rest by AdamW at
that rate. The best goes on with seeds 1 and 2. A method has held if its mean final loss over the seeds is at most
AdamW's. Runs that exist are not run again.

python -m benchmarks.optim.learning runs/learning
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.kernels.timing import machine

STEPS, SHARE = 400, 2 / 3
RESULTS = Path(__file__).parents[1] / "results"
#: Learning rates tried with every method.
GRID = (1.25e-3, 2.5e-3, 5e-3, 1e-2, 2e-2)
#: What `--optim` gets. Muon's steps have the size of AdamW's, so that one rate fits both kinds of parameters.
METHODS = {"adamw": "adamw", "muon": "muon lr_scale=match_rms"}
SEEDS = (0, 1, 2)


def final_loss(folder: Path) -> float:
    """Return the bits per byte on the whole validation split at the end of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "eval"][-1]["bits_per_byte"]


def run(root: Path, method: str, lr: float, seed: int, steps: int, threads: int) -> dict[str, Any]:
    """Train once, unless that was done, and return what came out."""
    folder = root / f"{method}-{lr:g}-{seed}-{steps}"
    if not (folder / "report.html").exists():
        settings = {
            "train.warmup": steps // 10,
            "train.seed": seed,
            "train.threads": threads,
            "train.baselines": "false",
            "train.eval_every": 0,
            "train.checkpoint_every": 0,
            "train.sample_tokens": 0,
            "optim.adam_lr": lr,
        }
        command = [sys.executable, "-m", "steepest", "train", "--quiet", "--optim", METHODS[method], "--lr", str(lr)]
        command += ["--steps", str(steps), "--out", str(folder)]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        subprocess.run(command, check=True)
    loss = final_loss(folder)
    print(f"{method:8s} lr {lr:<8g} seed {seed}: {steps} steps, {loss:.4f} bits per byte", flush=True)
    return {"method": method, "lr": lr, "seed": seed, "steps": steps, "bits_per_byte": loss}


def main() -> None:
    """Run all, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the runs")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    rows, summary = [], {}
    for method in METHODS:
        steps = STEPS if method == "adamw" else round(STEPS * SHARE)
        tried = [run(arguments.root, method, lr, SEEDS[0], steps, arguments.threads) for lr in GRID]
        best = min(tried, key=lambda row: row["bits_per_byte"])
        more = [run(arguments.root, method, best["lr"], seed, steps, arguments.threads) for seed in SEEDS[1:]]
        losses = [row["bits_per_byte"] for row in (best, *more)]
        rows += [*tried, *more]
        summary[method] = {
            "lr": best["lr"],
            "at_edge": best["lr"] in (GRID[0], GRID[-1]),
            "steps": steps,
            "mean": statistics.mean(losses),
            "sd": statistics.stdev(losses),
        }
    about = machine()
    path = RESULTS / f"optimizer_learning_{about['date']}.json"
    path.write_text(json.dumps({"about": about, "summary": summary, "runs": rows}, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
