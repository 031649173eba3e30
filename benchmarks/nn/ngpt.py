# SPDX-License-Identifier: Apache-2.0
"""nGPT beside the GPT of the same shape on real text: loss, and how much it depends on the learning rate.

Fixed before the run: the shipped text, bytes; one shape; AdamW with betas (0.9, 0.95), clipping at 1, cosine to zero.
The GPT is this library's Llama (pre-norm, the branch added to the stream itself), matrices from N(0, 0.02^2), warm-up
over a tenth of the steps, weight decay 0.1 or 0, whichever has the lower best loss with the first seed. nGPT has
neither warm-up nor weight decay. Both get every learning rate of `GRID` with every seed. Reported: the mean loss at
each rate, the best, and the spread: largest less smallest mean over the decade around the best rate (half a decade to
each side), and over the decade from 3e-3 to 3e-2 for both. Runs that exist are not run again.

python -m benchmarks.nn.ngpt runs/ngpt
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.kernels.timing import machine

RESULTS = Path(__file__).parents[1] / "results"
GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
COMMON = (3e-3, 1e-2, 3e-2)
DECAYS = (0.1, 0.0)

Row = dict[str, Any]


def final_loss(folder: Path) -> float:
    """Return the bits per byte on the whole validation split at the end of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "eval"][-1]["bits_per_byte"]


def run(arguments: argparse.Namespace, model: str, lr: float, decay: float, seed: int) -> Row:
    """Train once, unless that was done, and return what came out."""
    steps, size = arguments.steps, arguments.size
    folder = arguments.root / f"{model}-{size}-{steps}-lr{lr:g}-wd{decay:g}-seed{seed}"
    if not (folder / "report.html").exists():
        settings = {
            "data.tokenizer": "bytes",
            "train.warmup": steps // 10 if model == "gpt" else 0,
            "train.schedule": "cosine",
            "train.seed": seed,
            "train.threads": arguments.threads,
            "train.precision": "float32",
            "train.baselines": "false",
            "train.eval_every": 0,
            "train.checkpoint_every": 0,
            "train.sample_tokens": 0,
            "optim.lr": lr,
            "optim.weight_decay": decay,
        }
        if model == "gpt":
            settings["model.init"] = "normal"
        command = [sys.executable, "-m", "steepest", "train", "--quiet", "--optim", "adamw", "--steps", str(steps)]
        command += ["--model", size if model == "gpt" else f"ngpt-{size}", "--out", str(folder)]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        subprocess.run(command, check=True)
    summary = json.loads((folder / "summary.json").read_text())
    row = {"model": model, "lr": lr, "weight_decay": decay, "seed": seed, "bits_per_byte": final_loss(folder)}
    print(", ".join(f"{key} {value:.4g}" if key != "model" else value for key, value in row.items()), flush=True)
    return {**row, "parameters": summary["parameters"], "seconds": summary["seconds"]}


def summarize(rows: list[Row]) -> Row:
    """Return means over the seeds and the spreads of one model.

    Args:
        rows: All runs of the model that count.
    """
    losses = {lr: [row["bits_per_byte"] for row in rows if row["lr"] == lr] for lr in GRID}
    means = {lr: statistics.mean(found) for lr, found in losses.items()}
    best = min(means, key=means.__getitem__)
    place = GRID.index(best)
    around = [means[lr] for lr in GRID[max(0, place - 1) : place + 2]]
    common = [means[lr] for lr in COMMON]
    return {
        "means": {f"{lr:g}": mean for lr, mean in means.items()},
        "sd": {f"{lr:g}": statistics.stdev(found) if len(found) > 1 else None for lr, found in losses.items()},
        "best_lr": best,
        "at_edge": place in (0, len(GRID) - 1),
        "best": means[best],
        "weight_decay": rows[0]["weight_decay"],
        "spread_around_best": max(around) - min(around),
        "spread_common": max(common) - min(common),
        "parameters": rows[0]["parameters"],
    }


def gpt_rows(arguments: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Return the rows of the tuned GPT, and those of the weight decay that lost."""
    first = arguments.seeds[0]
    tried = {decay: [run(arguments, "gpt", lr, decay, first) for lr in GRID] for decay in DECAYS}
    chosen = min(DECAYS, key=lambda decay: min(row["bits_per_byte"] for row in tried[decay]))
    more = [run(arguments, "gpt", lr, chosen, seed) for seed in arguments.seeds[1:] for lr in GRID]
    return [*tried[chosen], *more], [row for decay in DECAYS if decay != chosen for row in tried[decay]]


def draw(summary: dict[str, Row], path: Path) -> None:
    """Write the figure: mean loss over the learning rate.

    Args:
        summary: From `summarize`, by model.
        path: The picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (model, found), mark in zip(summary.items(), "os", strict=True):
        rates = [float(lr) for lr in found["means"]]
        deviations = [sd or 0.0 for sd in found["sd"].values()]
        axes.errorbar(rates, list(found["means"].values()), deviations, marker=mark, capsize=3, label=model)
    axes.set(xscale="log", xlabel="learning rate", ylabel="bits per byte, validation")
    axes.grid(alpha=0.3)
    axes.legend(["GPT" if model == "gpt" else "nGPT" for model in summary], frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Run all, and write the record and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the runs")
    parser.add_argument("--size", default="micro", help="a preset")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the record and the figure")
    arguments = parser.parse_args()
    gpt, lost = gpt_rows(arguments)
    ngpt = [run(arguments, "ngpt", lr, 0.0, seed) for seed in arguments.seeds for lr in GRID]
    summary = {"gpt": summarize(gpt), "ngpt": summarize(ngpt)}
    about = machine()
    name = f"ngpt_{arguments.size}_{arguments.steps}steps_{about['date']}"
    config = {"size": arguments.size, "steps": arguments.steps, "seeds": arguments.seeds, "grid": GRID}
    record = {"about": about, "config": config, "summary": summary, "runs": [*gpt, *lost, *ngpt]}
    arguments.results.mkdir(parents=True, exist_ok=True)
    (arguments.results / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(summary, arguments.results / f"{name}.png")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
