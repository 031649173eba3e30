import math

import numpy as np
import pytest
import torch
from torch import nn

from steepest.optim import SGD, chebyshev_steps, optimal_momentum
from steepest.optim.optimal_momentum import mode_radius

METHODS = ["gradient-descent", "heavy-ball", "nesterov", "nesterov-quadratic"]


def matrix_radius(curvature: float, lr: float, b: float, nesterov: bool) -> float:
    """The spectral radius of the matrix that takes (x_t, x_{t-1}) to (x_{t+1}, x_t)."""
    if nesterov:
        rows = [[(1 + b) * (1 - lr * curvature), -b * (1 - lr * curvature)], [1, 0]]
    else:
        rows = [[1 + b - lr * curvature, -b], [1, 0]]
    return float(np.abs(np.linalg.eigvals(np.array(rows))).max())


@pytest.mark.parametrize("kappa", [1.5, 10, 100, 1000, 10000])
@pytest.mark.parametrize("method", METHODS)
def test_rate_is_the_largest_radius_of_the_modes_and_no_neighbour_is_better(method, kappa):
    scale = 3.7
    lr, momentum, rate = optimal_momentum(scale * kappa, scale, method)
    curvatures = scale * np.geomspace(1, kappa, 400)
    nesterov = method.startswith("nesterov")
    radii = [matrix_radius(c, lr, momentum, nesterov) for c in curvatures]
    # Double roots lose half the digits in an eigenvalue solver.
    assert max(radii) == pytest.approx(rate, abs=1e-7)
    assert max(mode_radius(c, lr, momentum, nesterov=nesterov) for c in curvatures) == pytest.approx(rate, abs=1e-7)
    if method == "nesterov":
        return  # Optimal over all smooth strongly convex functions, not among quadratics.
    for other_lr, other in ((0.98, 1.0), (1.02, 1.0), (1.0, 0.98), (1.0, 1.01)):
        near = [mode_radius(c, lr * other_lr, momentum * other, nesterov=nesterov) for c in curvatures]
        if momentum or other == 1.0:
            assert max(near) > rate


def test_radius_of_a_mode_against_the_eigenvalues_of_its_matrix():
    generator = np.random.default_rng(0)
    for _ in range(200):
        curvature, lr, b = generator.uniform(0, 3), generator.uniform(0, 2), generator.uniform(0, 1)
        for nesterov in (False, True):
            expected = matrix_radius(curvature, lr, b, nesterov)
            assert mode_radius(curvature, lr, b, nesterov=nesterov) == pytest.approx(expected, abs=1e-7)


def test_published_rates_at_condition_ten_thousand():
    rates = [optimal_momentum(1e4, 1.0, method).rate for method in METHODS]
    assert [round(r, 5) for r in rates] == [0.9998, 0.9802, 0.99, 0.98845]


