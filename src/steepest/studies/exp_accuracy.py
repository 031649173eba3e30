# SPDX-License-Identifier: Apache-2.0
"""Exponentials and activations in float32: how many terms, how many ulps, and what is lost in the tails."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from steepest.studies._figure import figure
from steepest.studies._study import Claim, Numbers, Paper, Run, Study, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHUNK = 1 << 21
_HALF_LN2 = math.log(2) / 2
_DEGREES = (3, 4, 5, 6, 7)


def _inputs(low: float, high: float, one_in: int) -> Iterator[np.ndarray]:
    """Yield float32 numbers of [low, high] by their bit patterns, every `one_in`-th of either sign."""
    for sign, limit in ((0, high), (1 << 31, -low)):
        last = int(np.float32(max(limit, 0.0)).view(np.uint32))
        for start in range(0, last + 1, _CHUNK * one_in):
            bits = np.arange(start, min(last + 1, start + _CHUNK * one_in), one_in, dtype=np.int64)
            yield (bits + sign).astype(np.uint32).view(np.float32)


def _ulps(y: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return |y - reference| in units in the last place of a float32 of the reference's size."""
    exponent = np.frexp(reference)[1] - 1
    return np.abs(y.astype(np.float64) - reference) / np.ldexp(1.0, np.maximum(exponent, -126) - 23)


def _worst(function: Callable[[np.ndarray], np.ndarray], run: Run, low: float = -103.9, high: float = 88.72) -> Any:
    """Return the largest error of an exponential in ulp, how many inputs err by more than one, and of how many."""
    worst, above, count = 0.0, 0, 0
    for x in _inputs(low, high, 1009 if run.quick else 1):
        error = _ulps(function(x), np.exp(x.astype(np.float64)))
        worst, above, count = max(worst, float(error.max())), above + int((error > 1).sum()), count + x.size
    return {"worst": worst, "above": above, "inputs": count}


def _ours(run: Run) -> Numbers:
    from steepest import functional

    return run.once("exp", lambda: _worst(lambda x: functional.exp(torch.from_numpy(x)).numpy(), run))


def _numpy(run: Run) -> Numbers:
    with np.errstate(all="ignore"):
        return run.once("numpy-exp", lambda: _worst(np.exp, run))


def _degrees(run: Run) -> Numbers:
    """Horner's scheme in float32 with fused multiply-adds, on the reduced interval, from minimax coefficients."""
    from steepest.discover import Target
    from steepest.discover.baselines import minimax_polynomial

    target = Target("exp", (-_HALF_LN2, _HALF_LN2), "relative")
    t = np.concatenate(list(_inputs(-_HALF_LN2, _HALF_LN2, 10007 if run.quick else 101)))
    exact = np.exp(t.astype(np.float64))
    ulps, errors, theory = [], [], []
    for degree in _DEGREES:
        program = minimax_polynomial(target, degree)
        points = np.linspace(-_HALF_LN2, _HALF_LN2, 4001)
        errors.append(float(np.max(np.abs(program(points) / np.exp(points) - 1))))
        theory.append(2 * (_HALF_LN2 / 2) ** (degree + 1) / math.factorial(degree + 1))
        coefficients = [np.float32(value) for value in _coefficients(program, degree)]
        p = np.full_like(t, coefficients[-1])
        for c in coefficients[-2::-1]:  # a product of float32 is exact in float64: this is a fused multiply-add
            p = (p.astype(np.float64) * t + np.float64(c)).astype(np.float32)
        ulps.append(float(_ulps(p, exact).max()))
    return {"degrees": list(_DEGREES), "ulps": ulps, "errors": errors, "theory": theory} | {
        f"ulp{degree}": value for degree, value in zip(_DEGREES, ulps, strict=True)
    }


def _coefficients(program: Any, degree: int) -> np.ndarray:
    """Return the coefficients of a polynomial program, lowest first, from its values at Chebyshev points."""
    points = np.cos((np.arange(degree + 1) + 0.5) * np.pi / (degree + 1)) * _HALF_LN2
    return np.polynomial.Polynomial.fit(points, program(points), degree).convert().coef


