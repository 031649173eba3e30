# SPDX-License-Identifier: Apache-2.0
"""The spectral condition: how large weights and updates must be so that features change alike at every width."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from steepest.studies._figure import figure
from steepest.studies._study import Claim, Numbers, Paper, Run, Study, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def prototypes(count: int = 128, *, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noisy copies of one random picture of 64 numbers for each of ten classes, and the classes."""
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.rand(10, 64, generator=generator)
    targets = torch.arange(count) % 10
    return pictures[targets] + 0.2 * torch.randn(count, 64, generator=generator), targets


def perceptron(width: int) -> torch.nn.Module:
    """Return the family's member: two hidden layers of the width."""
    from steepest.nn import MLP

    return MLP((64, width, width, 10))


def _widths(run: Run) -> tuple[int, ...]:
    return (64, 256) if run.quick else (64, 128, 256, 512, 1024, 2048)


def _checks(run: Run) -> dict[str, Any]:
    """Ratios of the sizes of activations between the widest and the narrowest network, after four steps of Adam."""
    from steepest.nn import CheckPlan, coord_check

    def check() -> dict[str, Any]:
        plan = CheckPlan(optimizer="adam", lr=0.01, loss=F.cross_entropy, seeds=2 if run.quick else 3)
        found: dict[str, Any] = {"widths": list(_widths(run))}
        for name in ("sp", "spectral"):
            made = coord_check(perceptron, _widths(run), prototypes(), parametrization=name, plan=plan)  # pyright: ignore[reportArgumentType]
            found[name] = {
                "ratios": list(made.ratios().values()),
                "sizes": {layer: [row[-1] for row in rows] for layer, rows in made.sizes.items()},
            }
        return found

    return run.once("coordinates", check)


def _flat(run: Run) -> Numbers:
    found = _checks(run)
    ratios = found["spectral"]["ratios"]
    return {"low": min(ratios), "high": max(ratios), "widths": found["widths"], "sizes": found["spectral"]["sizes"],
            "first": found["widths"][0], "last": found["widths"][-1]}  # fmt: skip


def _standard(run: Run) -> Numbers:
    found = _checks(run)
    ratios = found["sp"]["ratios"]
    growth = math.log(ratios[-1]) / math.log(found["widths"][-1] / found["widths"][0])
    return {"output": ratios[-1], "hidden": ratios[1], "growth": growth, "sizes": found["sp"]["sizes"],
            "first": found["widths"][0], "last": found["widths"][-1]}  # fmt: skip


def _updates(run: Run) -> Numbers:
    """Spectral norms of weights and of updates against sqrt(m/n), and their slopes over the width."""
    from steepest.nn import WidthScaling, spectral_report
    from steepest.optim import AdamW

    x, y = prototypes()
    scaling = WidthScaling(perceptron, 64, parametrization="spectral")
    weights, updates = [], []
    for width in _widths(run):
        torch.manual_seed(run.seed)
        model = scaling.build(width)
        optimizer = AdamW(scaling.param_groups(model, weight_decay=0.0), lr=0.01)
        before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        lines = spectral_report(model, before)
        weights.append([line.weight for line in lines])
        updates.append([line.update for line in lines])
    logs = np.log([float(width) for width in _widths(run)])
    slopes = np.polyfit(logs, np.log(np.array(updates)), 1)[0]
    hidden = np.polyfit(logs, np.log(np.array(weights)[:, 1]), 1)[0]
    return {"slopes": slopes, "largest": float(np.abs(slopes).max()), "hidden": hidden, "updates": updates}


def _recovers(run: Run) -> Numbers:
    from steepest.nn.width_table import abc

    del run
    same = [
        abc("spectral", kind, update=update) == abc("mup", kind, update=update)  # pyright: ignore[reportArgumentType]
        for kind in ("input", "hidden", "output")
        for update in ("gradient", "entrywise")
    ]
    return {"same": sum(same), "cases": len(same)}


def _draw(numbers: Mapping[str, Numbers]) -> "Figure":
    made, panels = figure("Size of each layer's output after four steps of Adam, over the width", 2, height=3.8)
    widths = numbers["flat"]["widths"]
    names = {"layers.0": "first layer", "layers.1": "second layer", "layers.2": "output"}
    for axes, key, title in zip(
        panels, ("standard", "flat"), ("standard initialization", "spectral condition"), strict=True
    ):
        for (layer, sizes), color in zip(numbers[key]["sizes"].items(), ("#56B4E9", "#0072B2", "#D55E00"), strict=True):
            axes.loglog(widths, sizes, "o-", color=color, label=names.get(layer, layer), base=2)
        axes.set(xlabel="width", ylabel="mean absolute output")
        axes.set_title(title, fontsize=10)
        axes.legend(frameon=False, fontsize=8)
    low = min(axes.get_ylim()[0] for axes in panels)
    high = max(axes.get_ylim()[1] for axes in panels)
    for axes in panels:
        axes.set_ylim(low, high)
    return made


