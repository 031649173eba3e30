# SPDX-License-Identifier: Apache-2.0
"""Polynomials as activations: what they contain, what they fit, and what they do in a language model."""

import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steepest.studies._figure import figure
from steepest.studies._study import Claim, Numbers, Paper, Run, Study, judge
from steepest.studies._text import Recipe, train, tune

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RATES = (4e-3, 8e-3, 1.6e-2)
_KINDS = ("relu", "gelu", "polyrelu", "polynorm")


def _train(kind: str, lr: float, seed: int) -> dict[str, float | None]:
    from steepest.nn import Llama, LlamaConfig
    from steepest.optim import AdamW

    torch.manual_seed(seed)
    model = Llama(LlamaConfig(width=64, layers=2, heads=2, context=64, vocab_size=256, feed_forward=kind))
    return train(model, [AdamW(model, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)], Recipe(600), seed)


def _text(run: Run) -> Numbers:
    kinds = ("swiglu", "polynorm", "polyrelu")
    found = {kind: tune(run, kind, lambda lr, seed, k=kind: _train(k, lr, seed), _RATES, 3) for kind in kinds}
    numbers: dict[str, Any] = {kind: found[kind].mean for kind in kinds}
    error = (found["polynorm"].error ** 2 + found["swiglu"].error ** 2) ** 0.5
    return (
        numbers
        | {"gain": found["polynorm"].mean - found["swiglu"].mean, "error": error}
        | {f"{kind}_tuned": found[kind].numbers() for kind in kinds}
    )


