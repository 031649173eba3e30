# SPDX-License-Identifier: Apache-2.0
"""Normalizing a gradient under several norms in turn: the fixed point, SWAN as an instance, SinkGD's memory, speed."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from steepest.studies._figure import figure
from steepest.studies._study import Claim, Numbers, Paper, Run, Study, judge
from steepest.studies._text import Recipe, train, tune

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STEPS = 600
_RATES = {"adamw": (2.5e-3, 5e-3, 1e-2), "sinkgd": (1e-2, 2e-2, 4e-2)}


def _fixed_point(run: Run) -> Numbers:
    """Passes of rows and columns in turn on random matrices, and what is left after each."""
    from steepest.geometry import ColumnNorm, RowNorm, alternate

    generator = torch.Generator().manual_seed(run.seed)
    x = torch.randn(20, 24, 40, dtype=torch.float64, generator=generator)
    norms = [RowNorm(rms=True), ColumnNorm(rms=True)]
    residuals = [alternate(norms, x, steps=k).residual.amax().item() for k in range(1, 31)]
    shrink = max(b / a for a, b in itertools.pairwise(residuals[:13]))
    return {"residuals": residuals, "after_5": residuals[4], "after_30": residuals[29], "shrink": shrink}


def _swan(run: Run) -> Numbers:
    from steepest.geometry import RowNorm, Spectral, alternate, exact_polar, whiten

    generator = torch.Generator().manual_seed(run.seed)
    x = torch.randn(8, 24, 40, dtype=torch.float64, generator=generator)
    rows = RowNorm(rms=True)
    ours = alternate([rows, Spectral(exact_polar)], x, steps=1).x
    swan = whiten(-rows.lmo(x), steps=60).x
    scale = (ours * swan).sum() / (swan * swan).sum()
    return {"away": ((ours - scale * swan).norm() / ours.norm()).item()}


def _memory(run: Run) -> Numbers:
    from steepest.optim import AdamW, SinkGD, Swan

    del run
    held = {}
    for name, make in (("sinkgd", SinkGD), ("swan", Swan), ("adamw", AdamW)):
        weight = torch.nn.Parameter(torch.randn(32, 48, generator=torch.Generator().manual_seed(0)))
        weight.grad = torch.randn(32, 48, generator=torch.Generator().manual_seed(1))
        optimizer = make([weight], lr=1e-3)
        optimizer.step()
        tensors = [t for t in optimizer.state[weight].values() if torch.is_tensor(t) and t.ndim]
        held[name] = sum(t.numel() * t.element_size() for t in tensors) / weight.numel()
    return held


def _train(method: str, steps: int, lr: float, seed: int) -> dict[str, float | None]:
    from steepest.nn import Llama, LlamaConfig
    from steepest.optim import AdamW, SinkGD, param_groups

    torch.manual_seed(seed)
    model = Llama(LlamaConfig(width=64, layers=2, heads=2, context=64, vocab_size=256))
    if method == "adamw":
        optimizer: torch.optim.Optimizer = AdamW(model, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    else:
        optimizer = SinkGD(param_groups(model, others_lr=5e-3), lr=lr)
    return train(model, [optimizer], Recipe(steps), seed)


def _speed(run: Run) -> Numbers:
    found: dict[str, Any] = {"steps": _STEPS}
    for name, method, steps in (
        ("adamw", "adamw", _STEPS),
        ("third", "sinkgd", _STEPS // 3),
        ("sinkgd", "sinkgd", _STEPS),
    ):
        tuned = tune(run, name, lambda lr, seed, m=method, n=steps: _train(m, n, lr, seed), _RATES[method], 3)
        found |= {name: tuned.mean, f"{name}_tuned": tuned.numbers()}
    return found


def _draw(numbers: Mapping[str, Numbers]) -> "Figure":
    text = numbers.get("speed")
    made, panels = figure("Rows and columns in turn: a fixed point after a few passes", 1 if text is None else 2)
    residuals = numbers["fixed_point"]["residuals"]
    panels[0].semilogy(range(1, len(residuals) + 1), residuals, "o-", color="#0072B2", markersize=4)
    panels[0].axvline(5, color="0.5", linestyle="--", linewidth=1)
    panels[0].annotate("SinkGD's five passes", (5.4, residuals[0] / 3), color="0.3", fontsize=9)
    panels[0].set(xlabel="passes", ylabel="distance from the fixed point, worst of 20")
    if text is not None:
        looks = (
            ("adamw", "AdamW", "#D55E00"),
            ("third", "SinkGD, a third\nof the steps", "#56B4E9"),
            ("sinkgd", "SinkGD", "#0072B2"),
        )
        for place, (name, _, color) in enumerate(looks):
            losses = text[f"{name}_tuned"]["losses"]
            panels[1].plot([place] * len(losses), losses, "o", color=color, alpha=0.7)
            panels[1].plot([place], [text[name]], "_", color=color, markersize=34, markeredgewidth=2.5)
        panels[1].set_xticks(range(3), [label for _, label, _ in looks])
        panels[1].set(ylabel="validation loss, nats a byte", xlim=(-0.6, 2.6))
    return made


STUDY = Study(
    key="multi_normalization",
    title="Several norms at once",
    paper=Paper(
        "Scetbon et al.", "Gradient Multi-Normalization for Stateless and Scalable LLM Training", 2025, "2502.06742"
    ),
    question="Can an optimizer without any state learn as fast as Adam?",
    idea=r"""
