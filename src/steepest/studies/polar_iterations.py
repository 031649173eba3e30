# SPDX-License-Identifier: Apache-2.0
"""Coefficient lists for the polar factor: classic, tuned, by fixed points, and optimal; error over the spectrum."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from steepest.studies._figure import figure
from steepest.studies._study import Claim, Numbers, Paper, Run, Study, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INTERVAL = (1e-3, 1.0)
_WHOLE = "the quick run is all there is to measure"
#: Lists of the figure, five products each.
_SHOWN = ("newton-schulz", "muon", "muon-tuned", "fixed-point", "minimax", "designed-5")


def _rows(name: str, steps: int = 5) -> Sequence[Sequence[float]]:
    """Return a list's coefficients, a published one by its name or one designed now."""
    from steepest.geometry import design_iteration, published_iteration

    if name in ("minimax", "fixed-point"):
        return design_iteration(name, steps=steps, interval=_INTERVAL).coefficients  # pyright: ignore[reportArgumentType]
    return published_iteration(name, steps).coefficients


def _out(rows: Sequence[Sequence[float]], values: np.ndarray) -> np.ndarray:
    """Return what the composition makes of singular values."""
    for a, b, c in rows:
        values = values * (a + values**2 * (b + values**2 * c))
    return values


def _band(run: Run) -> Numbers:
    del run
    values = np.geomspace(*_INTERVAL, 20001)
    out = _out(_rows("muon"), values)
    above = out[values >= 0.01]
    return {"low": out.min(), "high": out.max(), "low_001": above.min(), "high_001": above.max()}


def _published(run: Run) -> Numbers:
    """The published list against the one that the design makes with other rounding and cushion."""
    del run
    values = np.geomspace(*_INTERVAL, 20001)
    found = {}
    for steps in (5, 6, 7, 8):
        ours = np.abs(1 - _out(_rows("minimax", steps), values)).max()
        theirs = np.abs(1 - _out(_rows("polar-express", steps), values)).max()
        found |= {f"ours{steps}": ours, f"theirs{steps}": theirs}
    return found


def _compared(run: Run) -> Numbers:
    """Largest and root mean square error after five steps, for each list."""
    del run
    values = np.geomspace(*_INTERVAL, 4001)
    found: dict[str, dict[str, float]] = {}
    curves: dict[str, np.ndarray] = {}
    for name in _SHOWN:
        error = np.abs(1 - _out(_rows(name), values))
        found[name] = {"worst": error.max(), "rms": float(np.sqrt(np.mean(error**2)))}
        curves[name] = error[::40]
    others = [name for name in _SHOWN if name != "minimax"]
    return {
        "lists": found,
        "values": values[::40],
        "curves": curves,
        "minimax": found["minimax"]["worst"],
        "next": min(found[name]["worst"] for name in others),
        "muon": found["muon"]["worst"],
        "classic": found["newton-schulz"]["worst"],
        "muon_rms": found["muon"]["rms"],
        "tuned_rms": found["muon-tuned"]["rms"],
        "recipe_rms": found["fixed-point"]["rms"],
    }


def _half(run: Run) -> Numbers:
    """What the certifier says of lists for bfloat16, whose rounding is 2^-9 of a value."""
    from steepest.geometry import published_iteration
    from steepest.geometry.certify import certify

    del run
    found = {}
    for key, name in (("raw", "polar-express"), ("safe", "polar-express-safe"), ("muon", "muon")):
        rows = published_iteration(name).coefficients[:5]
        found[key] = certify(rows, eps=2.0**-8).accepted
    return found


def _draw(numbers: Mapping[str, Numbers]) -> "Figure":
    found = numbers["optimal"]
    made, (axes,) = figure("Five steps: how far each singular value ends from one")
    looks = {
        "newton-schulz": ("classic Newton-Schulz", "0.55", "-"),
        "muon": ("Muon", "#D55E00", "-"),
        "muon-tuned": ("Muon, tuned", "#E69F00", "-"),
        "fixed-point": ("fixed-point recipe", "#CC79A7", "--"),
        "minimax": ("optimal (Polar Express)", "#0072B2", "-"),
        "designed-5": ("this library's default", "#009E73", "-"),
    }
    for name, (label, color, line) in looks.items():
        axes.loglog(found["values"], np.maximum(found["curves"][name], 1e-4), color=color, linestyle=line, label=label)
    axes.set(xlabel="singular value, relative to the largest", ylabel="|1 - value after five steps|")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    return made


