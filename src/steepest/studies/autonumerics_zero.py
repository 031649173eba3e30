# SPDX-License-Identifier: Apache-2.0
"""Programs found by search that compute 2^x: digits for operations, beside the textbooks; and float32 time."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from steepest.studies._figure import figure
from steepest.studies._study import Claim, Numbers, Paper, Run, Study, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WHOLE = "the quick run is all there is to measure"


def _points(run: Run) -> np.ndarray:
    """Chebyshev points, where errors of smooth programs peak."""
    count = 60 if run.quick else 1000
    return 0.5 * np.cos(np.linspace(0, np.pi, count))


def _largest(program: Any, run: Run) -> float:
    from steepest.discover import Target
    from steepest.discover.polish import exact_errors

    return float(max(abs(error) for error in exact_errors(program, Target("exp2"), _points(run))))


def _known(run: Run) -> Numbers:
    from steepest.discover import Target
    from steepest.discover.baselines import known_exp2
    from steepest.discover.polish import polish

    def compute() -> dict[str, float]:
        program = known_exp2()
        return {"error": _largest(polish(program, Target("exp2")), run), "operations": program.cost()}

    found = run.once("known", compute)
    return {"error": found["error"], "digits": -math.log10(found["error"]), "operations": int(found["operations"])}


def _textbooks(run: Run) -> dict[str, list[list[float]]]:
    """Family -> (operations, largest error)."""
    from steepest.discover import Target
    from steepest.discover.baselines import fronts

    def compute() -> dict[str, list[list[float]]]:
        found = fronts(Target("exp2"), 10)
        return {name: [[p.cost(), _largest(p, run)] for p in programs] for name, programs in found.items()}

    return run.once("textbooks", compute)


def _orders(run: Run) -> Numbers:
    known, families = _known(run), _textbooks(run)
    best = {name: min(error for _, error in points) for name, points in families.items()}
    first = min(best.values())
    plain = min(best[name] for name in best if name != "minimax continued fraction")
    return {
        "orders": math.log10(first / known["error"]),
        "orders_plain": math.log10(plain / known["error"]),
        "best": first,
        "families": families,
        "known": [known["operations"], known["error"]],
    }


def _searched(run: Run) -> Numbers:
    """The programs that ship with the package, found from nothing, against the textbooks at their cost."""
    from steepest.discover.found import library

    families = _textbooks(run)
    rows, beaten, compared = [], 0, 0
    for found in library("exp2"):
        error = _largest(found.program, run)
        same = [e for points in families.values() for cost, e in points if cost <= found.program.cost()]
        rows.append([found.program.cost(), error])
        compared += bool(same)
        beaten += bool(same) and error <= 1.01 * min(same)
    best = min(error for cost, error in rows if cost <= 10)
    return {"rows": rows, "digits": -math.log10(best), "operations": max(cost for cost, e in rows if e == best),
            "beaten": beaten, "compared": compared}  # fmt: skip


def _time(run: Run) -> Numbers:
    """Time of loops for e^x, float32, in turns: the kernels' polynomial, one of degree 5, and the published program."""
    from steepest.discover.baselines import known_exp2
    from steepest.discover.kernel import house_exp, relative_time

    del run
    return {"published": relative_time(known_exp2(), (-0.5, 0.5), rounds=60),
            "house": relative_time(house_exp(), (-0.3466, 0.3466), rounds=60)}  # fmt: skip


def _draw(numbers: Mapping[str, Numbers]) -> "Figure":
    made, (axes,) = figure("2^x on [-1/2, 1/2]: largest error for the number of operations")
    found, searched = numbers["orders"], numbers["searched"]
    colors = ("0.7", "0.55", "#E69F00", "#CC79A7", "#56B4E9")
    for (name, points), color in zip(found["families"].items(), colors, strict=True):
        axes.semilogy(*zip(*sorted(points), strict=True), "s--", color=color, markersize=4, label=name)
    axes.semilogy(*zip(*sorted(searched["rows"]), strict=True), "o-", color="#0072B2", label="found here")
    axes.semilogy(*found["known"], "*", color="#D55E00", markersize=15, linestyle="none", label="published program")
    axes.set(xlabel="operations (a division counts one)", ylabel="largest relative error")
    axes.legend(frameon=False, fontsize=8)
    return made


