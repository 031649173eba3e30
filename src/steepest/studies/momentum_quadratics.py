# SPDX-License-Identifier: Apache-2.0
"""Momentum on quadratics: the rates of gradient descent, heavy ball, Nesterov and Chebyshev, and where they end."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from torch import nn

from steepest.optim import SGD, mode_error, mode_radius, optimal_momentum
from steepest.optim.optimal_momentum import Method
from steepest.studies._figure import figure
from steepest.studies._ridge import ALL, ridge_rows, stepper
from steepest.studies._study import Claim, Numbers, Paper, Run, Study, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_METHODS: tuple[Method, ...] = get_args(Method)
_COLORS = {
    "gradient-descent": "0.45",
    "heavy-ball": "#0072B2",
    "nesterov": "#E69F00",
    "nesterov-quadratic": "#009E73",
    "chebyshev": "#D55E00",
}


def _radii(run: Run) -> Numbers:
    """The worst spectral radius of the 2 x 2 matrices over the spectrum, by NumPy, against the formula of the rate."""
    worst, published = 0.0, {}
    for kappa in (10, 100, 1000, 10_000):
        for method in _METHODS:
            lr, b, rate = optimal_momentum(float(kappa), 1.0, method)
            radii = [
                _matrix_radius(c, lr, b, method.startswith("nesterov"))
                for c in np.geomspace(1, kappa, 200 if run.quick else 5000)
            ]
            worst = max(worst, abs(max(radii) - rate))
            if kappa == 10_000:
                published[method] = rate
    return {
        "difference": worst,
        "gd": published["gradient-descent"],
        "hb": published["heavy-ball"],
        "nag": published["nesterov"],
        "tuned": published["nesterov-quadratic"],
    }


def _matrix_radius(curvature: float, lr: float, b: float, nesterov: bool) -> float:
    left = 1 - lr * curvature
    first = [(1 + b) * left, -b * left] if nesterov else [left + b, -b]
    return float(np.abs(np.linalg.eigvals(np.array([first, [1.0, 0.0]]))).max())


def _modes(run: Run) -> Numbers:
    """Errors along eigenvectors of a run of SGD with momentum against Chebyshev polynomials of the second kind."""
    steps, kappa = (100, 100.0) if run.quick else (1000, 10_000.0)
    curvatures = torch.linspace(1.0, kappa, 301, dtype=torch.float64)
    lr, b, rate = optimal_momentum(kappa, 1.0, "heavy-ball")
    errors = _descend(lambda p: SGD([p], lr=lr, momentum=b), curvatures, steps)
    closed = [mode_error(float(c), lr, b, steps) for c in curvatures]
    inside = [mode_radius(float(c), lr, b) for c in curvatures]
    return {
        "difference": np.abs(errors[-1] - closed).max() / np.abs(errors[-1]).max(),
        "flat": max(abs(radius - rate) for radius in inside),
        "steps": steps,
    }


def _descend(
    make: Callable[[nn.Parameter], torch.optim.Optimizer], curvatures: torch.Tensor, steps: int
) -> list[np.ndarray]:
    """Errors after each step on the quadratic of some curvatures, from 1 everywhere."""
    p = nn.Parameter(torch.ones_like(curvatures))
    optimizer, errors = make(p), []
    for _ in range(steps):
        p.grad = curvatures * p.detach()
        optimizer.step()
        errors.append(p.detach().numpy().copy())
    return errors


def _chebyshev(run: Run) -> Numbers:
    """The worst error over a fine grid of curvatures against 1 / T_t."""
    ratios, curvatures = [], torch.linspace(1.0, 100.0, 20_001, dtype=torch.float64)
    errors = _descend(stepper("chebyshev", 100.0, 1.0), curvatures, 60 if run.quick else 200)
    for t, error in enumerate(errors, 1):
        ratios.append(np.abs(error).max() * math.cosh(t * math.acosh(101 / 99)))
    return {"ratio": max(abs(r - 1) for r in ratios), "at60": np.abs(errors[59]).max(), "steps": len(errors)}


def _curves(run: Run) -> dict[str, Any]:
    """The worst error over the spectrum after each step, for the figure and the hump."""
    curvatures = torch.linspace(1.0, 100.0, 2_001, dtype=torch.float64)
    return {
        method: [np.abs(error).max() for error in _descend(stepper(method, 100.0, 1.0), curvatures, 120)]
        for method in _COLORS
    }


def _hump(run: Run) -> Numbers:
    found = run.once("curves", lambda: _curves(run))
    rate = optimal_momentum(100.0, 1.0).rate
    ratios = [error / rate**t for t, error in enumerate(found["heavy-ball"], 1)]
    return {"at60": max(ratios[:60]), "at120": max(ratios), "peak": max(found["heavy-ball"]), "curves": found}


def _cycle(run: Run) -> Numbers:
    """Lessard, Recht and Packard's strongly convex function with curvatures 1 and 25."""

    def slope(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x < 1, 25 * x, torch.where(x < 2, x + 24, 25 * x - 24))

    numbers: dict[str, Any] = {}
    for method in ("heavy-ball", "nesterov"):
        p = nn.Parameter(torch.tensor([3.3], dtype=torch.float64))
        optimizer, path = stepper(method, 25.0, 1.0)(p), []
        for _ in range(3000):
            p.grad = slope(p.detach())
            optimizer.step()
            path.append(p.item())
        numbers[method.replace("-", "_")] = sorted(path[-3:])
        numbers[f"path_{method.replace('-', '_')}"] = [3.3, *path[:60]]
    expected = (-1.802449, 0.646531, 2.115918)
    numbers["difference"] = max(abs(a - b) for a, b in zip(numbers["heavy_ball"], expected, strict=True))
    numbers |= dict(zip(("a", "b", "c"), numbers["heavy_ball"], strict=True)) | {"end": abs(numbers["nesterov"][0])}
    return numbers