STUDY = Study(
    key="polar_iterations",
    title="Coefficients for the polar factor",
    paper=Paper(
        "Amsel et al.",
        "The Polar Express: Optimal Matrix Sign Methods and Their Application to the Muon Algorithm",
        2025,
        "2505.16932",
    ),
    question="Which five polynomials bring a matrix nearest to its polar factor?",
    idea=r"""
Muon needs $U V^\top$ of $G = U \Sigma V^\top$. An odd polynomial of a matrix is the same polynomial of its singular
values, so one composes a few that send every value to one:

$$X \leftarrow a X + b\, (X X^\top) X + c\, (X X^\top)^2 X, \qquad \sigma \leftarrow a \sigma + b \sigma^3 + c \sigma^5
.$$

The classic choice $(15/8, -10/8, 3/8)$ is best near one and slow for small values: it multiplies them by 1.9 a step.
Muon repeats one polynomial with $a = 3.4$ that never settles at one. Lists with another polynomial in each step do
better, and the best there is follows from a theorem: the composition of the best polynomials of each interval, the
next interval being the image of the one before (found by Remez' algorithm). A recipe with two chosen fixed points
makes repeated polynomials like Muon's.
""",
    code="""
import torch
from steepest.geometry import design_iteration, polar_factor, published_iteration

gradient = torch.randn(64, 128)
optimal = design_iteration("minimax", steps=5, interval=(1e-3, 1.0))
for iteration in (published_iteration("muon"), optimal):
    print(iteration.certificate.min_out, iteration.certificate.max_out)
    print(torch.linalg.matrix_norm(iteration(gradient) - polar_factor(gradient, method="eigh"), 2))
""",
    claims=(
        Claim(
            key="optimal",
            statement="The composition of minimax polynomials has the smallest largest error of all lists.",
            number="optimal",
            source="Theorem 4.1",
            condition="on singular values in [0.001, 1], five quintics: the designed minimax list has a smaller largest"
            " error than classic, Muon's, tuned, fixed-point and this library's default list.",
            measure=_compared,
            decide=lambda n: judge(n["minimax"] < n["next"]),
            ours="{minimax:.3f}; the next best {next:.3f}, Muon {muon:.3f}, classic {classic:.3f}",
            budgets=("quick",),
            untested=_WHOLE,
        ),
        Claim(
            key="published",
            statement="The published list has the optimal errors.",
            number="8 quintics from [0.001, 1]",
            source="Algorithm 1, coefficients",
            condition="after 6, 7 and 8 steps the published list's largest error is within 10 % of the designed"
            " one's or"
            " 1e-5 of it. In part: within a factor of two for 5 to 8 steps.",
            measure=_published,
            decide=lambda n: judge(
                all(n[f"theirs{k}"] <= 1.1 * n[f"ours{k}"] + 1e-5 for k in (6, 7, 8)),
                all(n[f"theirs{k}"] <= 2 * n[f"ours{k}"] + 1e-5 for k in (5, 6, 7, 8)),
            ),
            ours="5 steps {theirs5:.4f} (designed {ours5:.4f}), 6: {theirs6:.5f} ({ours6:.5f}), 8: {theirs8:.1e}"
            " ({ours8:.1e})",
            budgets=("quick",),
            untested=_WHOLE,
        ),
        Claim(
            key="band",
            statement="Muon's five steps bring the singular values into [0.5, 1.5].",
            number="0.5 to 1.5",
            source="comment in KellerJordan/Muon, muon.py",
            condition="every singular value in [0.001, 1] ends in [0.5, 1.5]. In part: every one in [0.01, 1].",
            measure=_band,
            decide=lambda n: judge(
                n["low"] >= 0.5 and n["high"] <= 1.5,
                n["low_001"] >= 0.5 and n["high_001"] <= 1.5,
            ),
            ours="{low:.3f} to {high:.3f}; of values from 0.01 up {low_001:.3f} to {high_001:.3f}",
            budgets=("quick",),
            untested=_WHOLE,
        ),
        Claim(
            key="tuned",
            statement="Another polynomial in each step is nearer to one than one repeated.",
            number="1 to 2 % fewer steps of training",
            source="Cesista, You, Jordan (2025), leloykun.github.io/ponder/muon-opt-coeffs",
            condition="root mean square error over log-spaced singular values of the tuned list at most three"
            " quarters of"
            " that of Muon's repeated polynomial, and of the repeated one that the fixed-point recipe makes.",
            measure=_compared,
            decide=lambda n: judge(
                n["tuned_rms"] <= 0.75 * min(n["muon_rms"], n["recipe_rms"]),
                n["tuned_rms"] < min(n["muon_rms"], n["recipe_rms"]),
            ),
            ours="{tuned_rms:.3f}; Muon {muon_rms:.3f}, recipe {recipe_rms:.3f}",
            budgets=("quick",),
            untested=_WHOLE,
        ),
        Claim(
            key="bfloat16",
            statement="In bfloat16 an optimal list needs a safety factor.",
            number="1.01",
            source="section 4",
            condition="with a relative rounding error of 2^-8 in each step the certifier refuses the list as it is and"
            " accepts it with its safety factor.",
            measure=_half,
            decide=lambda n: judge(not n["raw"] and n["safe"]),
            ours="accepted as it is: {raw}, with the factor: {safe}; Muon's list: {muon}",
            budgets=("quick",),
            untested=_WHOLE,
        ),
    ),
    draw=_draw,
    caption="Error after five steps over the spectrum. A value of 0.001 is what a Frobenius normalization leaves of"
    " many directions of a gradient.",
    surprise="""
- The smallest largest error is not what training wants. The optimal list spreads its error evenly over the interval;
  this library's default has the smaller root mean square, because few singular values are as small as 0.001.
- Muon's own list never converges: more steps of it do not bring the values nearer to one.
""",
)
