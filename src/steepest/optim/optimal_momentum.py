# SPDX-License-Identifier: Apache-2.0
"""Learning rate and momentum from curvature: what is optimal on quadratics, and how fast it is."""

import itertools
import math
from typing import Literal, NamedTuple, get_args

Method = Literal["gradient-descent", "heavy-ball", "nesterov", "nesterov-quadratic"]


class Constants(NamedTuple):
    """What to give an optimizer, and what to expect of it.

    Args:
        lr: Learning rate.
        momentum: Momentum; the same number for `SGD(momentum=)` and `Nesterov(momentum=)`.
        rate: Factor of the error in a step, in the long run.
    """

    lr: float
    momentum: float
    rate: float


def optimal_momentum(L: float, mu: float, method: Method = "heavy-ball") -> Constants:
    r"""Return the best constants for a quadratic with curvatures from $\mu$ to $L$.

    With $k = \sqrt{L / \mu}$ and $h = \sqrt{3 L / \mu + 1}$:

    | method | optimizer | lr | momentum | rate |
    |---|---|---|---|---|
    | `gradient-descent` | `SGD()` | $2/(L+\mu)$ | 0 | $(k^2-1)/(k^2+1)$ |
    | `heavy-ball` | `SGD(momentum=)` | $4/(\sqrt L+\sqrt\mu)^2$ | $((k-1)/(k+1))^2$ | $(k-1)/(k+1)$ |
    | `nesterov` | `SGD(nesterov=True)` | $1/L$ | $(k-1)/(k+1)$ | $1-1/k$ |
    | `nesterov-quadratic` | `SGD(nesterov=True)` | $4/(3L+\mu)$ | $(h-2)/(h+2)$ | $1-2/h$ |

    Heavy ball is the fastest, and only `nesterov` (and gradient descent) also converges on every smooth strongly
    convex function: on a piecewise quadratic, heavy ball with these constants can run in a circle for ever. A double
    root at the edge of the spectrum makes the error of the methods with momentum fall as $t \rho^t$: it may first rise.

    Args:
        L: Largest curvature (eigenvalue of the Hessian), above 0.
        mu: Smallest curvature, in (0, L].
        method: One of the names.

    Returns:
        lr, momentum, rate. For $L = \mu$ the momentum and the rate are 0: one step is enough.

    Raises:
        ValueError: If a number is out of its range; $\mu = 0$ among them, where no linear rate exists.

    Example:
        >>> optimal_momentum(9.0, 1.0, "heavy-ball")
        Constants(lr=0.25, momentum=0.25, rate=0.5)

    References:
        Polyak (1964), Some methods of speeding up the convergence of iteration methods. Nesterov (2004), Introductory
        lectures on convex optimization. Lessard, Recht and Packard (2016), Analysis and design of optimization
        algorithms via integral quadratic constraints, arXiv 1408.3595, proposition 1 and the counterexample of section
        4.6.
    """
    check_curvature(L, mu)
    root_l, root_mu = math.sqrt(L), math.sqrt(mu)
    ratio = (root_l - root_mu) / (root_l + root_mu)
    if method == "gradient-descent":
        found = Constants(2 / (L + mu), 0.0, (L - mu) / (L + mu))
    elif method == "heavy-ball":
        found = Constants((2 / (root_l + root_mu)) ** 2, ratio**2, ratio)
    elif method == "nesterov":
        found = Constants(1 / L, ratio, 1 - root_mu / root_l)
    elif method == "nesterov-quadratic":
        root = math.sqrt(3 * L + mu)
        found = Constants(4 / (3 * L + mu), (root - 2 * root_mu) / (root + 2 * root_mu), 1 - 2 * root_mu / root)
    else:
        raise ValueError(f"method: expected one of {', '.join(get_args(Method))}, got {method!r}")
    if not found.rate < 1:
        raise ValueError(f"mu = {mu} is 0 beside L = {L} in float64; {_WITHOUT_MU}")
    return found


def mode_radius(curvature: float, lr: float, momentum: float, *, nesterov: bool = False) -> float:
    r"""Return the factor by which a step multiplies the error along one eigenvector, in the long run.

    It is the larger root of $z^2 - (1 + b - a\lambda) z + b$ (heavy ball) or
    $z^2 - (1 + b)(1 - a\lambda) z + b (1 - a\lambda)$ (Nesterov): the spectral radius of the 2 x 2 matrix that takes
    two errors to the next two. Below 1 it converges.

    Args:
        curvature: Eigenvalue $\lambda$.
        lr: $a$.
        momentum: $b$.
        nesterov: Which of the two.

    Example:
        >>> mode_radius(1.0, lr=1.0, momentum=0.25)
        0.5
    """
    left = 1 - lr * curvature
    trace, determinant = ((1 + momentum) * left, momentum * left) if nesterov else (momentum + left, momentum)
    discriminant = trace * trace - 4 * determinant
    if discriminant <= 0:
        return math.sqrt(determinant)
    return (abs(trace) + math.sqrt(discriminant)) / 2