def _literal(run: Run) -> Numbers:
    """V = b v + g(w + b v), w -= a v as many notes have it, beside the same with g(w - a b v)."""
    curvatures = np.geomspace(0.01, 1.0, 50)
    b = optimal_momentum(1.0, 0.01, "nesterov").momentum
    numbers: dict[str, Any] = {"determinant": b * 2}
    for name, lr, look in (("large", 1.0, b), ("small", 0.01, b), ("right", 1.0, -1.0 * b)):
        w, v = np.ones(50), np.zeros(50)
        for _ in range(500):
            v = b * v + curvatures * (w + look * v)
            w = w - lr * v
        numbers[name] = np.linalg.norm(w)
    return numbers


def _ridge(run: Run) -> Numbers:
    """Ridge regression on real data: curvatures by Lanczos, iterations of each method to a small error."""
    return run.once("ridge", lambda: ridge_rows(quick=run.quick))


def _order(run: Run) -> Numbers:
    rows = _ridge(run)["rows"]
    steps = {method: [row["measured"] for row in rows if row["method"] == method] for method in ALL}
    fastest_first = ("chebyshev", "heavy-ball", "nesterov-quadratic", "nesterov", "gradient-descent")
    pairs = zip(*(steps[method] for method in fastest_first), strict=True)
    ordered = [list(row) == sorted(row) for row in pairs]
    return {"ordered": sum(ordered), "cases": len(ordered)} | {
        method.replace("-", "_"): counts[0] for method, counts in steps.items()
    }


def _draw(numbers: Mapping[str, Numbers]) -> "Figure":
    made, (left, right) = figure("Momentum: a square root fewer steps on quadratics, and a trap elsewhere", 2)
    labels = {
        "gradient-descent": "gradient descent",
        "heavy-ball": "heavy ball",
        "nesterov": "Nesterov",
        "nesterov-quadratic": "Nesterov, tuned for quadratics",
        "chebyshev": "Chebyshev",
    }
    for method, errors in numbers["hump"]["curves"].items():
        left.semilogy(range(1, len(errors) + 1), errors, color=_COLORS[method], label=labels[method])
    t = np.arange(1, 121)
    left.semilogy(t, 1 / np.cosh(t * math.acosh(101 / 99)), "k:", linewidth=1, label="lower bound $1/T_t$")
    left.set(
        xlabel="step", ylabel="largest error over all curvatures", title="curvatures from 1 to 100", ylim=(1e-10, 30)
    )
    left.legend(frameon=False, fontsize=8, loc="lower left")
    cycle = numbers["cycle"]
    right.plot(cycle["path_heavy_ball"], ".-", color=_COLORS["heavy-ball"], linewidth=0.8, label="heavy ball: circles")
    right.plot(cycle["path_nesterov"], ".-", color=_COLORS["nesterov"], linewidth=0.8, label="Nesterov: arrives")
    right.set(xlabel="step", ylabel="x; the minimum is at 0", title="slopes 25, 1, 25: convex, not quadratic")
    right.legend(frameon=False, fontsize=8, loc="upper right")
    return made


