import math

import numpy as np
import pytest
import scipy.linalg
import torch

from steepest.geometry import Frobenius, Nuclear, RMSToRMS, Schatten, Spectral, exact_polar


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 5), (5, 1)])
def test_exact_polar_equals_scipys(shape):
    x = gaussian(*shape)
    np.testing.assert_allclose(exact_polar(x), scipy.linalg.polar(x.numpy())[0], atol=1e-12)


def test_exact_polar_of_a_rank_deficient_matrix_is_a_partial_isometry():
    x = gaussian(6, 2) @ gaussian(2, 5, seed=1)
    polar = exact_polar(x)
    s = torch.linalg.svdvals(polar)
    torch.testing.assert_close(s, torch.tensor([1.0, 1.0, 0, 0, 0], dtype=s.dtype), atol=1e-12, rtol=0)
    # Its null space is that of x.
    torch.testing.assert_close(polar @ torch.linalg.pinv(x) @ x, polar, atol=1e-10, rtol=0)


def test_exact_polar_isolates_a_matrix_that_is_not_finite():
    x = gaussian(3, 4, 2)
    x[1, 0, 0] = math.inf
    polar = exact_polar(x)
    assert polar[1].isnan().all()
    torch.testing.assert_close(polar[[0, 2]], exact_polar(x[[0, 2]]))


def test_schatten_2_is_normalized_sgd_and_schatten_inf_the_polar_factor():
    g = gaussian(3, 6, 4)
    torch.testing.assert_close(Schatten(2).lmo(g), -g / torch.linalg.matrix_norm(g, keepdim=True))
    torch.testing.assert_close(Schatten(2).lmo(g), Frobenius().lmo(g))
    torch.testing.assert_close(Schatten(math.inf).lmo(g), -exact_polar(g))
    torch.testing.assert_close(Schatten(math.inf).lmo(g), Spectral().lmo(g))
    torch.testing.assert_close(Schatten(1).lmo(g), Nuclear().lmo(g))


def test_schatten_runs_continuously_to_its_ends():
    g = gaussian(6, 4)
    torch.testing.assert_close(Schatten(1e6).lmo(g), Schatten(math.inf).lmo(g), atol=1e-4, rtol=0)
    torch.testing.assert_close(Schatten(1 + 1e-4).lmo(g), Schatten(1).lmo(g), atol=1e-4, rtol=0)


def test_schatten_lmo_has_the_published_singular_values():
    g, p = gaussian(5, 7), 3.0
    q = p / (p - 1)
    s = torch.linalg.svdvals(g)
    want = (s / s.pow(q).sum().pow(1 / q)).pow(q - 1)
    torch.testing.assert_close(torch.linalg.svdvals(Schatten(p).lmo(g)), want)


def test_rms_to_rms_is_the_operator_norm():
    x = gaussian(4, 9)
    inputs = gaussian(5000, 9, seed=2)
    inputs = inputs / inputs.square().mean(-1, keepdim=True).sqrt()
    stretched = (inputs @ x.mT).square().mean(-1).sqrt()
    assert (stretched <= RMSToRMS().norm(x)).all()
    top = torch.linalg.svd(x).Vh[0] * 3  # RMS one for nine entries
    torch.testing.assert_close((x @ top).square().mean().sqrt(), RMSToRMS().norm(x))


def test_the_polar_factor_that_is_given_is_used():
    g = gaussian(4, 4)
    calls = []

    def half(x):
        calls.append(x.shape)
        return x / 2

    torch.testing.assert_close(Spectral(polar=half).lmo(g), -g / 2)
    torch.testing.assert_close(RMSToRMS(polar=half).lmo(g[:1]), -g[:1] / 2 * math.sqrt(1 / 4))
    assert calls == [(4, 4), (1, 4)]


def test_largest_singular_value_from_the_gram_keeps_its_digits():
    left, right = exact_polar(gaussian(60, 60)), exact_polar(gaussian(60, 60, seed=1))
    s = torch.logspace(0, -12, 60, dtype=torch.float64) * 7
    x = ((left * s) @ right).float()
    ours = abs(float(Spectral().norm(x)) - 7)
    assert ours <= 2 * abs(float(torch.linalg.svdvals(x)[0]) - 7) + 7 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("p", [0.5, -1.0, math.nan])
def test_schatten_refuses_an_order_below_one(p):
    with pytest.raises(ValueError, match="p must be at least 1"):
        Schatten(p)
