# SPDX-License-Identifier: Apache-2.0
"""Sizes of activations over the width, distance from the limit of infinite width, learning rates over the width.

    python -m benchmarks.nn.width coordinates --save
    python -m benchmarks.nn.width limit --save
    python -m benchmarks.nn.width transfer --save

`coordinates` (2 minutes on one core): a perceptron with two hidden layers, widths 128 to 2048, four steps of Adam and
of SGD, three seeds, under the standard parametrization, muP and the spectral condition; writes docs/nn/width.png.
`limit` (1 minute): networks of finite width against the exact limit, 64 to 16384, eight seeds. `transfer` (30 minutes;
each point is kept, so it may be stopped and started again): final loss over learning rates at widths 64, 256 and 1024.
The data are noisy copies of ten random pictures of 64 numbers.
"""

import argparse
import datetime
import json
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from steepest.nn import MLP, CheckPlan, FiniteLinear, InfiniteLinear, WidthScaling, coord_check, draw_checks
from steepest.nn.width_table import Parametrization
from steepest.optim import AdamW
from steepest.train import machine
from tests.nn.prototypes import prototypes

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
NAMES: tuple[Parametrization, ...] = ("sp", "mup", "spectral")
WIDTHS = (128, 256, 512, 1024, 2048)
LIMIT_WIDTHS = (64, 256, 1024, 4096, 16384)
TRANSFER_WIDTHS = (64, 256, 1024)


def mlp(width: int) -> MLP:
    """Return the family's member."""
    return MLP((64, width, width, 10))


def coordinates(figure: Path | None) -> list[dict[str, Any]]:
    """Check each parametrization with Adam and SGD."""
    rows, drawn = [], []
    for optimizer, lr in (("adam", 0.01), ("sgd", 1.0)):
        for name in NAMES:
            check = coord_check(
                mlp, WIDTHS, prototypes(), parametrization=name, plan=CheckPlan(optimizer=optimizer, lr=lr)
            )
            if optimizer == "adam":
                drawn.append(check)
            ratios = {layer: round(ratio, 4) for layer, ratio in check.ratios().items()}
            holds = check.holds()
            rows.append({"optimizer": optimizer, "lr": lr, "parametrization": name, "ratios": ratios, "holds": holds})
            print(rows[-1], flush=True)
    if figure is not None:
        draw_checks(drawn, figure)
    return rows


def limit(seeds: int) -> list[dict[str, Any]]:
    """Return the root mean square distance on held-out data of finite networks from the limit."""
    data, labels = prototypes(192, classes=2)
    x, y, held = data[:128].double(), labels[:128] * 2.0 - 1, data[128:].double()
    exact = InfiniteLinear(64)
    for _ in range(40):
        exact.step(x, y, lr=0.05)
    rows = []
    for width in LIMIT_WIDTHS:
        squares = [_distance(width, seed, (x, y, held), exact) for seed in range(seeds)]
        rmse = math.sqrt(sum(squares) / seeds)
        rows.append({"width": width, "rmse": rmse, "rmse_times_root_of_width": rmse * width**0.5})
        print(rows[-1], flush=True)
    return rows


def _distance(width: int, seed: int, data: tuple[torch.Tensor, ...], exact: InfiniteLinear) -> float:
    x, y, held = data
    net = FiniteLinear(64, width, generator=torch.Generator().manual_seed(seed)).double()
    for _ in range(40):
        loss = 0.5 * (net(x) - y).square().mean()
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(net.parameters(), grads, strict=True):
                parameter -= 0.05 * width * grad
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
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/ and the figure")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"width_{arguments.part}_amd-epyc_{datetime.date.today().isoformat()}.json"
    if arguments.part == "transfer":
        transfer(path, arguments.steps)
        return
    rows = (
        coordinates(ROOT / "docs/nn/width.png" if arguments.save else None)
        if arguments.part == "coordinates"
        else limit(arguments.seeds)
    )
    if arguments.save:
        save(path, arguments.part, rows)


if __name__ == "__main__":
    main()
