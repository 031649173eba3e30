# SPDX-License-Identifier: Apache-2.0
"""Sparsity against error of four kinds of sparse autoencoder, on synthetic superposition and on a language model.

Fixed before the run. Synthetic: 64 directions in 32 dimensions, each active with probability 4/64 and size uniform in
[0.5, 1.5]; 100,000 training and 20,000 test points; 128 features; seeds draw points and weights. Real: the outputs of
the middle feed-forward of the model `micro` (width 128) after 300 steps on the shipped text; 60,000 training and 16,000
test positions; 512 features. All kinds: activations of mean square 1, 2,000 steps of 512, Adam with learning rate 3e-3,
decoder rows of norm 1. At the L0 of the bar, 9.5, values are interpolated in log-log between a kind's own runs.

    python -m benchmarks.nn.sae_frontier synthetic --seeds 0 1 2
    python -m benchmarks.nn.sae_frontier real
    python -m benchmarks.nn.sae_frontier figure

Runs that stand in the result file are not run again. The two smallest penalties of each kind on real activations were
added after a first run whose sparsest curves ended below the bar's L0.
"""

import argparse
import itertools
import json
import math
import shutil
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.timing import RESULTS, machine
from steepest.nn import (
    L1SAE,
    ActivationStream,
    GatedSAE,
    JumpReLUSAE,
    JumpReLUTraining,
    Llama,
    SAETraining,
    SparseAutoencoder,
    TopKSAE,
    draw_batches,
    evaluate_sae,
    input_scale,
    load_llama,
    loss_recovered,
    train_sae,
)

#: Penalty (or k) of each run, by kind.
GRIDS = {
    "synthetic": {
        "L1": (0.8, 1.3, 1.5, 2.5),
        "Gated": (0.8, 1.2, 1.35, 1.6, 3.0),
        "JumpReLU": (0.15, 0.3, 0.32, 0.6),
        "TopK": (6, 9, 10, 13),
    },
    "real": {
        "L1": (1.0, 2.0, 3.0, 6.0, 10.0, 16.0),
        "Gated": (1.0, 1.7, 3.0, 6.0, 10.0, 16.0),
        "JumpReLU": (0.15, 0.25, 0.5, 1.0, 2.0, 4.0),
        "TopK": (6, 10, 20, 40),
    },
}
TRAINING = SAETraining(steps=2000, lr=3e-3, sparsity_warmup=500)
JUMP = JumpReLUTraining(threshold=0.1, bandwidth=0.1)
BAR = 9.5
SITE, TEXT_STEPS = "model.layers.1.mlp", 300


def make(kind: str, d_in: int, d_sae: int, strength: float, seed: int) -> SparseAutoencoder:
    """Return a new autoencoder."""
    generator = torch.Generator().manual_seed(seed)
    if kind == "TopK":
        return TopKSAE(d_in, d_sae, k=int(strength), generator=generator)
    if kind == "JumpReLU":
        return JumpReLUSAE(d_in, d_sae, sparsity=strength, training=JUMP, generator=generator)
    return {"L1": L1SAE, "Gated": GatedSAE}[kind](d_in, d_sae, sparsity=strength, generator=generator)


