import math

import pytest
import torch

import steepest.geometry as geometry
from steepest.geometry import Manifold, Oblique, RowSphere, SpectralSphere, Sphere, Stiefel

CLASSES = [
    value
    for value in (getattr(geometry, name) for name in geometry.__all__)
    if isinstance(value, type) and issubclass(value, Manifold) and value is not Manifold
]
EXAMPLES = [kind() for kind in CLASSES] + [
    Sphere(3.0),
    RowSphere(0.5),
    Oblique(2.0),
    Stiefel(2.0),
    Stiefel(2.0, "qr"),
    SpectralSphere(4.0),
]
every_manifold = pytest.mark.parametrize("manifold", EXAMPLES, ids=str)
every_shape = pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 6), (6, 1), (2, 3, 6, 4)], ids=str)


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def smooth_point(manifold, shape):
    """A point where the set is smooth; the nearest point of a spectral sphere is often a kink, so retract to it."""
    return manifold.retract(gaussian(*shape), torch.zeros(shape, dtype=torch.float64))


def distance(manifold, x):
    """How far the defining equation is from holding."""
    if isinstance(manifold, Sphere):
        return abs(torch.linalg.matrix_norm(x) / manifold.radius - 1).max()
    if isinstance(manifold, RowSphere | Oblique):
        return abs(x.norm(dim=-1 if isinstance(manifold, RowSphere) else -2) / manifold.radius - 1).max()
    s = torch.linalg.svdvals(x)
    if isinstance(manifold, Stiefel):
        return abs(s / manifold.scale - 1).max()
    assert isinstance(manifold, SpectralSphere), "write the equation of the new manifold"
    return abs(s[..., 0] / manifold.radius - 1).max()


@every_shape
@every_manifold
def test_project_lands_on_the_manifold_at_the_nearest_point(manifold, shape):
    x = gaussian(*shape)
    near = manifold.project(x)
    assert distance(manifold, near) < 1e-12
    torch.testing.assert_close(manifold.project(near), near, atol=1e-11, rtol=0)
    gap = torch.linalg.matrix_norm(x - near)
    for spread in (1e-2, 0.3, 3.0):
        for seed in range(20):
            other = manifold.project(near + spread * gaussian(*shape, seed=seed))
            assert (torch.linalg.matrix_norm(x - other) >= gap - 1e-10).all()


@every_shape
@every_manifold
def test_tangent_is_an_orthogonal_projection(manifold, shape):
    x, v, w = smooth_point(manifold, shape), gaussian(*shape, seed=1), gaussian(*shape, seed=2)
    tangent = manifold.tangent(x, v)
    torch.testing.assert_close(manifold.tangent(x, tangent), tangent, atol=1e-11, rtol=0)
    torch.testing.assert_close((tangent * w).sum(), (v * manifold.tangent(x, w)).sum(), atol=1e-10, rtol=0)


@every_shape
@every_manifold
def test_retraction_stays_on_the_manifold_and_is_first_order(manifold, shape):
    x = smooth_point(manifold, shape)
    v = manifold.tangent(x, gaussian(*shape, seed=1))
    torch.testing.assert_close(manifold.retract(x, torch.zeros_like(x)), x, atol=1e-12, rtol=0)

    def error(t):
        moved = manifold.retract(x, t * v)
        assert distance(manifold, moved) < 1e-12
        return float((moved - x - t * v).norm())

    # Second-order error: a tenth of the step leaves a hundredth of it.
    assert error(1e-4) <= 0.015 * error(1e-3) + 1e-13


@every_manifold
def test_tangent_has_the_dimension_of_the_manifold(manifold):
    m, n = 5, 3
    x = smooth_point(manifold, (m, n))
    basis = torch.eye(m * n, dtype=x.dtype).reshape(m * n, m, n)
    rank = int(torch.linalg.matrix_rank(manifold.tangent(x.expand_as(basis), basis).flatten(1)))
    lost = {Sphere: 1, RowSphere: m, Oblique: n, Stiefel: n * (n + 1) // 2, SpectralSphere: 1}[type(manifold)]
    assert rank == m * n - lost


@every_manifold
def test_half_precision_zero_and_nan(manifold):
    x = gaussian(3, 5, 4, dtype=torch.bfloat16)
    assert manifold.project(x).dtype == torch.bfloat16
    x[1], x[2, 0, 0] = 0, math.nan
    near = manifold.project(x)
    assert not near[1].any()
    assert near[2].isnan().any()
    assert near[0].isfinite().all()
    moved = manifold.retract(near, torch.zeros_like(near))
    assert moved[2].isnan().any()
    assert moved[0].isfinite().all()


@every_manifold
def test_wrong_input_is_refused(manifold):
    x = gaussian(5, 4)
    with pytest.raises(ValueError, match="same shape"):
        manifold.retract(x, x[:3])
    with pytest.raises(ValueError, match="same shape"):
        manifold.tangent(x, x.mT)
    with pytest.raises(TypeError, match="float16"):
        manifold.project(x.to(torch.complex128))
    with pytest.raises(ValueError, match="empty"):
        manifold.project(torch.zeros(0, 4))
    with pytest.raises(ValueError, match="last 2"):
        manifold.project(x[0])
    for radius in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="radius must be"):
            type(manifold)(radius)


def test_hyperball_step_keeps_the_frobenius_norm():
    w, u = gaussian(6, 4), gaussian(6, 4, seed=1)
    radius = float(w.norm())
    stepped = Sphere(radius).retract(w, -0.1 * radius * u / u.norm())
    assert float(stepped.norm()) == pytest.approx(radius)


def test_the_spectral_sphere_keeps_the_largest_singular_value():
    w, u = gaussian(6, 4), gaussian(6, 4, seed=1)
    radius = float(torch.linalg.matrix_norm(w, 2))
    stepped = SpectralSphere(radius).retract(w, -0.1 * radius * u / torch.linalg.matrix_norm(u, 2))
    assert float(torch.linalg.matrix_norm(stepped, 2)) == pytest.approx(radius)
    assert float(stepped.norm()) != pytest.approx(float(w.norm()), rel=1e-3)


def test_stiefel_refuses_another_retraction():
    with pytest.raises(ValueError, match="retraction must be"):
        Stiefel(retraction="cayley")  # pyright: ignore[reportArgumentType]
