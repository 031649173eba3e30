# SPDX-License-Identifier: Apache-2.0
"""Is the gate worth it? Gated feed-forwards, ungated ones and PolyNorm at equal parameters, on real text.

Fixed before the run: the shipped text as bytes, one small Llama whose feed-forwards have equal parameters, AdamW, one
length, one batch, linear decay after a warm-up of a tenth. Each kind has one number to tune, the learning rate: seed 0
tries the grid, which grows by a factor of 2 at an edge until the best lies inside. The best goes on with the other
seeds. Measured is the mean over the seeds of the final loss on the whole validation split, in nats a byte. The gate has
held if mean(gated) - mean(ReLU) is at most -0.03. Runs that exist are not run again.

python -m benchmarks.nn.feed_forward runs/feed_forward
"""

import argparse
import json
import math
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.kernels.timing import RESULTS, machine
from steepest.nn import Llama
from steepest.nn.feed_forward import GATED
from steepest.train.config import RunConfig, apply_overrides
from steepest.train.report.palette import BLUE, VERMILLION
from steepest.train.session import start

KINDS = ("relu", "gelu", "polynorm", "glu", "bilinear", "reglu", "geglu", "swiglu")
GRID = (4e-3, 8e-3, 1.6e-2)
#: Widest grid that an edge may lead to.
LOWEST, HIGHEST = 1e-3, 6.4e-2
BAR = -0.03
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "feed-forward.png"


@dataclass(frozen=True)
class Budget:
    """What every run of the study has in common.

    Args:
        root: Folder of the runs.
        steps: Of each.
        seeds: Number of them.
        threads: Of torch.
    """

    root: Path
    steps: int
    seeds: int
    threads: int

    def config(self, kind: str, lr: float, seed: int) -> RunConfig:
        """Return the run of one kind, learning rate and seed."""
        settings = {
            "model.width": 64, "model.layers": 2, "model.heads": 2, "model.context": 64, "model.feed_forward": kind,
            "data.tokenizer": "bytes",
            "optim.name": "adamw", "optim.lr": lr,
            "train.steps": self.steps, "train.batch": 32, "train.warmup": self.steps // 10, "train.seed": seed,
            "train.threads": self.threads, "train.precision": "float32", "train.log_every": 50, "train.eval_every": 0,
            "train.checkpoint_every": 0, "train.baselines": "false", "train.sample_tokens": 0,
        }  # fmt: skip
        return apply_overrides(RunConfig(), [f"{key}={value}" for key, value in settings.items()])


def run(budget: Budget, kind: str, lr: float, seed: int) -> dict[str, Any]:
    """Train once, unless that was done, and return what came out."""
    folder = budget.root / f"{kind}-{lr:g}-{seed}-{budget.steps}"
    config = budget.config(kind, lr, seed)
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # a run of ours that was cut off
        start(config, out=folder, quiet=True)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    loss = [row for row in rows if row["kind"] == "eval"][-1]["bits_per_byte"] * math.log(2)
    print(f"{kind:9s} lr {lr:<7g} seed {seed}: {loss:.4f} nats a byte", flush=True)
    return {
        "kind": kind,
        "lr": lr,
        "seed": seed,
        "nats_per_byte": loss,
        "parameters": Llama(config.model).parameter_count(),
    }


def tune(budget: Budget, kind: str) -> list[dict[str, Any]]:
    """Return the runs of seed 0, with learning rates added until the best is no edge."""
    rows = {lr: run(budget, kind, lr, 0) for lr in GRID}
    while True:
        best = min(rows, key=lambda lr: rows[lr]["nats_per_byte"])
        further = best * 2 if best == max(rows) else best / 2 if best == min(rows) else None
        if further is None or not LOWEST <= further <= HIGHEST:
            return list(rows.values())
        rows[further] = run(budget, kind, further, 0)


def summarize(rows: list[dict[str, Any]], best: float) -> dict[str, Any]:
    """Return mean and spread over the seeds at the best learning rate."""
    losses = [row["nats_per_byte"] for row in rows if row["lr"] == best]
    tried = [row["lr"] for row in rows]
    return {
        "lr": best,
        "at_edge": best in (min(tried), max(tried)),
        "parameters": rows[0]["parameters"],
        "mean": statistics.mean(losses),
        "sd": statistics.stdev(losses) if len(losses) > 1 else None,
        "losses": losses,
    }


def verdict(summary: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the differences of means that the study is about."""
    relu = summary["relu"]["mean"]
    gated = [row["mean"] for kind, row in summary.items() if kind in GATED]
    found: dict[str, Any] = {"minus_relu": {kind: row["mean"] - relu for kind, row in summary.items()}}
    if gated:
        found |= {"gated_minus_relu": statistics.mean(gated) - relu, "bar": BAR}
        found["held"] = found["gated_minus_relu"] <= BAR
    if {"polynorm", "swiglu"} <= set(summary):
        found["polynorm_minus_swiglu"] = summary["polynorm"]["mean"] - summary["swiglu"]["mean"]
    return found


def draw(summary: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw each kind's mean and its seeds."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    kinds = sorted(summary, key=lambda kind: summary[kind]["mean"], reverse=True)
    for place, kind in enumerate(kinds):
        color = VERMILLION if kind in GATED else BLUE
        losses = summary[kind]["losses"]
        axes.plot(losses, [place] * len(losses), "o", color=color, markersize=4, alpha=0.5)
        axes.plot([summary[kind]["mean"]], [place], "|", color=color, markersize=18, markeredgewidth=2)
    axes.plot([], [], "o", color=VERMILLION, label="gated")
    axes.plot([], [], "o", color=BLUE, label="not gated")
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_xlabel("validation loss, nats a byte; bar: mean over seeds")
    axes.grid(axis="x", color="0.9")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Run all, write the record and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the runs")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="relu must be among them")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the record")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    a = parser.parse_args()
    if "relu" not in a.kinds:
        parser.error("--kinds: relu must be among them; the others are compared with it")
    budget = Budget(a.root, a.steps, a.seeds, a.threads)
    rows, summary = [], {}
    for kind in a.kinds:
        tried = tune(budget, kind)
        best = min(tried, key=lambda row: row["nats_per_byte"])["lr"]
        tried += [run(budget, kind, best, seed) for seed in range(1, a.seeds)]
        rows += tried
        summary[kind] = summarize(tried, best)
    about = machine()
    hardware = f"{(about['simd'] or 'cpu').lower()}-family{about['family']}-model{about['model']}"
    record = {
        "about": about,
        "settings": {"steps": a.steps, "seeds": a.seeds, "grid": GRID, "batch": 32, "context": 64},
        "summary": summary,
        "verdict": verdict(summary),
        "runs": rows,
    }
    a.out.mkdir(parents=True, exist_ok=True)
    path = a.out / f"feed_forward_{hardware}_{about['date']}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    draw(summary, a.figure)
    print(json.dumps(record["verdict"], indent=1), path, sep="\n")


if __name__ == "__main__":
    main()