STUDY = Study(
    key="spectral_condition",
    title="The spectral condition",
    paper=Paper("Yang, Simon, Bernstein", "A Spectral Condition for Feature Learning", 2023, "2310.17813"),
    question="How large may weights and updates be so that a wider network learns as a narrow one does?",
    idea=r"""
A layer $W$ with $n$ inputs and $m$ outputs turns features of size one (root mean square) into features of size one if
its spectral norm is of the order of $\sqrt{m/n}$, and changes them by an amount of order one if its update is too:

$$\lVert W \rVert_2 = \Theta\!\left(\sqrt{m/n}\right), \qquad \lVert \Delta W \rVert_2 =
\Theta\!\left(\sqrt{m/n}\right).$$

Everything else follows. A Gaussian matrix of standard deviation $s$ has spectral norm $s (\sqrt m + \sqrt n)$, so
$s \propto \min(1, \sqrt{m/n}) / \sqrt n$. An update of Adam has entries of size $\eta$ and low rank, so spectral norm
$\eta \sqrt{m n}$, so $\eta \propto 1/n$; gradient descent needs $\eta \propto m/n$. These are the rules of muP, from
one line instead of a table.
""",
    code="""
import torch
from steepest.nn import MLP, WidthScaling, spectral_report
from steepest.optim import AdamW

scaling = WidthScaling(lambda width: MLP((64, width, width, 10)), base=64, parametrization="spectral")
model = scaling.build(256)
optimizer = AdamW(scaling.param_groups(model), lr=0.01)
before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
model(torch.randn(32, 64)).square().mean().backward()
optimizer.step()
for line in spectral_report(model, before):
    print(line)
""",
    claims=(
        Claim(
            key="flat",
            statement="Under the condition activations have one size at every width, also after training steps.",
            number="ratio 1",
            source="section 3",
            condition="after four steps of Adam the mean absolute output of every layer of the widest perceptron is"
            " within a factor of 1.2 of the narrowest one's (64 to 2048; quick: to 256).",
            measure=_flat,
            decide=lambda n: judge(n["low"] >= 1 / 1.2 and n["high"] <= 1.2, n["low"] >= 0.5 and n["high"] <= 2),
            ours="{low:.2f} to {high:.2f} from width {first} to {last}",
        ),
        Claim(
            key="standard",
            statement="Under the standard parametrization they grow with the width.",
            number="unbounded",
            source="section 5",
            condition="the same ratio of the output under torch's own initialization with one learning rate is above"
            " 1.5"
            " (in part: above 1.2).",
            measure=_standard,
            decide=lambda n: judge(n["output"] > 1.5, n["output"] > 1.2),
            ours="output x {output:.1f}, second layer x {hidden:.1f} from width {first} to {last}: as"
            " width^{growth:.2f}",
        ),
        Claim(
            key="updates",
            statement="Updates have spectral norm of the order of sqrt(m/n).",
            number="slope 0",
            source="Condition 1",
            condition="slope of log(update / sqrt(m/n)) over log(width) within 0.1 of 0 for every matrix (in part:"
            " 0.25).",
            measure=_updates,
            decide=lambda n: judge(n["largest"] <= 0.1, n["largest"] <= 0.25),
            ours="largest slope {largest:.3f}; of the hidden weights themselves {hidden:+.3f}",
        ),
        Claim(
            key="recovers",
            statement="The condition gives muP's exponents.",
            number="the same table",
            source="section 4",
            condition="initial size and learning rate have the same exponents as muP's for input, hidden and output"
            " matrices, for gradient descent and Adam.",
            measure=_recovers,
            decide=lambda n: judge(n["same"] == n["cases"]),
            ours="{same} of {cases} agree",
        ),
    ),
    draw=_draw,
    caption="Left: with one learning rate for all widths the output of a wide network moves more. Right: with sizes and"
    " rates from the condition all widths move alike.",
    surprise="""
- Four steps are enough to see it: no training run has to end badly before a wrong scaling shows.
- A small Llama stays flat under it too, but not to the same degree: 0.71 to 1.01 from width 128 to 512 over all layers
  in the record of 2026-11-25, the head and the last feed-forward being the outliers.
""",
    benchmarks=("width_coordinates_amd-epyc_2026-11-25.json",),
)
