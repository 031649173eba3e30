# SPDX-License-Identifier: Apache-2.0
"""Gated against ungated feed-forwards at equal parameters, on real text, by the ordinary training command.

Fixed before the run: the shipped text in bytes, the model `nano` (2 layers of width 64, context 128), 16 sequences a
step, AdamW with one learning rate for all parameters, linear decay, warm-up of a tenth. Every kind gets one trial of
each learning rate of `GRID` (first seed), and of further ones by factors of 2 while the best is the least or the
largest, three at most; the best goes on with the other seeds. The claim that was looked at: the mean over the gated
kinds is below ReLU's by 0.03 nats a byte or more. What PolyNorm does beside SwiGLU is reported as found. Runs that
ended are not run again; one that was cut off is.

    python -m benchmarks.nn.feed_forward runs/feed-forward

Add `--data FOLDER` for other text, `--kinds relu swiglu` for some kinds, `--steps` and `--seeds` for another budget.
"""

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.kernels.timing import RESULTS, machine
from steepest.nn.feed_forward import GATED, UNGATED

GRID = (2e-3, 4e-3, 8e-3, 1.6e-2)
KINDS = ("relu", "gelu", "silu", "polyrelu", "polynorm", "glu", "bilinear", "reglu", "geglu", "swiglu")
CLAIM = -0.03
#: Learning rates added at most where the best of a grid is at its edge.
BEYOND = 3


def train(folder: Path, kind: str, lr: float, seed: int, budget: argparse.Namespace) -> dict[str, Any]:
    """Train once, unless that was done, and return what came out."""
    run = folder / f"{kind}-{lr:g}-{seed}-{budget.steps}"
    begun = time.perf_counter()
    if not (run / "report.html").exists():
        shutil.rmtree(run, ignore_errors=True)  # of a run of ours that was cut off
        settings = {
            "model.feed_forward": kind,
            "train.batch": 16,
            "train.warmup": max(1, budget.steps // 10),
            "train.seed": seed,
            "train.threads": budget.threads,
            "train.precision": "float32",
            "train.baselines": "false",
            "train.eval_every": 0,
            "train.checkpoint_every": 0,
            "train.sample_tokens": 0,
            "optim.adam_lr": lr,
        }
        command = [sys.executable, "-m", "steepest", "train", "--quiet", "--model", "nano", "--tokenizer", "bytes"]
        command += ["--optim", "adamw", "--lr", str(lr), "--steps", str(budget.steps), "--out", str(run)]
        for path in budget.data:
            command += ["--data", path]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        subprocess.run(command, check=True)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bits = [row for row in rows if row["kind"] == "eval"][-1]["bits_per_byte"]
    parameters = json.loads((run / "summary.json").read_text())["parameters"]
    found = {
        "feed_forward": kind,
        "lr": lr,
        "seed": seed,
        "parameters": parameters,
        "nats_per_byte": bits * math.log(2),
    }
    print(f"{json.dumps(found)}  {time.perf_counter() - begun:.0f} s", flush=True)
    return found


def tune(folder: Path, kind: str, budget: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the runs of the first seed: the grid, and what lies beyond an edge that is the best."""
    rows = {lr: train(folder, kind, lr, budget.seeds[0], budget) for lr in budget.grid}
    for _ in range(BEYOND if len(rows) > 1 else 0):
        best = min(rows, key=lambda lr: rows[lr]["nats_per_byte"])
        if min(rows) < best < max(rows):
            break
        further = 2 * best if best == max(rows) else best / 2
        rows[further] = train(folder, kind, further, budget.seeds[0], budget)
    return list(rows.values())


def study(folder: Path, budget: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Run all kinds; return every run, and mean and spread of each kind at its best learning rate."""
    rows, found = [], {}
    for kind in budget.kinds:
        tried = tune(folder, kind, budget)
        best = min(tried, key=lambda row: row["nats_per_byte"])
        more = [train(folder, kind, best["lr"], seed, budget) for seed in budget.seeds[1:]]
        losses = [row["nats_per_byte"] for row in (best, *more)]
        rates = [row["lr"] for row in tried]
        rows += [*tried, *more]
        found[kind] = {
            "lr": best["lr"],
            "lr_at_edge": best["lr"] in (min(rates), max(rates)),
            "parameters": best["parameters"],
            "losses": losses,
            "mean": statistics.mean(losses),
            "sd": statistics.stdev(losses) if len(losses) > 1 else None,
        }
    return rows, found


def compare(found: dict[str, Any]) -> dict[str, Any]:
    """Return differences of means with their standard errors, and whether the claim held."""
    answer: dict[str, Any] = {}
    gated = [kind for kind in found if kind in GATED]
    if "relu" in found and gated:
        answer["each - relu"] = {kind: difference(found[kind], found["relu"]) for kind in found if kind != "relu"}
        mean = statistics.mean(found[kind]["mean"] for kind in gated) - found["relu"]["mean"]
        answer["gated - relu"] = {"difference": mean, "claim": CLAIM, "held": mean <= CLAIM}
    if "polynorm" in found and "swiglu" in found:
        answer["polynorm - swiglu"] = difference(found["polynorm"], found["swiglu"])
    return answer


def difference(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float | None]:
    """Return the difference of two means and its standard error."""
    error = None
    if one["sd"] is not None and other["sd"] is not None:
        error = math.sqrt(one["sd"] ** 2 / len(one["losses"]) + other["sd"] ** 2 / len(other["losses"]))
    return {"difference": one["mean"] - other["mean"], "standard_error": error}


def figure(found: dict[str, Any], path: Path) -> None:
    """Draw every run at its kind's best learning rate, and the means."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from steepest.train.report.palette import BLUE, VERMILLION

    ordered = sorted(found, key=lambda kind: -found[kind]["mean"])
    drawn = Figure(figsize=(7.5, 1.2 + 0.36 * len(ordered)), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.subplots()
    for height, kind in enumerate(ordered):
        color = VERMILLION if kind in UNGATED else BLUE
        losses = found[kind]["losses"]
        axes.plot(losses, [height] * len(losses), "o", color=color, alpha=0.5, markersize=5)
        axes.plot(found[kind]["mean"], height, "|", color=color, markersize=18, markeredgewidth=2.5)
    axes.set_yticks(range(len(ordered)), [f"{kind}  (lr {found[kind]['lr']:g})" for kind in ordered])
    axes.set_xlabel("validation loss, nats a byte: each seed, and the mean; blue is gated")
    axes.grid(axis="x", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    drawn.savefig(path, dpi=120)


def main() -> None:
    """Run the study and write record and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the runs")
    parser.add_argument("--kinds", nargs="*", default=KINDS, choices=(*GATED, *UNGATED))
    parser.add_argument("--grid", type=float, nargs="*", default=GRID)
    parser.add_argument("--seeds", type=int, nargs="*", default=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--data", nargs="*", default=())
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="result file; the figure goes beside it")
    budget = parser.parse_args()
    rows, found = study(budget.folder, budget)
    about = machine()
    path = budget.out or RESULTS / f"feed_forward_{about['date']}.json"
    configuration = {"grid": budget.grid, "seeds": budget.seeds, "steps": budget.steps, "data": budget.data}
    content = {
        "about": about,
        "configuration": configuration,
        "comparison": compare(found),
        "kinds": found,
        "runs": rows,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    figure(found, path.with_suffix(".png"))
    print(json.dumps(content["comparison"], indent=1))


if __name__ == "__main__":
    main()