def ridge() -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Ridge regression on correlated features: normal matrix, right side, largest and smallest curvature."""
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(400, 30, generator=generator, dtype=torch.float64) * torch.linspace(0.05, 1, 30)
    features = mixed @ torch.linalg.qr(torch.randn(30, 30, generator=generator, dtype=torch.float64)).Q
    targets = features @ torch.randn(30, generator=generator, dtype=torch.float64)
    targets += 0.1 * torch.randn(400, generator=generator, dtype=torch.float64)
    hessian = features.T @ features / 400 + 0.01 * torch.eye(30, dtype=torch.float64)
    eigenvalues = torch.linalg.eigvalsh(hessian)
    return hessian, features.T @ targets / 400, eigenvalues[-1].item(), eigenvalues[0].item()


@pytest.mark.parametrize("method", METHODS)
def test_rate_of_a_run_on_ridge_regression(method):
    hessian, right, largest, smallest = ridge()
    lr, momentum, rate = optimal_momentum(largest, smallest, method)
    # Moved so that the solution is 0: then errors can be followed far below the rounding of the solution, to where
    # the factor t of a double root no longer counts beside rate^t.
    p = nn.Parameter(-torch.linalg.solve(hessian, right))
    optimizer = SGD([p], lr=lr, momentum=momentum, nesterov=method.startswith("nesterov"))
    errors = []
    for _ in range(math.ceil(math.log(1e-250) / math.log(rate))):
        p.grad = hessian @ p.detach()
        optimizer.step()
        errors.append(p.detach().abs().max().item())
    late = np.arange(len(errors) // 2, len(errors))
    fitted = np.polyfit(late, np.log(errors)[late], 1)[0]
    assert fitted == pytest.approx(math.log(rate), rel=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_one_curvature_needs_one_step(method):
    constants = optimal_momentum(2.0, 2.0, method)
    assert constants == pytest.approx((0.5, 0.0, 0.0), rel=1e-15)
    p = nn.Parameter(torch.ones(5, dtype=torch.float64))
    p.grad = 2.0 * p.detach()
    SGD([p], lr=constants.lr, momentum=constants.momentum).step()
    torch.testing.assert_close(p.detach(), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("method", METHODS)
def test_scale_of_the_problem_changes_the_learning_rate_alone(method):
    one, other = optimal_momentum(50.0, 2.0, method), optimal_momentum(50e-9, 2e-9, method)
    assert (other.lr * 1e-9, *other[1:]) == pytest.approx(one)


@pytest.mark.parametrize("method", METHODS)
def test_no_lower_bound_is_refused_with_what_to_do(method):
    for bad in (0.0, 1e-300):
        with pytest.raises(ValueError, match=r"Nesterov\(momentum=None\)"):
            optimal_momentum(1.0, bad, method)


@pytest.mark.parametrize(
    ("L", "mu", "message"),
    [(0, 0, "L:"), (-1, 1, "L:"), (math.inf, 1, "L:"), (math.nan, 1, "L:"), (1, 2, "mu:"), (1, -1, "mu:")],
)
def test_curvatures_that_are_none_are_refused(L, mu, message):
    with pytest.raises(ValueError, match=message):
        optimal_momentum(L, mu)


def test_unknown_methods_are_refused():
    with pytest.raises(ValueError, match="heavy-ball"):
        optimal_momentum(2.0, 1.0, "heavyball")


def test_heavy_ball_tuned_for_quadratics_runs_in_a_circle_where_nesterov_converges():
    """Lessard, Recht and Packard's strongly convex function with curvatures 1 and 25."""

    def slope(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x < 1, 25 * x, torch.where(x < 2, x + 24, 25 * x - 24))

    found = {}
    for method in ("heavy-ball", "nesterov"):
        lr, momentum, _ = optimal_momentum(25.0, 1.0, method)
        p = nn.Parameter(torch.tensor([3.3], dtype=torch.float64))
        optimizer = SGD([p], lr=lr, momentum=momentum, nesterov=method == "nesterov")
        last = []
        for _ in range(3000):
            p.grad = slope(p.detach())
            optimizer.step()
            last.append(p.item())
        found[method] = sorted(last[-3:])
    assert found["heavy-ball"] == pytest.approx([-1.802449, 0.646531, 2.115918], abs=1e-6)
    assert found["nesterov"] == pytest.approx([0, 0, 0], abs=1e-12)


@pytest.mark.parametrize("kappa", [1.0, 4.0, 100.0])
def test_chebyshev_reaches_the_best_possible_bound(kappa):
    """The worst error over the spectrum is exactly 1 / T_t((kappa + 1) / (kappa - 1)), by SGD itself."""
    steps = 60 if kappa == 100 else 20
    curvatures = torch.linspace(1, kappa, 20001, dtype=torch.float64)
    p = nn.Parameter(torch.ones_like(curvatures))
    optimizer = SGD([p], momentum=0.5)
    for lr, momentum in chebyshev_steps(kappa, 1.0, steps):
        optimizer.param_groups[0].update(lr=lr, momentum=momentum)
        p.grad = curvatures * p.detach()
        optimizer.step()
    worst = p.detach().abs().max().item()
    if kappa == 1:
        assert worst == 0
        return
    bound = 1 / math.cosh(steps * math.acosh((kappa + 1) / (kappa - 1)))
    assert worst == pytest.approx(bound, rel=1e-9)
    assert kappa != 100 or bound == pytest.approx(1.18037e-5, rel=1e-5)


def test_heavy_ball_is_the_limit_of_chebyshev():
    lr, momentum = chebyshev_steps(100.0, 1.0, 300)[-1]
    assert (lr, momentum) == pytest.approx(optimal_momentum(100.0, 1.0, "heavy-ball")[:2])
    with pytest.raises(ValueError, match="steps"):
        chebyshev_steps(2.0, 1.0, 0)
    with pytest.raises(ValueError, match="mu is 0"):
        chebyshev_steps(2.0, 0.0, 3)
