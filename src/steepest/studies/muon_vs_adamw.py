# SPDX-License-Identifier: Apache-2.0
"""Muon against AdamW: steps to a loss, learning rates, memory, arithmetic, and a task that is no language."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from steepest.studies._figure import figure
from steepest.studies._study import Claim, Numbers, Paper, Run, Study, judge
from steepest.studies._text import Recipe, train, tune

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Part of AdamW's steps that Muon gets: Moonlight's fraction of the arithmetic for the same loss.
SHARE = 0.52
#: Part of the steps on images: 2.6 of 3.3 seconds in the CIFAR-10 record.
IMAGE_SHARE = 2.6 / 3.3
_RATES = (2.5e-3, 5e-3, 1e-2)
_IMAGE_RATES = (2.5e-3, 5e-3, 1e-2)


def _optimizer(method: str, model: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return the method with one learning rate for all parameters; Muon's steps have the size of AdamW's."""
    from steepest.optim import AdamW, Muon, Options, param_groups

    if method == "adamw":
        return AdamW(model, lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    groups = param_groups(model, others_lr=lr)
    return Muon(groups, lr=lr, options=Options(lr_scale="match_rms"))


def _model(width: int = 64) -> torch.nn.Module:
    from steepest.nn import Llama, LlamaConfig

    return Llama(LlamaConfig(width=width, layers=2, heads=2, context=64, vocab_size=256))


def _train(method: str, recipe: Recipe, lr: float, seed: int, width: int) -> dict[str, float | None]:
    torch.manual_seed(seed)
    model = _model(width)
    return train(model, [_optimizer(method, model, lr)], recipe, seed)


def _text(run: Run) -> dict[str, Any]:
    """Both methods at their best learning rate: AdamW with all steps, Muon with a share of them and with all."""
    steps, seeds, width, rates = (60, 1, 32, _RATES[1:]) if run.quick else (400, 3, 64, _RATES)
    found: dict[str, Any] = {"steps": steps}
    for name, method, part in (("adamw", "adamw", 1.0), ("muon", "muon", SHARE), ("muon_all", "muon", 1.0)):
        recipe = Recipe(round(steps * part), eval_bytes=8192 if run.quick else 65536)
        tuned = tune(
            run,
            f"text-{name}",
            lambda lr, seed, m=method, r=recipe: _train(m, r, lr, seed, width),
            rates if method == "adamw" or not run.quick else rates[-1:],
            seeds,
            beyond=0 if run.quick else 2,
        )
        found[name] = tuned.numbers()
    return found


def _half(run: Run) -> Numbers:
    found = _text(run)
    return (
        found
        | {name: found[name]["mean"] for name in ("adamw", "muon", "muon_all")}
        | {f"{name}_tuned": found[name] for name in ("adamw", "muon", "muon_all")}
    )


def _same_rate(run: Run) -> Numbers:
    found = _text(run)
    muon = dict(zip(found["muon"]["rates"], found["muon"]["by_rate"], strict=True))
    at = min(muon, key=lambda lr: abs(lr / found["adamw"]["lr"] - 1))
    return {"lr_adamw": found["adamw"]["lr"], "lr_muon": found["muon"]["lr"], "loss": muon[at] - min(muon.values())}


def _memory(run: Run) -> Numbers:
    """Bytes of state on the hidden matrices after one step."""
    del run
    held = {}
    for method in ("adamw", "muon"):
        torch.manual_seed(0)
        model = _model()
        optimizer = _optimizer(method, model, 1e-3)
        ids = torch.randint(256, (2, 17))
        model(ids[:, :-1], targets=ids[:, 1:]).mean().backward()
        optimizer.step()
        matrices = [p for name, p in model.named_parameters() if "layers" in name and p.ndim == 2]
        tensors = [t for p in matrices for t in optimizer.state[p].values() if torch.is_tensor(t) and t.ndim]
        held[method] = sum(t.numel() * t.element_size() for t in tensors) / sum(p.numel() for p in matrices)
    return held | {"ratio": held["muon"] / held["adamw"]}


def _arithmetic(run: Run) -> Numbers:
    """Count the products of one step, forward and backward and of the optimizer, and compare with 5 m / B."""
    from torch.utils.flop_counter import FlopCounterMode

    from steepest.geometry import published_iteration
    from steepest.optim import Muon

    del run
    width, rows, context = 128, 32, 64
    model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for _ in range(3)))
    x = torch.randn(rows * context, width, generator=torch.Generator().manual_seed(0), requires_grad=True)
    optimizer = Muon(list(model.parameters()), lr=1e-3, polar=published_iteration("muon"))
    with FlopCounterMode(display=False) as both:
        model(x).square().mean().backward()
    with FlopCounterMode(display=False) as step:
        optimizer.step()
    tokens = rows * context
    return {
        "counted": step.get_total_flops() / both.get_total_flops(),
        "bound": 5 * width / tokens,
        "tokens": tokens,
        "nanogpt": 5 * 768 / 524288,
        "llama": 5 * 16384 / 16e6,
    }


