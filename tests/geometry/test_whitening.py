import itertools
import math

import pytest
import torch

from steepest.geometry import exact_polar, whiten
from steepest.geometry.whitening import _coupled_newton_schulz


def with_singular_values(m, n, values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    k = min(m, n)
    left = exact_polar(torch.randn(m, k, generator=generator, dtype=torch.float64))
    right = exact_polar(torch.randn(k, n, generator=generator, dtype=torch.float64))
    return left @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ right


@pytest.mark.parametrize("b", [0.45, 0.5, 0.6])
@pytest.mark.parametrize(("m", "n"), [(4, 9), (9, 4), (4, 4)])
def test_it_converges_to_the_polar_factor_for_every_admissible_b(m, n, b):
    x = with_singular_values(m, n, [1.0, 0.5, 0.2, 0.1])
    done = whiten(x, steps=60, b=b, tol=1e-11)
    assert done.converged
    torch.testing.assert_close(done.x, exact_polar(x), atol=1e-9, rtol=0)


def test_one_half_is_quadratic_and_other_values_linear_at_3_minus_6b():
    x = with_singular_values(4, 9, [1.0, 0.9, 0.8, 0.7])

    def residuals(b):
        return [float(whiten(x, steps=k, b=b).residual) for k in range(1, 12)]

    quadratic = [r for r in residuals(0.5) if 1e-13 < r < 0.1]
    assert all(after <= 2 * before**2 + 1e-14 for before, after in itertools.pairwise(quadratic))
    for b in (0.45, 0.55):
        linear = residuals(b)
        assert linear[-1] / linear[-2] == pytest.approx(abs(3 - 6 * b), rel=0.05)


def test_b_of_0_8_does_not_converge():
    # The multiplier at the fixed point is 3 - 6 * 0.8 = -1.8, so even a matrix that is almost white is driven away.
    x = with_singular_values(6, 6, [1.0, 1.01, 0.99, 0.7, 0.3, 0.1])
    wide = x / x.abs().max()
    spreads = []
    for steps in (10, 50, 200, 201, 202):
        result, residual, _ = _coupled_newton_schulz(wide, steps, 0.8, None)
        s = torch.linalg.svdvals(result)
        spreads.append(float(s.max() / s.min()))
        assert not float(residual) < 0.2, f"{steps} steps: residual {residual}"
    # At its customary 10 steps the singular values are scattered; more steps do not bring them together.
    assert spreads[0] > 1.5
    with pytest.raises(ValueError, match=r"3 - 6 b = -1\.8"):
        whiten(x, b=0.8)


def test_ten_steps_are_not_enough_for_small_singular_values():
    x = with_singular_values(2, 5, [1.0, 0.01])
    done = whiten(x, steps=10, tol=1e-3)
    assert not done.converged
    assert float(torch.linalg.svdvals(done.x)[-1]) == pytest.approx(0.53, abs=0.02)


@pytest.mark.parametrize("b", [0.0, 1 / 3, 2 / 3, 0.8, math.nan])
def test_b_outside_its_interval_is_refused(b):
    with pytest.raises(ValueError, match="b must lie in"):
        whiten(torch.eye(2), b=b)


def test_batch_scale_dtype_zero_and_nan():
    x = torch.stack([with_singular_values(3, 5, [1.0, 0.5, 0.4], seed) for seed in range(4)]).float()
    want = exact_polar(x)
    torch.testing.assert_close(whiten(1e-30 * x).x, want, atol=1e-4, rtol=0)
    assert whiten(x.bfloat16()).x.dtype == torch.bfloat16
    x[1], x[2, 0, 0] = 0, math.nan
    done = whiten(x, tol=1e-4)
    assert not done.x[1].any()
    assert done.x[2].isnan().all()
    assert done.converged.tolist() == [True, False, False, True]
    torch.testing.assert_close(done.x[3], want[3], atol=1e-4, rtol=0)
