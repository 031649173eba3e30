# SPDX-License-Identifier: Apache-2.0
"""Sizes of activations over the width, distance from the limit of infinite width, learning rates over the width.

    python -m benchmarks.nn.width coordinates
    python -m benchmarks.nn.width limit
    python -m benchmarks.nn.width transfer

All write to benchmarks/results/ as they go and do not compute again what is there. `coordinates` (2 minutes on one
core): a perceptron with two hidden layers, widths 128 to 2048, and a small Llama, 128 to 512; four steps of Adam and of
SGD, three seeds, under the standard parametrization, muP and the spectral condition; draws docs/nn/width.png.
`limit` (1 minute): networks of finite width against the exact limit, 64 to 16384, eight seeds. `transfer` (30 minutes):
final loss over learning rates at widths 64, 256 and 1024.
The data are noisy copies of ten random pictures of 64 numbers.
"""

import argparse
import dataclasses
import datetime
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from steepest.nn import (
    MLP,
    CheckPlan,
    CoordCheck,
    FiniteLinear,
    InfiniteLinear,
    Llama,
    LlamaConfig,
    WidthScaling,
    coord_check,
    draw_checks,
)
from steepest.nn.width_table import Parametrization
from steepest.optim import AdamW
from steepest.train import machine
from tests.nn.prototypes import prototypes

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NAMES: tuple[Parametrization, ...] = ("sp", "mup", "spectral")
WIDTHS = (128, 256, 512, 1024, 2048)
LLAMA_WIDTHS = (128, 256, 512)
LIMIT_WIDTHS = (64, 256, 1024, 4096, 16384)
LIMIT_STEPS, LIMIT_LR = 40, 0.02
TRANSFER_WIDTHS = (64, 256, 1024)


def mlp(width: int) -> MLP:
    """Return the family's member."""
    return MLP((64, width, width, 10))


def llama(width: int) -> Llama:
    """Return the family's member: heads of one size grow in number; every matrix starts at one size."""
    shape: dict[str, Any] = {"vocab_size": 64, "layers": 2, "ffn_width": 3 * width, "context": 16}
    return Llama(LlamaConfig(width=width, heads=width // 32, init="normal", **shape))


def text_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of each next token."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def coordinates(path: Path, figure: Path) -> None:
    """Check each parametrization with Adam and SGD, and a Llama with Adam; checks in the file are not done again."""
    rows = json.loads(path.read_text())["coordinates"] if path.exists() else []
    known = {(row["family"], row["optimizer"], row["parametrization"]): row for row in rows}
    ids = torch.randint(64, (8, 17), generator=torch.Generator().manual_seed(0))
    text = ids[:, :-1], ids[:, 1:]
    for family, make, widths, batch, optimizer, lr, loss in (
        ("perceptron", mlp, WIDTHS, prototypes(), "adam", 0.01, F.cross_entropy),
        ("perceptron", mlp, WIDTHS, prototypes(), "sgd", 1.0, F.cross_entropy),
        ("llama", llama, LLAMA_WIDTHS, text, "adam", 0.003, text_loss),
    ):
        for name in NAMES:
            if (family, optimizer, name) in known:
                continue
            plan = CheckPlan(optimizer=optimizer, lr=lr, loss=loss)
            check = coord_check(make, widths, batch, parametrization=name, plan=plan)
            row = {"family": family, "optimizer": optimizer, "lr": lr, "steps": plan.steps, "seeds": plan.seeds}
            rows.append({**row, **dataclasses.asdict(check), "ratios": check.ratios(), "holds": check.holds()})
            known[family, optimizer, name] = rows[-1]
            print(family, optimizer, name, check.ratios(), flush=True)
            save(path, "coordinates", rows)
    found = [known["perceptron", "adam", name] for name in NAMES]
    draw_checks([CoordCheck(row["parametrization"], tuple(row["widths"]), row["sizes"]) for row in found], figure)


def limit(seeds: int) -> list[dict[str, Any]]:
    """Return the root mean square distance on held-out data of finite networks from the limit."""
    data, labels = prototypes(192, classes=2)
    x, y, held = data[:128].double(), labels[:128] * 2.0 - 1, data[128:].double()
    exact = InfiniteLinear(64)
    for _ in range(LIMIT_STEPS):
        exact.step(x, y, lr=LIMIT_LR)
    rows = []
    for width in LIMIT_WIDTHS:
        squares = [_distance(width, seed, (x, y, held), exact) for seed in range(seeds)]
        rmse = math.sqrt(sum(squares) / seeds)
        rows.append({"width": width, "seeds": seeds, "rmse": rmse, "rmse_times_root_of_width": rmse * width**0.5})
        print(rows[-1], flush=True)
    return rows


def _distance(width: int, seed: int, data: tuple[torch.Tensor, ...], exact: InfiniteLinear) -> float:
    x, y, held = data
    net = FiniteLinear(64, width, generator=torch.Generator().manual_seed(seed)).double()
    for _ in range(LIMIT_STEPS):
        loss = 0.5 * (net(x) - y).square().mean()
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(net.parameters(), grads, strict=True):
                parameter -= LIMIT_LR * width * grad
    with torch.no_grad():
        return (net(held) - exact(held)).square().mean().item()


def transfer(path: Path, steps: int) -> list[dict[str, Any]]:
    """Return the final training loss over learning rates; points in the file are not computed again."""
    rows = json.loads(path.read_text())["transfer"] if path.exists() else []
    data = prototypes(512)
    known = {(row["parametrization"], row["width"], row["lr"]) for row in rows}
    for width in TRANSFER_WIDTHS:
        for name in NAMES[:2]:
            for exponent in range(-11, -2):
                if (name, width, 2.0**exponent) not in known:
                    rows.append(_tuned(name, width, 2.0**exponent, steps, data))
                    print(rows[-1], flush=True)
                    save(path, "transfer", rows)
    return rows


def _tuned(
    name: Parametrization, width: int, lr: float, steps: int, data: tuple[torch.Tensor, torch.Tensor]
) -> dict[str, Any]:
    x, y = data
    scaling = WidthScaling(mlp, TRANSFER_WIDTHS[0], parametrization=name)
    losses = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = scaling.build(width)
        optimizer = AdamW(scaling.param_groups(model, weight_decay=0.0), lr=lr)
        for step in range(steps):
            chosen = torch.randint(len(x), (64,), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            F.cross_entropy(model(x[chosen]), y[chosen]).backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(F.cross_entropy(model(x), y).item())
    return {"parametrization": name, "width": width, "lr": lr, "steps": steps, "losses": losses}


def save(path: Path, key: str, rows: list[dict[str, Any]]) -> None:
    """Put rows under a key of the day's file."""
    described = {key: value for key, value in machine.describe().items() if key != "disk"}
    known = json.loads(path.read_text()) if path.exists() else {"machine": described}
    path.write_text(json.dumps(known | {key: rows}, indent=1) + "\n")


def main() -> None:
    """Measure one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("coordinates", "limit", "transfer"))
    parser.add_argument("--seeds", type=int, default=8, help="of `limit`")
    parser.add_argument("--steps", type=int, default=60, help="of `transfer`")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"width_{arguments.part}_amd-epyc_{datetime.date.today().isoformat()}.json"
    if arguments.part == "transfer":
        transfer(path, arguments.steps)
    elif arguments.part == "coordinates":
        coordinates(path, ROOT / "docs" / "nn" / "width.png")
    else:
        save(path, "limit", limit(arguments.seeds))


if __name__ == "__main__":
    main()