def _series(run: Run) -> Numbers:
    found = run.once("degrees", lambda: _degrees(run))
    ratios = [error / theory for error, theory in zip(found["errors"], found["theory"], strict=True)]
    return {"low": min(ratios), "high": max(ratios), "errors": found["errors"], "theory": found["theory"]}


def _tails(run: Run) -> Numbers:
    from scipy.special import ndtr

    from steepest import functional

    one_in = 499 if run.quick else 7
    x = np.concatenate(list(_inputs(-12.0, -1.0, one_in)))
    x = np.sort(x[x <= -1.0])
    exact = x.astype(np.float64) * ndtr(x.astype(np.float64))
    numbers: dict[str, Any] = {}
    for name, gelu in (("torch", torch.nn.functional.gelu), ("ours", functional.gelu)):
        error = np.abs(gelu(torch.from_numpy(x)).numpy() / exact - 1)
        near = np.abs(x + 5.0) < 0.5
        # The largest error in each of 110 intervals: what a figure can show of a million points.
        edges = np.linspace(-12.0, -1.0, 111)
        place = np.clip(np.digitize(x, edges) - 1, 0, 109)
        curve = np.zeros(110)
        np.maximum.at(curve, place, error)
        numbers |= {f"{name}_near_5": error[near].max(), f"{name}_worst": error.max(), f"{name}_curve": curve}
    return numbers


def _draw(numbers: Mapping[str, Numbers]) -> "Figure":
    made, (left, right) = figure("exp needs degree 6; GELU loses its tail unless it is computed from erfc", 2)
    degrees = numbers["degree"]
    left.semilogy(degrees["degrees"], degrees["ulps"], "o-", color="#0072B2", label="largest error, float32")
    half_ulp = [max(error * 2**24, 1e-5) for error in degrees["errors"]]
    left.semilogy(degrees["degrees"], half_ulp, "s--", color="#D55E00", label="of the polynomial alone")
    left.axhline(1.0, color="0.4", linewidth=1)
    left.annotate("one ulp", (3, 1.15), color="0.3", fontsize=9)
    left.set(xlabel="degree of the polynomial for exp", ylabel="error, units in the last place")
    left.set_xticks(degrees["degrees"])
    left.legend(frameon=False)
    x = np.linspace(-12, -1, 110) + 0.05
    right.semilogy(x, np.maximum(numbers["tail"]["torch_curve"], 1e-9), color="#D55E00", label="torch 2.13, F.gelu")
    right.semilogy(x, np.maximum(numbers["tail"]["ours_curve"], 1e-9), color="#0072B2", label="steepest")
    right.annotate("everything lost", (-11.8, 1.3), color="0.3", fontsize=9)
    right.set(xlabel="x", ylabel="relative error of GELU(x)", ylim=(1e-8, 8))
    right.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 0.2))
    return made


