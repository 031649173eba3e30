import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import cg
from torch import nn

from steepest.optim import SGD, Chebyshev, chebyshev_steps, optimal_momentum
from steepest.optim.optimal_momentum import chebyshev_weight
from tests.optim.gradients import MATRICES, VECTORS, parameters, run
from tests.reference.momentum import chebyshev_iterates


def problem(kappa: float, n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((n, n)))
    return rotation @ np.diag(np.geomspace(0.3, 0.3 * kappa, n)) @ rotation.T, np.random.default_rng(1).random(n)


@pytest.mark.parametrize("kappa", [1.0, 3.0, 500.0])
def test_follows_the_three_term_iteration(kappa):
    hessian, start = problem(kappa)
    p = nn.Parameter(torch.as_tensor(start.copy()))
    optimizer = Chebyshev([p], L=0.3 * kappa, mu=0.3)
    expected = chebyshev_iterates(start, lambda x: hessian @ x, largest=0.3 * kappa, smallest=0.3, steps=40)
    for x in expected:
        p.grad = torch.as_tensor(hessian) @ p.detach()
        optimizer.step()
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kappa", [1.0, 1.7, 100.0, 1e12])
def test_weights_are_those_of_the_recursion(kappa):
    square = ((kappa - 1) / (kappa + 1)) ** 2
    weight = 1 / (1 - square / 2)
    assert chebyshev_weight(kappa, 1) == 1.0
    for step in range(2, 60):
        assert chebyshev_weight(kappa, step) == pytest.approx(weight, rel=1e-13)
        weight = 1 / (1 - weight * square / 4)


@pytest.mark.parametrize("steps", [1, 7, 60])
def test_the_worst_error_over_the_interval_is_that_of_the_chebyshev_polynomial(steps):
    curvatures = torch.linspace(1, 100, 20001, dtype=torch.float64)
    p = nn.Parameter(torch.ones_like(curvatures))
    optimizer = Chebyshev([p], L=100.0, mu=1.0)
    for _ in range(steps):
        p.grad = curvatures * p.detach()
        optimizer.step()
    bound = 1 / math.cosh(steps * math.acosh(101 / 99))
    assert p.detach().abs().max().item() == pytest.approx(bound, rel=1e-12)


def test_conjugate_gradients_are_never_worse():
    """They minimize over the same polynomials: the length in the norm of the Hessian can only be smaller."""
    hessian, start = problem(200.0, 40)

    def energy(x):
        return float(x @ hessian @ x)

    p = nn.Parameter(torch.as_tensor(start.copy()))
    optimizer = Chebyshev([p], L=60.0, mu=0.3)
    for steps in range(1, 30):
        p.grad = torch.as_tensor(hessian) @ p.detach()
        optimizer.step()
        best, _ = cg(hessian, np.zeros(40), x0=start.copy(), maxiter=steps, rtol=0.0, atol=1e-30)
        assert energy(best) <= energy(p.detach().numpy()) * (1 + 1e-9)


def test_the_same_as_sgd_with_the_list_of_constants():
    one, two = parameters([*MATRICES, *VECTORS]), parameters([*MATRICES, *VECTORS])
    optimizer, other = Chebyshev(one, L=9.0, mu=1.0), SGD(two, momentum=0.5)
    for step, (lr, momentum) in enumerate(chebyshev_steps(9.0, 1.0, 20)):
        other.param_groups[0].update(lr=lr, momentum=momentum)
        run(optimizer, one, range(step, step + 1))
        run(other, two, range(step, step + 1))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_in_the_long_run_it_is_the_best_heavy_ball():
    assert chebyshev_weight(100.0, 400) - 1 == pytest.approx(optimal_momentum(100.0, 1.0).momentum, rel=1e-12)


def test_another_rate_moves_the_interval():
    p = parameters([(3,)])
    assert Chebyshev(p, L=9.0, mu=1.0).param_groups[0]["lr"] == pytest.approx(0.2)
    assert Chebyshev(p, L=9.0, mu=1.0, lr=0.4).param_groups[0]["condition"] == 9.0


@pytest.mark.parametrize(("L", "mu", "message"), [(1.0, 0.0, "mu is 0"), (1.0, 2.0, "mu:"), (0.0, 0.0, "L:")])
def test_what_is_no_interval_is_refused(L, mu, message):
    with pytest.raises(ValueError, match=message):
        Chebyshev(parameters([(2,)]), L=L, mu=mu)