def _fit(kind: str, steps: int, seed: int) -> float:
    """Return the test error of a perceptron with two hidden layers of 64 on a random cubic form in 8 variables."""
    from steepest.nn import activation

    generator = torch.Generator().manual_seed(seed)
    cubic = torch.randn(8, 8, 8, generator=generator) / 8**1.5

    def data(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.rand(count, 8, generator=generator) * 2 - 1
        return x, torch.einsum("ni,nj,nk,ijk->n", x, x, x, cubic)

    (x, y), (test_x, test_y) = data(2000), data(2000)
    scale = y.std()
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(8, 64), activation(kind), nn.Linear(64, 64), activation(kind), nn.Linear(64, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        chosen = torch.randint(len(x), (128,), generator=generator)
        (model(x[chosen]).squeeze(1) - y[chosen] / scale).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        return (model(test_x).squeeze(1) - test_y / scale).square().mean().item()


def _regression(run: Run) -> Numbers:
    steps, seeds = (400, 1) if run.quick else (1500, 5)
    errors = {
        kind: [
            run.once(f"cubic-{kind}-{run.seed + s}", lambda k=kind, s=s: {"error": _fit(k, steps, run.seed + s)})[
                "error"
            ]
            for s in range(seeds)
        ]
        for kind in _KINDS
    }
    means = {kind: statistics.mean(values) for kind, values in errors.items()}
    ratio = means["relu"] / max(means["polyrelu"], means["polynorm"])
    return means | {"errors": errors, "steps": steps, "ratio": ratio}


def _contains(run: Run) -> Numbers:
    from steepest.nn import PolyReLU

    x = torch.randn(100_000, generator=torch.Generator().manual_seed(run.seed)) * 10
    layer = PolyReLU()
    with torch.no_grad():
        layer.coefficients.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
        different = (layer(x) != torch.relu(x)).sum()
    return {"different": different.item(), "count": x.numel()}


def _draw(numbers: Mapping[str, Numbers]) -> "Figure":
    found = numbers["cubic"]
    text = numbers.get("text")
    made, panels = figure("Polynomial activations: a polynomial target, and text", 1 if text is None else 2)
    colors = {"relu": "0.55", "gelu": "#E69F00", "polyrelu": "#56B4E9", "polynorm": "#0072B2", "swiglu": "#D55E00"}
    axes = panels[0]
    for place, kind in enumerate(_KINDS):
        axes.bar(place, found[kind], 0.6, color=colors[kind])
        axes.plot([place] * len(found["errors"][kind]), found["errors"][kind], "k.", markersize=5)
    axes.set_xticks(range(len(_KINDS)), ["ReLU", "GELU", "PolyReLU", "PolyNorm"])
    axes.set(yscale="log", ylabel="test error / variance, random cubic forms")
    if text is not None:
        kinds = ("swiglu", "polynorm", "polyrelu")
        for place, kind in enumerate(kinds):
            losses = text[f"{kind}_tuned"]["losses"]
            panels[1].plot([place] * len(losses), losses, "o", color=colors[kind], alpha=0.7)
            panels[1].plot([place], [text[kind]], "_", color=colors[kind], markersize=34, markeredgewidth=2.5)
        panels[1].set_xticks(range(3), ["SwiGLU", "PolyNorm", "PolyReLU"])
        panels[1].set(ylabel="validation loss, nats a byte", xlim=(-0.6, 2.6))
    return made


STUDY = Study(
    key="polycom",
    title="Polynomial activations",
    paper=Paper("Zhuo et al.", "Polynomial Composition Activations", 2024, "2411.03884"),
    question="Does a polynomial make a better activation than a gate?",
    idea=r"""
An activation can be a polynomial with learned coefficients, if something keeps its powers in range. Two ways:

$$\mathrm{PolyReLU}(x) = \sum_{i=0}^{3} a_i \max(x, 0)^i, \qquad
\mathrm{PolyNorm}(x) = a_0 + \sum_{i=1}^{3} a_i \frac{x^i}{\mathrm{rms}(x^i)},$$

with the root mean square over the features of a position. They start at $a_0 = 0$, $a_i = \frac{1}{3}$. PolyReLU
contains ReLU ($a = (0, 1, 0, 0)$), so it can do whatever a ReLU network of the same size does. A layer gains four
numbers, and products of up to three features at once, where a gate gives products of two.
""",
    code="""
import torch
from steepest.nn import FeedForward, PolyNorm, PolyReLU

layer = FeedForward("polynorm", 96)
print(layer(torch.randn(2, 16, 96)).shape)
print(PolyReLU()(torch.linspace(-1, 2, 4)), PolyNorm()(torch.randn(4, 32)).shape)
""",
    claims=(
        Claim(
            key="text",
            statement="PolyNorm trains a language model to a lower loss than SwiGLU.",
            number="2.19 becomes 2.17 (1 B parameters)",
            source="section 4.1",
            condition="on the shipped text, equal parameters, each at the best of its learning rates, mean"
            " validation loss"
            " over three seeds below SwiGLU's by more than two standard errors of the difference. In part: not above it"
            " by more than two standard errors.",
            measure=_text,
            decide=lambda n: judge(n["gain"] < -2 * n["error"], n["gain"] <= 2 * n["error"]),
            ours="{gain:+.3f} nats a byte (standard error {error:.3f}): PolyNorm {polynorm:.3f}, SwiGLU {swiglu:.3f},"
            " PolyReLU {polyrelu:.3f}",
            budgets=("full",),
            untested="needs training runs of minutes",
        ),
        Claim(
            key="cubic",
            statement="A network with polynomial activations fits smooth functions with fewer parameters than with"
            " ReLU.",
            number="optimal rate; no number",
            source="Theorem 3",
            condition="at equal size (64-64, 8 inputs) the test error on random cubic forms, mean over seeds, is at"
            " most half of ReLU's for both PolyReLU and PolyNorm. In part: below it.",
            measure=_regression,
            decide=lambda n: judge(n["ratio"] >= 2, n["ratio"] > 1),
            ours="ReLU {relu:.4f}, GELU {gelu:.4f}, PolyReLU {polyrelu:.4f}, PolyNorm {polynorm:.4f} of the variance"
            " after {steps} steps",
        ),
        Claim(
            key="contains",
            statement="PolyReLU contains ReLU.",
            number="exactly",
            source="section 3",
            condition="with coefficients (0, 1, 0, 0) it gives the bits of ReLU on 100,000 numbers.",
            measure=_contains,
            decide=lambda n: judge(n["different"] == 0),
            ours="{different} of {count} differ",
        ),
    ),
    draw=_draw,
    caption="Test error on random cubic forms of eight variables, each seed and the mean.",
    surprise="""
- Smoothness helps late: on a polynomial target GELU's error is twice ReLU's after 400 steps (quick run, one seed) and
  two fifths of it after 1500; both polynomials have less than half of either at both times.
""",
)