def superposition(points: int, seed: int, *, features: int = 64, width: int = 32, active: int = 4) -> Tensor:
    """Return sparse positive combinations of the same random unit directions, shape (points, width)."""
    directions = torch.randn(features, width, generator=torch.Generator().manual_seed(99))
    directions /= directions.norm(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(points, features, generator=generator) < active / features
    return (on * (torch.rand(points, features, generator=generator) + 0.5)) @ directions


def language_model(folder: Path) -> tuple[Llama, Tensor, Tensor]:
    """Train the small model, unless the folder has it, and return it with windows of training and test tokens."""
    from steepest.train.config import RunConfig, apply_overrides, from_dict
    from steepest.train.data import prepare
    from steepest.train.session import start

    settings = ["train.baselines=false", "train.sample_tokens=0", "train.eval_every=0", "train.threads=1"]
    config = from_dict({"model": "micro"}, RunConfig())
    config = apply_overrides(config, [*settings, f"train.steps={TEXT_STEPS}", "train.warmup=30", "model.context=128"])
    if not (folder / "report.html").exists():
        if (folder / "metrics.jsonl").exists():
            shutil.rmtree(folder)  # a run that was stopped on the way
        start(config, out=folder, quiet=True)
    data = prepare(config.data, progress=False)
    model = load_llama(sorted((folder / "checkpoints").iterdir())[-1]).eval()
    windows = [
        torch.as_tensor(t[: n * 129].astype("int64")).view(n, 129) for t, n in ((data.train, 480), (data.val, 125))
    ]
    return model, windows[0], windows[1]


def activations(model: Llama, windows: Tensor) -> Tensor:
    """Return the outputs of the site, one position a row."""
    stream = ActivationStream(model, SITE, windows[:, :-1].split(16), batch=512, buffer=4096)
    return torch.cat(list(stream.rows()))


def measure(sae: SparseAutoencoder, train: Tensor, test: Tensor, seed: int) -> dict[str, Any]:
    """Train and evaluate; return the metrics."""
    train_sae(sae, draw_batches(train, batch=512, seed=seed), TRAINING)
    return asdict(evaluate_sae(sae, test.split(4096)))


def run(theme: str, seeds: list[int], folder: Path, record: "Record", *, few: bool) -> None:
    """Run what is missing."""
    model = training = windows = None
    if theme == "real":
        model, training, windows = language_model(folder)
    for seed in seeds:
        if model is None or training is None or windows is None:
            train, test = superposition(100_000, 2 * seed + 1), superposition(20_000, 2 * seed + 2)
        else:
            train, test = activations(model, training), activations(model, windows)
        scale = input_scale([train])
        for kind, strengths in GRIDS[theme].items():
            for strength in strengths[:1] if few else strengths:
                key = {"theme": theme, "kind": kind, "strength": strength, "seed": seed}
                if record.has(key):
                    continue
                sae = make(kind, train.shape[1], 128 if model is None else 512, strength, seed)
                row = {**key, **measure(sae, train * scale, test * scale, seed)}
                if model is not None and windows is not None:
                    sae.fold_input_scale_(scale)
                    batches = [(w[:, :-1], w[:, 1:]) for w in windows[:32].split(16)]
                    found = loss_recovered(model, SITE, sae, batches, lambda m, b: m(b[0], targets=b[1]))
                    row |= {**asdict(found), "recovered": found.recovered}
                record.add(row)


class Record:
    """The rows of a result file, written after each of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        known = json.loads(path.read_text()) if path.exists() else {}
        self.rows: list[dict[str, Any]] = known.get("rows", [])

    def has(self, key: dict[str, Any]) -> bool:
        return any(all(row[name] == value for name, value in key.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        print(json.dumps(row), flush=True)
        self.write()

    def write(self) -> None:
        training = {"training": asdict(TRAINING), "jumprelu": asdict(JUMP)}
        summary = {theme: summarize(self.rows, theme) for theme in GRIDS if any(r["theme"] == theme for r in self.rows)}
        content = {"about": machine(), "configuration": training, "summary": summary, "rows": self.rows}
        self.path.write_text(json.dumps(content, indent=1) + "\n")


def interpolate(rows: list[dict[str, Any]], name: str, at: float) -> float | None:
    """Return a value at an L0, linear in the logarithms of both between the two runs beside it; None outside them."""
    rows = sorted(rows, key=lambda row: row["l0"])
    for low, high in itertools.pairwise(rows):
        if low["l0"] <= at <= high["l0"]:
            share = math.log(at / low["l0"]) / math.log(high["l0"] / low["l0"])
            return math.exp((1 - share) * math.log(low[name]) + share * math.log(high[name]))
    return None


def summarize(rows: list[dict[str, Any]], theme: str) -> dict[str, Any]:
    """Return the values at the bar's L0: mean and spread over seeds by kind, and ratios within a seed."""
    found: dict[str, Any] = {"l0": BAR}
    by_seed: dict[int, dict[str, float]] = {}
    for kind in GRIDS[theme]:
        values: dict[str, list[float]] = {"fvu": [], "gamma": []}
        for seed in sorted({row["seed"] for row in rows}):
            own = [r for r in rows if (r["theme"], r["kind"], r["seed"]) == (theme, kind, seed)]
            for name, collected in values.items():
                value = interpolate(own, name, BAR)
                if value is not None:
                    collected.append(value)
                    if name == "fvu":
                        by_seed.setdefault(seed, {})[kind] = value
        found[kind] = {n: {"mean": statistics.mean(v), "range": [min(v), max(v)]} for n, v in values.items() if v}
    for top, bottom in (("Gated", "L1"), ("JumpReLU", "Gated"), ("TopK", "Gated")):
        ratios = [v[top] / v[bottom] for v in by_seed.values() if top in v and bottom in v]
        if ratios:
            found[f"{top} / {bottom}"] = {"mean": statistics.mean(ratios), "range": [min(ratios), max(ratios)]}
    return found


def newest_rows(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the rows of each theme from the newest file that holds it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("sae_frontier_*.json")):
        rows = json.loads(path.read_text())["rows"]
        found |= {theme: own for theme in GRIDS if (own := [row for row in rows if row["theme"] == theme])}
    return [row for rows in found.values() for row in rows]


def figure(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw L0 against unexplained variance for each theme and kind."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from steepest.train.report.palette import BLUE, GREEN, PURPLE, VERMILLION

    looks = {"L1": (VERMILLION, "s"), "Gated": (BLUE, "o"), "JumpReLU": (GREEN, "^"), "TopK": (PURPLE, "D")}
    titles = {"synthetic": "64 directions in 32 dimensions", "real": "feed-forward of a small Llama"}
    themes = [theme for theme in GRIDS if any(row["theme"] == theme for row in rows)]
    drawn = Figure(figsize=(5 * len(themes), 4.4), layout="constrained")
    FigureCanvasAgg(drawn)
    for axes, theme in zip(drawn.subplots(1, len(themes), squeeze=False)[0], themes, strict=True):
        for kind, (color, marker) in looks.items():
            of_kind = [row for row in rows if row["theme"] == theme and row["kind"] == kind]
            for seed in sorted({row["seed"] for row in of_kind}):
                own = sorted((r["l0"], r["fvu"]) for r in of_kind if r["seed"] == seed)
                label = kind if seed == min(row["seed"] for row in of_kind) else None
                axes.plot(*zip(*own, strict=True), color=color, marker=marker, alpha=0.8, linewidth=1.2, label=label)
        axes.axvline(BAR, color="0.6", linestyle=":", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel="active features (L0)", title=titles[theme])
        axes.set_ylabel("fraction of variance unexplained")
        axes.grid(which="both", color="0.92", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    drawn.savefig(path, dpi=120)


def main() -> None:
    """Run a theme, or draw what was recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("theme", choices=(*GRIDS, "figure"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "sae-frontier-model")
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--few", action="store_true", help="one run of each kind, to try it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.theme == "figure":
        rows = newest_rows()
        figure(rows, Path(__file__).parents[2] / "docs" / "nn" / "sae-frontier.png")
        print(json.dumps({theme: summarize(rows, theme) for theme in GRIDS}, indent=1))
        return
    record = Record(arguments.out or RESULTS / f"sae_frontier_{machine()['date']}.json")
    run(arguments.theme, arguments.seeds, arguments.folder, record, few=arguments.few)


if __name__ == "__main__":
    main()