STUDY = Study(
    key="exp_accuracy",
    title="Accuracy of exp and GELU",
    paper=Paper("Cody, Waite", "Software Manual for the Elementary Functions", 1980),
    question="What degree does a float32 exponential need, and who loses the tail of GELU?",
    idea=r"""
To compute $e^x$, take out whole powers of two, $n = \mathrm{round}(x / \ln 2)$ and $t = x - n \ln 2$, with $\ln 2$
split in two numbers so that the subtraction is exact where it matters (Cody and Waite). What is left is a polynomial on
$|t| \le \frac{1}{2} \ln 2$:

$$e^x = 2^n \, p(t), \qquad \max_t \left| \frac{p(t)}{e^t} - 1 \right| \approx \frac{2 \, (\ln 2 / 4)^{d+1}}{(d+1)!}$$

for the best polynomial of degree $d$. Each degree more is worth a factor of 20 to 46, until the rounding of the last
operations, 0.5 to 0.9 units in the last place (ulp), is all that is left. GELU is $x \Phi(x)$; where $\Phi$ is
$\frac{1}{2} (1 + \mathrm{erf})$ the sum cancels for negative $x$, and the tail is lost. `functional.gelu` takes
$\mathrm{erfc}$ instead.
""",
    code="""
import torch
from steepest import functional as SF

x = torch.linspace(-12, -4, 9)
exact = x.double() * torch.erfc(-x.double() / 2**0.5) / 2
print((SF.gelu(x) / exact - 1).abs().max())  # 1e-7
print((torch.nn.functional.gelu(x) / exact - 1).abs().max())
print(SF.exp(x))
""",
    claims=(
        Claim(
            key="degree",
            statement="A polynomial of degree 6 is enough for an exp within one ulp; degree 5 is not.",
            number="7 to 6: at most 1 ulp",
            source="Eigen, merge request 779",
            condition="largest error over the reduced interval, in float32 with fused multiply-adds, at most 1 ulp with"
            " degree 6 and above 1 with degree 5.",
            measure=lambda run: run.once("degrees", lambda: _degrees(run)),
            decide=lambda n: judge(n["ulp6"] <= 1 < n["ulp5"], in_part=n["ulp6"] <= 1),
            ours="degree 5: {ulp5:.2f} ulp, 6: {ulp6:.2f}, 7: {ulp7:.2f}",
        ),
        Claim(
            key="series",
            statement="The best polynomial of degree d errs by 2 (ln 2 / 4)^(d+1) / (d+1)!.",
            number="ratio 1",
            source="Meinardus (1967), leading term",
            condition="the measured error of the minimax polynomial is within 10 % of the formula for degrees 3 to 7.",
            measure=_series,
            decide=lambda n: judge(n["low"] >= 0.9 and n["high"] <= 1.1),
            ours="ratio {low:.3f} to {high:.3f}",
        ),
        Claim(
            key="everywhere",
            statement="exp in float32 can be right to one ulp for every input, subnormal results included.",
            number="1.0 ulp",
            source="SLEEF, expf_u10",
            condition="largest error over every float32 with a finite, nonzero result (quick: one in 1009) at most 1"
            " ulp.",
            measure=_ours,
            decide=lambda n: judge(n["worst"] <= 1),
            ours="{worst:.3f} ulp over {inputs} inputs, {above} of them above 1",
        ),
        Claim(
            key="numpy",
            statement="NumPy's float32 exp errs by at most 2.52 ulp.",
            number="2.52 ulp",
            source="NumPy pull request 13134",
            condition="largest error over every float32 with a normal result (quick: one in 1009) at most 2.52 ulp.",
            measure=_numpy,
            decide=lambda n: judge(n["worst"] <= 2.525),
            ours="{worst:.2f} ulp; {above} of {inputs} inputs above 1",
        ),
        Claim(
            key="tail",
            statement="PyTorch's GELU loses its negative tail.",
            number="57 % relative error near -5",
            source="PyTorch issue 187806",
            condition="largest relative error of torch's F.gelu for x within 0.5 of -5 is at least 0.5 (in part: 0.01),"
            " and that of this library's on [-12, -1] at most 1e-6.",
            measure=_tails,
            decide=lambda n: judge(n["torch_near_5"] >= 0.5 and n["ours_worst"] <= 1e-6, n["torch_near_5"] >= 0.01),
            ours="torch {torch_near_5:.2f} near -5, {torch_worst:.2f} on [-12, -1]; steepest {ours_worst:.1e}",
        ),
    ),
    draw=_draw,
    caption="Left: the error of exp falls with each degree until rounding is all that is left. Right: GELU's relative"
    " error in its negative tail.",
    surprise="""
- The coefficients here are those of the best real polynomial, rounded to float32 one by one, and degree 6 is still
  within one ulp.
- A bound that was found on samples is a guess: NumPy's exp passes on one input in a thousand (2.23 ulp) and errs by
  2.54 on all of them, two hundredths above what was stated when it was written.
- Degree 7 gains nothing that a user sees: the last fused multiply-add rounds, and that is the error.
- Below -5.5 torch's GELU has no correct digit. In a network this hardly matters, since the values are below 1e-7; in a
  comparison of implementations it makes relative tolerances useless.
""",
)
