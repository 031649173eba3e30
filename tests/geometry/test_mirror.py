"""Sets and mirror maps, by the conditions that define their projections."""

import math

import numpy as np
import pytest
import torch

from steepest.geometry import Ball, Box, Entropy, Euclidean, Frobenius, PNorm, Simplex, Spectral
from tests.reference.mirror import onto_simplex

SETS = [Ball(1.5), Ball(0.7, norm=1), Ball(0.7, norm=math.inf), Ball(2.0, norm=Spectral()), Box(-0.2, 1.0)]
SETS += [Box(0.0, math.inf), Simplex(), Simplex(3.0), Ball(1.0, norm=Frobenius(2))]
MAPS = [Euclidean(), Entropy(), PNorm(1.1), PNorm(1.5), PNorm(2.0)]


def points(shape=(40, 6), seed=0, scale=2.0):
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("domain", SETS)
def test_a_projection_is_inside_and_makes_an_obtuse_angle_with_every_other_point(domain):
    x = points((3, 4, 6))
    nearest = domain.project(x)
    assert domain.contains(nearest, tol=1e-12)
    dims = tuple(range(-domain.element_dims, 0))
    for seed in range(1, 30):
        other = domain.project(points((3, 4, 6), seed, 3.0))
        assert ((x - nearest) * (other - nearest)).sum(dims).max() <= 1e-12


@pytest.mark.parametrize("domain", SETS)
def test_points_inside_stay_and_those_outside_are_known(domain):
    x = domain.project(points((3, 4, 6)))
    torch.testing.assert_close(domain.project(x), x, rtol=1e-12, atol=1e-12)
    assert not domain.contains(x + (-5.0 if isinstance(domain, Box) else 5.0))
    assert not domain.contains(torch.full((4, 6), torch.nan))


def test_the_simplex_against_bisection_also_far_away():
    for shift in (0.0, 1e6):
        x = points((20, 7)) + shift
        expected = torch.from_numpy(np.array([onto_simplex(row) for row in x.numpy()]))
        torch.testing.assert_close(Simplex().project(x), expected, atol=1e-9, rtol=0)


def psi(mirror, x):
    if isinstance(mirror, Entropy):
        return (x * x.log() - x).sum(-1)
    return torch.linalg.vector_norm(x, 2.0 if isinstance(mirror, Euclidean) else mirror.p, dim=-1).square() / 2


def inside(mirror, seed=0):
    return points(seed=seed).abs() + 0.05 if isinstance(mirror, Entropy) else points(seed=seed)


@pytest.mark.parametrize("mirror", MAPS, ids=str)
def test_dual_coordinates_are_the_gradient_and_come_back(mirror):
    x = inside(mirror).requires_grad_()
    (expected,) = torch.autograd.grad(psi(mirror, x).sum(), x)
    theta = mirror.dual(x.detach())
    torch.testing.assert_close(theta, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(mirror.primal(theta), x.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mirror", MAPS, ids=str)
def test_the_divergence_is_what_the_tangent_leaves_over(mirror):
    x, y = inside(mirror), inside(mirror, 1)
    expected = psi(mirror, x) - psi(mirror, y) - (mirror.dual(y) * (x - y)).sum(-1)
    torch.testing.assert_close(mirror.divergence(x, y), expected, rtol=1e-9, atol=1e-10)
    assert (mirror.divergence(x, y) > 0).all()
    assert mirror.divergence(x, x).abs().max() < 1e-12


PAIRS = [
    (Euclidean(), Ball(1.0)),
    (Euclidean(), Simplex()),
    (Entropy(), Simplex()),
    (Entropy(), Simplex(2.0)),
    (Entropy(), Box(0.1, 1.5)),
    (Entropy(), Box(0.0, 1.5)),
    (PNorm(1.5), Ball(1.0, norm=1.5)),
]


@pytest.mark.parametrize(("mirror", "domain"), PAIRS, ids=str)
def test_a_bregman_projection_satisfies_the_condition_of_a_minimum(mirror, domain):
    theta = points()
    x = mirror.primal(mirror.project(theta, domain))
    assert domain.contains(x, tol=1e-12)
    for seed in range(1, 20):
        if isinstance(mirror, PNorm):
            other = points(seed=seed)
            other = other / torch.linalg.vector_norm(other, mirror.p, dim=-1, keepdim=True).clamp_min(1)
        else:
            other = domain.project(points(seed=seed).abs())
        assert ((mirror.dual(x) - theta) * (other - x)).sum(-1).min() >= -1e-10


@pytest.mark.parametrize(("mirror", "domain"), [PAIRS[0], PAIRS[1], PAIRS[2], PAIRS[6]], ids=str)
def test_strong_convexity_in_the_norm_whose_dual_measures_gradients(mirror, domain):
    """B(x, y) >= |x - y|^2 / 2, and <g, x - y> <= |g|_* |x - y|, so <g, x - y>^2 <= 2 |g|_*^2 B(x, y)."""
    x, y = (mirror.primal(mirror.project(points(seed=seed), domain)) for seed in (2, 3))
    for seed in range(4, 24):
        g = points(seed=seed)
        left = (g * (x - y)).sum(-1).square()
        assert (left <= 2 * mirror.gradient_norm(g).square() * mirror.divergence(x, y) * (1 + 1e-9)).all()


def test_what_has_no_formula_is_refused_with_what_there_is():
    with pytest.raises(NotImplementedError, match="Simplex"):
        Entropy().project(points(), Ball())
    with pytest.raises(NotImplementedError, match=r"norm=1\.5"):
        PNorm(1.5).project(points(), Ball())
    with pytest.raises(NotImplementedError, match="PNorm"):
        Ball(norm=1.5).project(points())
    for wrong in (
        lambda: Ball(0.0),
        lambda: Ball(norm=0.5),
        lambda: Box(1.0, 1.0),
        lambda: Simplex(-1.0),
        lambda: PNorm(1.0),
    ):
        with pytest.raises(ValueError, match="expected"):
            wrong()