Steepest descent under one norm normalizes the gradient in one way: rows, columns, singular values. One can ask for
several at once, by normalizing under each in turn,

$$X \leftarrow P_{\text{columns}}(P_{\text{rows}}(X)),$$

where rows are scaled to length $\sqrt n$ and columns to $\sqrt m$. This is Sinkhorn's iteration for the squares of the
entries: it converges for a matrix without zeros, and each pass shrinks the error by a constant. Five passes are SinkGD.
With rows and then the polar factor one pass is SWAN. Neither keeps any average of the gradients, so the only memory of
a matrix is its gradient.
""",
    code="""
import torch
from steepest.geometry import ColumnNorm, RowNorm, alternate
from steepest.optim import SinkGD

x = torch.randn(6, 9, dtype=torch.float64)
done = alternate([RowNorm(rms=True), ColumnNorm(rms=True)], x, steps=500, tol=1e-9)
print(done.steps, done.residual)

model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
optimizer = SinkGD(model, lr=0.02)
model(torch.randn(8, 16)).square().mean().backward()
optimizer.step()
""",
    claims=(
        Claim(
            key="speed",
            statement="SinkGD reaches Adam's loss with a third of the steps.",
            number="up to 3x",
            source="abstract, 1.3 B parameters",
            condition="on the shipped text, each at the best of its learning rates over three seeds: mean validation"
            " loss of SinkGD with a third of the steps at most AdamW's. In part: with all steps below it.",
            measure=_speed,
            decide=lambda n: judge(n["third"] <= n["adamw"], n["sinkgd"] < n["adamw"]),
            ours="AdamW {adamw:.3f} nats a byte in {steps} steps; SinkGD {sinkgd:.3f}, with a third of them"
            " {third:.3f}",
            budgets=("full",),
            untested="needs training runs of minutes",
        ),
        Claim(
            key="fixed_point",
            statement="Normalizing rows and columns in turn converges to a common fixed point.",
            number="converges",
            source="Theorem 3.4",
            condition="on 20 random matrices of 24 x 40 the distance from the fixed point falls in each of the first 12"
            " passes, and is below 1e-6 after 30.",
            measure=_fixed_point,
            decide=lambda n: judge(n["shrink"] < 1 and n["after_30"] < 1e-6, n["shrink"] < 1),
            ours="{after_5:.1e} after 5 passes, {after_30:.0e} after 30; a pass leaves at most {shrink:.2f} of it",
        ),
        Claim(
            key="swan",
            statement="SWAN is one pass of row normalization and whitening.",
            number="the same direction",
            source="section 3.1",
            condition="the direction of one pass of rows and spectral norm is SWAN's (rows, then its own whitening"
            " run to"
            " its end) up to a factor, within 1e-8.",
            measure=_swan,
            decide=lambda n: judge(n["away"] <= 1e-8),
            ours="relative difference {away:.0e}",
        ),
        Claim(
            key="memory",
            statement="Neither SinkGD nor SWAN keeps state for matrices.",
            number="0 bytes",
            source="Table 1",
            condition="bytes of state an entry of a matrix after a step are 0 for both.",
            measure=_memory,
            decide=lambda n: judge(n["sinkgd"] == 0 and n["swan"] == 0),
            ours="SinkGD {sinkgd:g}, SWAN {swan:g}, AdamW {adamw:g} bytes an entry",
        ),
    ),
    draw=_draw,
    caption="How far 20 random matrices are from the fixed point after each pass.",
    surprise="""
- The whitening that circulates with SWAN (step size 0.8) does not converge; `whiten` refuses it and says why
  ([norms](../geometry/norms.md)).
- A fixed point needs a matrix without zero rows: the gradient of an embedding has many. Such rows stay zero here.
""",
)