def mode_error(curvature: float, lr: float, momentum: float, steps: int) -> float:
    r"""Return the error along one eigenvector after some steps of heavy ball, for an error of 1 at the start.

    The error $e_t = b^{t/2} z_t$ obeys $z_{t+1} = 2 u z_t - z_{t-1}$ with $u = (1 + b - a \lambda) / (2 \sqrt b)$: the
    recursion of the Chebyshev polynomials. With $e_0 = 1$, $e_1 = 1 - a \lambda$,

    $$ e_t = b^{t/2} \left( \frac{1 - a \lambda}{\sqrt b}\, U_{t-1}(u) - U_{t-2}(u) \right), $$

    which falls as $b^{t/2}$ where $|u| \le 1$, with a factor of up to $t$.

    Args:
        curvature: Eigenvalue $\lambda$.
        lr: $a$.
        momentum: $b$, above 0.
        steps: $t$, at least 0.

    Raises:
        ValueError: If the momentum is not above 0 or the number of steps is below 0.

    Example:
        >>> mode_error(1.0, lr=0.5, momentum=0.25, steps=2)
        0.125
    """
    if not momentum > 0 or steps < 0:
        raise ValueError(f"expected a momentum above 0 and at least 0 steps, got {momentum} and {steps}")
    root = math.sqrt(momentum)
    u, first = (1 + momentum - lr * curvature) / (2 * root), (1 - lr * curvature) / root
    if steps == 0:
        return 1.0
    second_kind = [0.0, 1.0]  # U of degree -1 and 0
    for _ in range(steps - 1):
        second_kind.append(2 * u * second_kind[-1] - second_kind[-2])
    return root**steps * (first * second_kind[steps] - second_kind[steps - 1])


def chebyshev_weight(condition: float, step: int) -> float:
    r"""Return the weight of a step of the Chebyshev iteration.

    With the momentum $b = ((\sqrt\kappa - 1)/(\sqrt\kappa + 1))^2$ of the best heavy ball: $w_1 = 1$ and
    $w_t = (1 + b) (1 + b^{t-1}) / (1 + b^t)$, which falls to $1 + b$. It is the solution of the usual recursion
    $w_{t+1} = 1/(1 - w_t r^2/4)$, $w_2 = 1/(1 - r^2/2)$ with $r = (\kappa - 1)/(\kappa + 1)$.

    Args:
        condition: $\kappa$, at least 1.
        step: $t$ from 1.

    Example:
        >>> [round(chebyshev_weight(9.0, t), 4) for t in (1, 2, 3, 100)]
        [1.0, 1.4706, 1.3077, 1.25]
    """
    if step == 1:
        return 1.0
    root = math.sqrt(condition)
    b = ((root - 1) / (root + 1)) ** 2
    return (1 + b) * (1 + b ** (step - 1)) / (1 + b**step)


def chebyshev_steps(L: float, mu: float, steps: int) -> list[tuple[float, float]]:
    r"""Return learning rate and momentum of each step of the Chebyshev semi-iteration, for `SGD`.

    No method of first order that knows only $\mu$ and $L$ is better after `steps` steps on a quadratic: the error is at
    most $1 / T_t((L+\mu)/(L-\mu))$ of that of the start. Heavy ball is its limit. With $c = (L + \mu)/2$ and the
    weights $w_t$ of `chebyshev_weight`, $x_{t+1} = x_t - (w_t/c) g_t + (w_t - 1)(x_t - x_{t-1})$. The optimizer
    `Chebyshev` takes these steps by itself.

    Args:
        L: Largest curvature, above 0.
        mu: Smallest curvature, in (0, L].
        steps: At least 1.

    Returns:
        Pairs to write to a group's `lr` and `momentum` before each step. The momentum carries the change of the
        learning rate, since the buffer of `SGD` is in units of the gradient. The first has nothing to act on.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> [(round(lr, 4), round(momentum, 4)) for lr, momentum in chebyshev_steps(9.0, 1.0, 3)]
        [(0.2, 0.32), (0.2941, 0.32), (0.2615, 0.346)]

    References:
        Golub and Varga (1961), Chebyshev semi-iterative methods.
    """
    check_curvature(L, mu)
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    weights = [chebyshev_weight(L / mu, t) for t in range(1, max(steps, 2) + 1)]
    momenta = [(new - 1) * old / new for old, new in itertools.pairwise(weights)]
    return [(2 * w / (L + mu), m) for w, m in zip(weights, [momenta[0], *momenta], strict=True)][:steps]


_WITHOUT_MU = (
    "without a lower bound of the curvature no constant momentum is optimal and no linear rate exists: take lr = 1 / L "
    "with Nesterov(momentum=None), whose error falls as 2 L |x0 - x*|^2 / (t + 1)^2, or add weight decay to the loss "
    "and its coefficient to both numbers"
)


def check_curvature(L: float, mu: float) -> None:
    """Refuse curvatures that are no interval above 0.

    Args:
        L: Largest.
        mu: Smallest.

    Raises:
        ValueError: With what to do.
    """
    if not 0 < L < math.inf:
        raise ValueError(f"L: expected a finite curvature above 0, got {L}")
    if mu == 0:
        raise ValueError(f"mu is 0; {_WITHOUT_MU}")
    if not 0 < mu <= L:
        raise ValueError(f"mu: expected a curvature in (0, L = {L}], got {mu}; a negative one is no convex function")