def _image(method: str, steps: int, lr: float, seed: int) -> dict[str, float | None]:
    from steepest.lab.tasks import problem_of
    from steepest.optim import Schedule

    problem = problem_of("digits", seed)
    optimizer = _optimizer(method, problem.model, lr)
    peaks = [group["lr"] for group in optimizer.param_groups]
    schedule = Schedule(steps=steps, warmup=steps // 10)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randint(len(problem.train[0]), (64,), generator=generator)
        problem.loss(problem.model, *(tensor[chosen] for tensor in problem.train)).backward()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule(step)
        optimizer.step()
        optimizer.zero_grad()
    problem.model.eval()
    with torch.no_grad():
        return {"loss": problem.loss(problem.model, *problem.val).item()}


def _images(run: Run) -> Numbers:
    steps, seeds = 300, 5
    found: dict[str, Any] = {}
    for method, part in (("adamw", 1.0), ("muon", IMAGE_SHARE)):
        count = round(steps * part)
        tuned = tune(
            run, f"digits-{method}", lambda lr, seed, m=method, n=count: _image(m, n, lr, seed), _IMAGE_RATES, seeds
        )
        found |= {method: tuned.mean, f"{method}_tuned": tuned.numbers()}
    error = (found["muon_tuned"]["error"] ** 2 + found["adamw_tuned"]["error"] ** 2) ** 0.5
    return found | {"steps": steps, "standard_error": error}


def _draw(numbers: Mapping[str, Numbers]) -> "Figure":
    text = numbers["half"]
    made, (left, right) = figure("Muon in half the steps, and with all of them, beside AdamW", 2)
    looks = (
        ("adamw", "AdamW, all steps", "#D55E00", "s-"),
        ("muon", f"Muon, {SHARE:.0%} of the steps", "#0072B2", "o-"),
        ("muon_all", "Muon, all steps", "#009E73", "^-"),
    )
    for name, label, color, mark in looks:
        found = text[f"{name}_tuned"]
        left.plot(found["rates"], found["by_rate"], mark, color=color, label=label)
    rates = sorted({rate for name, *_ in looks for rate in text[f"{name}_tuned"]["rates"]})
    left.set(xscale="log", xlabel="learning rate", ylabel="validation loss, nats a byte")
    left.set_xticks(rates, [f"{rate:g}" for rate in rates], minor=False)
    left.minorticks_off()
    left.legend(frameon=False)
    names = [label for _, label, _, _ in looks]
    for place, (name, _, color, _) in enumerate(looks):
        found = text[f"{name}_tuned"]
        right.plot([place] * len(found["losses"]), found["losses"], "o", color=color, alpha=0.7)
        right.plot([place], [found["mean"]], "_", color=color, markersize=34, markeredgewidth=2.5)
    right.set_xticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    right.set(ylabel="each seed at its best rate, and the mean", xlim=(-0.6, len(names) - 0.4))
    return made


STUDY = Study(
    key="muon_vs_adamw",
    title="Muon against AdamW",
    paper=Paper("Liu et al.", "Muon is Scalable for LLM Training", 2025, "2502.16982"),
    question="Is Muon better than AdamW?",
    idea=r"""
Adam divides each entry of the gradient by its own recent size. Muon looks at a matrix as a matrix: it averages the
gradients, $M \leftarrow 0.95\, M + 0.05\, G$, and moves along the nearest semi-orthogonal matrix,

$$W \leftarrow W - \eta \cdot 0.2 \sqrt{\max(m, n)} \; U V^\top, \qquad M = U \Sigma V^\top .$$

That is steepest descent under the spectral norm: every direction of a matrix moves equally far, also those in which the
gradient is small. The factor gives the step the size that AdamW's has, so one learning rate serves both kinds of
parameters. Embeddings, heads, gains and biases stay with AdamW. $U V^\top$ comes from five matrix polynomials, so no
decomposition is computed; for $B$ tokens in a step and matrices with the shorter side $m$ that costs at most $5 m / B$
of the arithmetic of the model.
""",
    code="""
import torch
from steepest.nn import Llama, preset
from steepest.optim import Muon, Options, param_groups

model = Llama(preset("nano"))
groups = param_groups(model, others_lr=5e-3)
optimizer = Muon(groups, lr=5e-3, options=Options(lr_scale="match_rms"))  # AdamW's rate for everything

ids = torch.randint(256, (4, 33))
for _ in range(2):
    model(ids[:, :-1], targets=ids[:, 1:]).mean().backward()
    optimizer.step()
    optimizer.zero_grad()
""",
    claims=(
        Claim(
            key="half",
            statement="Muon reaches AdamW's loss with about half of the arithmetic.",
            number="52 %",
            source="abstract and section 3",
            condition="on the shipped text, each at the best of its learning rates (equal grids in factors of two, more"
            " at an edge): mean validation loss of Muon with 52 % of the steps at most AdamW's with all of them, over"
            " three seeds (quick: one seed, 60 steps, two rates for AdamW and one for Muon). In part: with all steps"
            " it is below AdamW's.",
            measure=_half,
            decide=lambda n: judge(n["muon"] <= n["adamw"], in_part=n["muon_all"] < n["adamw"]),
            ours="AdamW {adamw:.3f} nats a byte in {steps} steps, Muon {muon:.3f} with 52 % of them, {muon_all:.3f}"
            " with all",
        ),
        Claim(
            key="same_rate",
            statement="With its steps scaled to AdamW's size Muon takes AdamW's learning rate.",
            number="the same rate",
            source="section 2.2",
            condition="at the rate that is best for AdamW, Muon's loss is within 0.02 nats of its own best (in part:"
            " within 0.1).",
            measure=_same_rate,
            decide=lambda n: judge(n["loss"] <= 0.02, in_part=n["loss"] <= 0.1),
            ours="{loss:.3f} nats lost; best rates {lr_adamw:g} for AdamW, {lr_muon:g} for Muon",
            budgets=("full",),
            untested="a run of seconds says too little of learning rates",
        ),
        Claim(
            key="memory",
            statement="Muon keeps half of AdamW's state.",
            number="one average in place of two",
            source="section 2.3",
            condition="bytes of state an entry of the hidden matrices, after a step, at most half of AdamW's.",
            measure=_memory,
            decide=lambda n: judge(n["ratio"] <= 0.5),
            ours="{muon:g} bytes an entry, AdamW {adamw:g}",
        ),
        Claim(
            key="arithmetic",
            statement="The polar factor adds less than 1 % to the arithmetic of a language model.",
            number="0.7 % (NanoGPT), 0.5 % (Llama 405B)",
            source="Jordan et al. (2024), kellerjordan.github.io/posts/muon",
            condition="counted products of Muon's step over those of forward and backward at most 5 m / B on a small"
            " network, and 5 m / B below 1 % for both models.",
            measure=_arithmetic,
            decide=lambda n: judge(n["counted"] <= n["bound"] and max(n["nanogpt"], n["llama"]) < 0.01),
            ours="counted {counted:.1%} at width 128 with {tokens} tokens a step, bound {bound:.1%}; by the bound"
            " {nanogpt:.2%} and {llama:.2%}",
        ),
        Claim(
            key="images",
            statement="The gain is not one of language models alone.",
            number="2.6 in place of 3.3 seconds for CIFAR-10",
            source="Jordan et al. (2024)",
            condition="a small convolutional network on handwritten digits, each at the best of its learning rates:"
            " mean validation loss over five seeds of Muon with 79 % of the steps at most AdamW's with all. In part:"
            " within two standard errors of it.",
            measure=_images,
            decide=lambda n: judge(n["muon"] <= n["adamw"], n["muon"] <= n["adamw"] + 2 * n["standard_error"]),
            ours="AdamW {adamw:.4f} in {steps} steps, Muon {muon:.4f} with 79 % of them (standard error of the"
            " difference {standard_error:.4f})",
            budgets=("full",),
            untested="takes minutes",
        ),
    ),
    draw=_draw,
    caption="Left: final loss over the learning rate. Right: every seed at each method's best rate.",
    surprise="""
- The gain is largest early. This is a model of 0.1 M parameters after 0.4 M bytes; it says nothing of the end of a long
  run.
- Small models pay more for the polar factor: at width 128 and 2,048 tokens a step it is a third of the arithmetic of
  the matrices, where the published models pay less than a hundredth. Count time, not steps, on a small model;
  [choosing an optimizer](../optim/choosing.md) has the milliseconds.
- The record of 2026-11-25 with the default text run (byte pairs, 3.3 M parameters) says the same: Muon's 267 steps end
  at 1.622 bits a byte, AdamW's 400 at 1.832.
""",
    benchmarks=("optimizer_learning_2026-11-25.json",),
)
