# SPDX-License-Identifier: Apache-2.0
"""Ridge regression on real data: the steps that methods of first order need, measured and predicted."""

import math
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from steepest.optim import SGD, Chebyshev, optimal_momentum
from steepest.optim.optimal_momentum import Method

ALL = (*get_args(Method), "chebyshev")
#: The error at which steps are counted, as a part of that of the start.
_LEVEL = 1e-8


def stepper(method: str, L: float, mu: float) -> Callable[[nn.Parameter], torch.optim.Optimizer]:
    """Return what makes the optimizer of a method for curvatures from mu to L."""
    if method == "chebyshev":
        return lambda p: Chebyshev([p], L=L, mu=mu)
    lr, b, _ = optimal_momentum(L, mu, method)  # pyright: ignore[reportArgumentType]
    return lambda p: SGD([p], lr=lr, momentum=b, nesterov=method.startswith("nesterov"))


def ridge_rows(*, quick: bool) -> dict[str, Any]:
    """Return steps measured and predicted for each method, data set and decay, and how far they are apart."""
    from sklearn import datasets

    cases = (
        (("breast_cancer", 0.03), ("digits", 0.03))
        if quick
        else (("breast_cancer", 0.01), ("breast_cancer", 0.001), ("digits", 0.01), ("digits", 0.001))
    )
    off: list[float] = []
    lanczos, rows = 0.0, []
    for name, decay in cases:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        x = x[:, x.std(0) > 0]
        x = torch.from_numpy((x - x.mean(0)) / x.std(0))
        y = torch.from_numpy((y - y.mean()).astype(np.float64))[:, None]
        L, mu, error = _curvatures(x, y, decay)
        lanczos = max(lanczos, error)
        for method in ALL:
            measured = _iterations(x, y, decay, method, L, mu)
            predicted = _predicted(method, L, mu)
            off.append(measured / predicted - 1)
            rows.append({"data": name, "decay": decay, "method": method, "measured": measured, "theory": predicted})
    low, high = min(off), max(off)
    return {"low": 100 * low, "high": 100 * high, "lanczos": lanczos, "rows": rows, "cases": len(rows)}


def _curvatures(x: torch.Tensor, y: torch.Tensor, decay: float) -> tuple[float, float, float]:
    from steepest.curvature import extreme_eigenvalues, hessian

    model = nn.Linear(x.shape[1], 1, bias=False, dtype=x.dtype)
    operator = hessian(model, lambda f, t: (f - t).square().mean() / 2, [(x, y)]) + decay
    found = extreme_eigenvalues(operator, max_steps=100)
    mu, L = found.values.tolist()
    exact = torch.linalg.eigvalsh(x.T @ x / len(x)).numpy() + decay
    return L, mu, max(abs(L / exact[-1] - 1), abs(mu / exact[0] - 1))


def _iterations(x: torch.Tensor, y: torch.Tensor, decay: float, method: str, L: float, mu: float) -> int:
    """Steps until the error has fallen by the level in every eigenvector, from an error of one in each of them."""
    normal = x.T @ x / len(x) + decay * torch.eye(x.shape[1], dtype=x.dtype)
    solution = torch.linalg.solve(normal, x.T @ y / len(x))[:, 0]
    vectors = torch.linalg.eigh(normal).eigenvectors
    w = nn.Parameter(solution + vectors.sum(1))
    optimizer = stepper(method, L, mu)(w)
    for step in range(1, 1_000_000):
        # The gradient from the data themselves, not from the normal matrix.
        w.grad = x.T @ (x @ w.detach() - y[:, 0]) / len(x) + decay * w.detach()
        optimizer.step()
        if (vectors.T @ (w.detach() - solution)).abs().max() <= _LEVEL:
            return step
    raise RuntimeError(f"{method} did not converge")


def _predicted(method: str, L: float, mu: float) -> int:
    """Steps that theory needs: the bound of Chebyshev, or rate^t with the factor of a double root, 1 + c t."""
    if method == "chebyshev":
        return math.ceil(math.acosh(1 / _LEVEL) / math.acosh((L + mu) / (L - mu)))
    lr, b, rate = optimal_momentum(L, mu, method)  # pyright: ignore[reportArgumentType]
    slope = 0.0
    if method == "heavy-ball":
        slope = 1 + rate  # at L, where e_1 = 1 - lr L and the root is -rate
    elif method != "gradient-descent":
        slope = (1 - lr * (1 + b) * mu) / rate - 1  # at mu, where e_1 = 1 - lr (1 + b) mu
    step = 1
    while math.log1p(slope * step) + step * math.log(rate) > math.log(_LEVEL):
        step += 1
    return step