STUDY = Study(
    key="autonumerics_zero",
    title="Programs found by search",
    paper=Paper(
        "Real et al.",
        "AutoNumerics-Zero: Automated Discovery of State-of-the-Art Mathematical Functions",
        2023,
        "2312.08472",
    ),
    question="Can a search find better programs for 2^x than the textbooks?",
    idea=r"""
A program is a small graph of additions, multiplications, divisions and constants. Evolution changes the graph, a fit
finds the constants, and what is kept is whatever has a smaller error for its number of operations. The best that was
published computes $2^x$ to 14 digits with ten operations:

$$2^x \approx \left( \frac{c_4}{c_1 / u + c_2 + u} + 1 \right)^8, \qquad u = \frac{c_3}{x} + x .$$

It is $(1 + g)/(1 - g)$ with an odd $g$, which makes $f(x) f(-x) = 1$ exact, evaluated at $x / 8$ and squared three
times. A polynomial by Horner's rule needs two operations for each degree; it has neither the symmetry nor the
squarings.
""",
    code="""
from steepest.discover import Options, Settings, Target, discover
from steepest.discover.baselines import known_exp2

state = discover(Target("exp2"), Options(max_cost=4), Settings(population=20, children=40, generations=3))
for member in state.front:
    print(member.objectives)
print(known_exp2().cost())
""",
    claims=(
        Claim(
            key="digits",
            statement="A program of ten operations gives 2^x to 14.3 digits.",
            number="14.3 digits",
            source="abstract and figure 1",
            condition="the published form, constants polished, has ten operations and a largest relative error on"
            " [-1/2, 1/2] of at most 10^-14.3, in exact arithmetic.",
            measure=_known,
            decide=lambda n: judge(n["operations"] == 10 and n["digits"] >= 14.3),
            ours="{digits:.1f} digits ({error:.1e}) with {operations} operations",
        ),
        Claim(
            key="orders",
            statement="That is more than six orders of magnitude below the textbooks with as many operations.",
            number="more than 6 orders",
            source="abstract",
            condition="log10 of the smallest error of Taylor, Padé, minimax polynomials, minimax rationals by Horner"
            " and minimax continued fractions with at most ten operations, over the program's, at least 6. In part:"
            " against all but continued fractions.",
            measure=_orders,
            decide=lambda n: judge(n["orders"] >= 6, n["orders_plain"] >= 6),
            ours="{orders:.1f} orders; {orders_plain:.1f} without continued fractions",
        ),
        Claim(
            key="searched",
            statement="A search that starts from nothing finds it.",
            number="14.3 digits, 100 to 10,000 processes for days",
            source="section 3",
            condition="the best program with at most ten operations that this library's search has found (minutes on"
            " two cores) has at least 14.3 digits. In part: none is worse than a textbook of its cost by more than 1"
            " %.",
            measure=_searched,
            decide=lambda n: judge(n["digits"] >= 14.3, n["beaten"] == n["compared"]),
            ours="{digits:.1f} digits with {operations:.0f} operations; {beaten} of {compared} programs are at least"
            " as good as every textbook of their cost",
        ),
        Claim(
            key="time",
            statement="Found programs are three times as fast in float32 as the best baseline.",
            number="3x",
            source="section 4, Skylake",
            condition="time of the library's polynomial of degree 6, compiled for this processor, over that of the"
            " published program, in turns, at least 3. In part: above 1.1.",
            measure=_time,
            decide=lambda n: judge(n["published"] <= 1 / 3, n["published"] <= 1 / 1.1),
            ours="the published program takes {published:.2f} of the polynomial's time",
            budgets=("full",),
            untested="a time; it needs a machine that does nothing else",
        ),
    ),
    draw=_draw,
    caption="Error for the number of operations: textbooks, what this library's search found, and the published"
    " program.",
    surprise="""
- Operations are not time. A division costs a processor as much as several fused multiply-adds, and taking the eighth
  power multiplies the rounding error by eight: in float32 the formula is slower and less exact than a polynomial.
- The textbooks have a better entry than the paper's comparison: the minimax rational written as a continued fraction.
- A search in float32 that counts what a processor counts finds Horner's rule with fused multiply-adds, the kernels' own
  polynomial ([programs found by search](../discover.md)).
""",
    benchmarks=(
        "discover_front_epyc-avx512-2cores_2026-11-28.json",
        "discover_exp_float32_epyc-avx2-2cores_2026-11-25.json",
    ),
)