STUDY = Study(
    key="momentum_quadratics",
    title="Momentum on quadratics",
    paper=Paper(
        "Lessard, Recht, Packard",
        "Analysis and design of optimization algorithms via integral quadratic constraints",
        2016,
        "1408.3595",
    ),
    question="How much does momentum gain on a quadratic, and can it be trusted elsewhere?",
    idea=r"""
On $f(x) = \frac12 x^\top A x$ with curvatures $\mu \le \lambda \le L$ every eigenvector is on its own. Heavy ball,
$x_{t+1} = x_t - a \nabla f + b\,(x_t - x_{t-1})$, makes of the error along one of them

$$e_{t+1} = (1 + b - a\lambda)\, e_t - b\, e_{t-1}, \qquad e_t = b^{t/2} z_t, \quad z_{t+1} = 2 u z_t - z_{t-1},
\quad u = \frac{1 + b - a\lambda}{2 \sqrt b},$$

the recursion of the Chebyshev polynomials: bounded while $|u| \le 1$. So all curvatures with
$(1 - \sqrt b)^2 \le a\lambda \le (1 + \sqrt b)^2$ shrink alike, by $\sqrt b$ a step. Fitting $[\mu, L]$ into that
interval gives $\sqrt b = (\sqrt\kappa - 1)/(\sqrt\kappa + 1)$ with $\kappa = L/\mu$, where gradient descent has
$(\kappa - 1)/(\kappa + 1)$: the square root of the steps. At the ends of the interval the root is double, and the error
is $t \rho^t$. Weights that change with the step remove that factor: the Chebyshev iteration reaches
$1/T_t\big(\frac{\kappa + 1}{\kappa - 1}\big)$, below which no method can go that knows only $\mu$ and $L$.
""",
    code="""
import torch
from steepest.curvature import extreme_eigenvalues, hessian
from steepest.optim import Chebyshev, optimal_momentum

x = torch.randn(300, 20, dtype=torch.float64) * torch.linspace(0.1, 1, 20, dtype=torch.float64)
y = x.sum(1, keepdim=True)
model = torch.nn.Linear(20, 1, bias=False, dtype=torch.float64)


def loss(outputs, targets):
    return (outputs - targets).square().mean() / 2


mu, L = (extreme_eigenvalues(hessian(model, loss, [(x, y)])).values).tolist()
print(optimal_momentum(L, mu, "heavy-ball"))  # for SGD(lr=, momentum=)
optimizer = Chebyshev(model, L=L, mu=mu)
for _ in range(300):
    optimizer.zero_grad()
    loss(model(x), y).backward()
    optimizer.step()
print(loss(model(x), y).item())
""",
    claims=(
        Claim(
            key="radii",
            statement="With the optimal constants the worst mode shrinks by (k-1)/(k+1) for heavy ball with k the root"
            " of the condition number, 1-1/k for Nesterov, 1-2/sqrt(3k²+1) for Nesterov tuned for quadratics.",
            number="0.99980, 0.98020, 0.99000, 0.98845 at condition 10⁴",
            source="Proposition 1",
            condition="largest spectral radius of the 2 x 2 matrices over the spectrum equals the formula within 1e-7,"
            " for condition numbers 10 to 10⁴ and all four methods, and the four numbers agree to five digits.",
            measure=_radii,
            decide=lambda n: judge(
                n["difference"] <= 1e-7
                and [round(n[m], 5) for m in ("gd", "hb", "nag", "tuned")] == [0.9998, 0.9802, 0.99, 0.98845]
            ),
            ours="{gd:.5f}, {hb:.5f}, {nag:.5f}, {tuned:.5f}; formula and eigenvalues differ by {difference:.1e}",
        ),
        Claim(
            key="modes",
            statement="The error along an eigenvector is a combination of Chebyshev polynomials times b^(t/2), and with"
            " the optimal constants every curvature has the same rate.",
            number="0",
            source="1-D analysis",
            condition="a run of SGD with momentum over 301 curvatures differs from the closed form by at most 1e-9 of"
            " the largest error, and all radii from the rate by at most 1e-7.",
            measure=_modes,
            decide=lambda n: judge(n["difference"] <= 1e-9 and n["flat"] <= 1e-7),
            ours="{difference:.1e} after {steps} steps, radii within {flat:.1e}",
        ),
        Claim(
            key="chebyshev",
            statement="The Chebyshev iteration's worst error is exactly 1/T_t((κ+1)/(κ-1)).",
            number="1.18037e-5 at step 60, condition 100",
            source="Golub, Varga (1961)",
            condition="the ratio to the formula is 1 within 1e-9 at every step up to 60 (full: 200), over 20001"
            " curvatures.",
            measure=_chebyshev,
            decide=lambda n: judge(n["ratio"] <= 1e-9 and abs(n["at60"] - 1.18037e-5) < 1e-10),
            ours="{at60:.5e} at step 60; relative difference at most {ratio:.1e} over {steps} steps",
        ),
        Claim(
            key="hump",
            statement="Heavy ball's error falls as t times rate^t, not as rate^t: the factor grows with the steps.",
            number="grows as t",
            source="double root at both ends",
            condition="the largest error over rate^t grows between step 60 and step 120 by 1.8 to 2.2.",
            measure=_hump,
            decide=lambda n: judge(1.8 <= n["at120"] / n["at60"] <= 2.2, n["at120"] > n["at60"]),
            ours="{at60:.0f} at step 60, {at120:.0f} at step 120; the error itself peaks at {peak:.1f} times the start",
        ),
        Claim(
            key="cycle",
            statement="On a strongly convex function that is not quadratic, heavy ball with these constants runs in a"
            " circle of three points for ever; Nesterov's method converges.",
            number="0.646531, -1.802449, 2.115918",
            source="Section 4.6",
            condition="the last three of 3000 iterates are those within 1e-6, and Nesterov ends below 1e-12.",
            measure=_cycle,
            decide=lambda n: judge(n["difference"] <= 1e-6 and n["end"] <= 1e-12),
            ours="{a:.6f}, {b:.6f}, {c:.6f}; Nesterov {end:.0e}",
        ),
        Claim(
            key="literal",
            statement="v = bv + g(w + bv), w -= av, the look-ahead of many notes, diverges whatever the learning rate"
            " once b(1+L) > 1.",
            number="determinant b(1+L) = 1.64",
            source="the rule's 2 x 2 matrix",
            condition="errors above 1e40 after 500 steps with learning rates 1 and 0.01, below 1e-15 with the"
            " look-ahead corrected (b = 0.818, L = 1, condition 100).",
            measure=_literal,
            decide=lambda n: judge(n["large"] > 1e40 and n["small"] > 1e40 and n["right"] < 1e-15),
            ours="{large:.1e} at lr 1, {small:.1e} at lr 0.01, corrected {right:.1e}",
        ),
        Claim(
            key="ridge",
            statement="On real data too, the steps to an error of 1e-8 are those of theory, from the two curvatures"
            " alone.",
            number="within 10 %",
            source="rates of Proposition 1",
            condition="ridge regression on breast cancer and digits data, curvatures by Lanczos: for gradient descent,"
            " heavy ball, two Nesterovs and Chebyshev, steps until no eigenvector's error is above 1e-8 of its start"
            " are within 10 % of rate^t (1 + ct), c of the double root, or of 1/T_t.",
            measure=_ridge,
            decide=lambda n: judge(n["low"] >= -10 and n["high"] <= 10),
            ours="{low:+.1f} % to {high:+.1f} % in {cases} cases; curvatures within {lanczos:.0e}",
        ),
        Claim(
            key="order",
            statement="Chebyshev needs the fewest steps, then heavy ball, tuned Nesterov, Nesterov, gradient descent.",
            number="in this order",
            source="the rates",
            condition="steps on every data set and decay of the claim before are in this order.",
            measure=_order,
            decide=lambda n: judge(n["ordered"] == n["cases"], n["ordered"] > 0),
            ours="{ordered} of {cases}; breast cancer: {chebyshev}, {heavy_ball}, {nesterov_quadratic}, {nesterov},"
            " {gradient_descent} steps",
        ),
    ),
    draw=_draw,
    caption="Left: the largest error over all curvatures from 1 to 100; Chebyshev lies on the lower bound, heavy ball"
    " carries its factor t. Right: heavy ball with the same recipe on a convex function that is no quadratic.",
    surprise="""
- Heavy ball first makes things worse, 3.7 times the error of the start at condition 100, and needs 29 steps to
  overtake Nesterov's method. Chebyshev has no hump at all, for the price of one number that changes with the step.
- With the factor of the double root, the steps that theory predicts from two curvatures are those that were counted, on
  both data sets and for all five methods. The rate alone, without the factor, promises too much for heavy ball.
- The factor of heavy ball is 110 at step 60 for the worst eigenvector. It is far smaller for the length of the whole
  error, since only the ends of the spectrum carry it.
- On the counterexample of Lessard, Recht and Packard, Nesterov's method is at the minimum after three steps, exactly.
""",
)
