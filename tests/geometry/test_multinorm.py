import itertools
import math

import numpy as np
import pytest
import torch

from steepest.geometry import BiasRMS, ColumnNorm, RowNorm, Scaled, Sign, Spectral, alternate, sinkhorn, sinkhorn_step_
from tests.reference.swan import swan

SINKGD = [RowNorm(rms=True), ColumnNorm(rms=True)]
SHAPES = [(7, 4), (3, 8), (5, 5), (1, 6), (6, 1), (40, 60)]


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def naive_sinkhorn(x, steps):
    """Rows to length sqrt(n), columns to length sqrt(m), in float64 NumPy."""
    x = x.double().numpy().copy()
    m, n = x.shape
    for _ in range(steps):
        x /= np.sqrt((x**2).sum(1, keepdims=True)) / math.sqrt(n)
        x /= np.sqrt((x**2).sum(0, keepdims=True)) / math.sqrt(m)
    return x


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sinkhorn_equals_the_naive_reference(shape, steps, dtype):
    x = gaussian(*shape, dtype=dtype)
    ours = sinkhorn(x, steps=steps)
    assert ours.dtype == dtype
    tol = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    np.testing.assert_allclose(ours.double().numpy(), naive_sinkhorn(x, steps), rtol=tol)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sinkhorn_is_the_alternation_of_row_and_column_norms(shape):
    x = gaussian(3, *shape)
    torch.testing.assert_close(sinkhorn(x, steps=4), alternate(SINKGD, x, 4).x, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", [(3000, 70), (2, 200, 128), (2, 3, 140, 120)], ids=str)
def test_blocks_of_rows_and_large_batches_change_nothing(shape):
    x = gaussian(*shape)
    torch.testing.assert_close(sinkhorn(x), alternate(SINKGD, x).x, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_fixed_point_has_rows_of_length_sqrt_n_and_columns_of_length_sqrt_m(shape):
    m, n = shape
    x = gaussian(*shape)
    for result in (sinkhorn(x, steps=2000), alternate(SINKGD, x, 2000, tol=1e-12).x):
        torch.testing.assert_close(
            result.norm(dim=1), torch.full((m,), math.sqrt(n), dtype=x.dtype), rtol=1e-10, atol=0
        )
        torch.testing.assert_close(
            result.norm(dim=0), torch.full((n,), math.sqrt(m), dtype=x.dtype), rtol=1e-10, atol=0
        )
        assert float(result.norm()) == pytest.approx(math.sqrt(m * n))


@pytest.mark.parametrize("shape", [(4, 4), (6, 9), (30, 20)], ids=str)
def test_it_converges_at_the_rate_of_theory(shape):
    # Near the fixed point the error shrinks by sigma_2^2 of the doubly scaled matrix of squares, each pass.
    x = gaussian(*shape, seed=1)
    limit = sinkhorn(x, steps=5000).square() / math.sqrt(shape[0] * shape[1])
    rate = float(torch.linalg.svdvals(limit)[1]) ** 2
    residuals = [float(alternate(SINKGD, x, steps).residual) for steps in range(1, 60)]
    ratios = [b / a for a, b in itertools.pairwise(residuals) if 1e-10 < b < 1e-4]
    assert ratios[-1] == pytest.approx(rate, rel=0.05)


def test_sinkhorn_does_not_see_scales_of_rows_and_columns():
    x = gaussian(6, 5)
    rows, columns = gaussian(6, 1, seed=1).exp(), gaussian(1, 5, seed=2).exp()
    torch.testing.assert_close(sinkhorn(rows * x * columns, steps=500), sinkhorn(x, steps=500))
    # The first step undoes any row scale at once, far from one too.
    small = gaussian(6, 5, dtype=torch.float32)
    scales = torch.tensor([1e-30, 1e-10, 1.0, 1e10, 1e30, 1.0])[:, None]
    torch.testing.assert_close(sinkhorn(scales * small), sinkhorn(small), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_zero_rows_and_columns_stay_zero(dtype):
    x = gaussian(6, 5, dtype=dtype)
    x[2], x[:, 3] = 0, 0
    result = sinkhorn(x)
    assert result.isfinite().all()
    assert not result[2].any()
    assert not result[:, 3].any()
    want = torch.full((4,), math.sqrt(6))
    torch.testing.assert_close(result[:, [0, 1, 2, 4]].float().norm(dim=0), want, rtol=1e-2, atol=0)
    assert not sinkhorn(torch.zeros(3, 4, dtype=dtype)).any()


def test_columns_too_small_to_square_become_zero_not_infinite():
    x = gaussian(6, 5, dtype=torch.float32)
    for exponent in range(10, 40, 3):
        x[:, 1] = x[:, 0] * 10.0**-exponent
        assert sinkhorn(x).isfinite().all()


def test_nan_stays_in_its_matrix():
    x = gaussian(3, 4, 5)
    x[1, 2, 2] = math.nan
    for result in (sinkhorn(x), alternate(SINKGD, x, 5).x):
        assert result[1].isnan().any()
        assert result[[0, 2]].isfinite().all()
    status = alternate(SINKGD, x, 100, tol=1e-6)
    assert status.converged.tolist() == [True, False, True]
    assert status.residual[1].isnan()


def test_sinkhorn_leaves_its_input_alone_and_refuses_nonsense():
    x = gaussian(4, 5)
    kept = x.clone()
    sinkhorn(x)
    assert torch.equal(x, kept)
    for steps in (0, -1, 2.5):
        with pytest.raises(ValueError, match="steps must be"):
            sinkhorn(x, steps=steps)
    with pytest.raises(TypeError, match="float16"):
        sinkhorn(torch.ones(2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="last 2 dim"):
        sinkhorn(torch.ones(3))
    with pytest.raises(ValueError, match="empty"):
        sinkhorn(torch.ones(3, 0))


def test_sinkhorn_writes_where_it_is_told():
    x = gaussian(3, 20, 30, dtype=torch.float32)
    want, out = sinkhorn(x), torch.empty(3, 20, 30)
    assert sinkhorn(x, out=out) is out
    assert torch.equal(out, want)
    assert sinkhorn(x, out=x) is x
    assert torch.equal(x, want)
    double = gaussian(20, 30)
    assert torch.equal(sinkhorn(double, out=torch.empty_like(double)), sinkhorn(double))
    for wrong in (torch.empty(3, 20, 31), torch.empty(3, 20, 30, dtype=torch.float64), [1.0]):
        with pytest.raises(ValueError, match="out must be a tensor of shape"):
            sinkhorn(x, out=wrong)


def test_sinkhorn_is_differentiable_by_the_plain_route():
    x = gaussian(4, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sinkhorn(x, steps=2), (x,))
    single = gaussian(4, 5, dtype=torch.float32).requires_grad_()
    assert sinkhorn(single).requires_grad
    torch.testing.assert_close(sinkhorn(single).detach(), sinkhorn(single.detach()), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 20, 30)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("alpha", "beta"), [(-0.02, 1.0), (0.5, 0.0), (-0.02, 0.998)])
def test_step_is_the_update_with_the_normalized_gradient(shape, dtype, alpha, beta):
    weight, grad = gaussian(*shape, dtype=dtype), gaussian(*shape, seed=1, dtype=dtype)
    kept = grad.clone()
    want = beta * weight.double() + alpha * sinkhorn(grad.double())
    tol = {torch.float64: 1e-13, torch.float32: 5e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    parameter = torch.nn.Parameter(weight)
    before = parameter._version
    assert sinkhorn_step_(parameter, grad, alpha=alpha, beta=beta) is parameter
    assert parameter._version > before
    assert torch.equal(grad, kept)
    torch.testing.assert_close(parameter.detach().double(), want, rtol=tol, atol=tol * 0.1)


def test_step_with_beta_zero_does_not_read_the_parameter():
    weight, grad = torch.full((6, 40), math.nan), gaussian(6, 40, dtype=torch.float32)
    assert torch.equal(sinkhorn_step_(weight, grad, alpha=1.0, beta=0.0), sinkhorn(grad))


def test_step_refuses_what_does_not_fit():
    weight = torch.zeros(4, 5)
    for grad in (torch.zeros(5, 4), torch.zeros(4, 5, dtype=torch.bfloat16)):
        with pytest.raises(ValueError, match="param must be a tensor of shape"):
            sinkhorn_step_(weight, grad, alpha=1.0)
    for alpha in (math.nan, math.inf):
        with pytest.raises(ValueError, match="finite"):
            sinkhorn_step_(weight, weight, alpha=alpha)
    with pytest.raises(ValueError, match="steps"):
        sinkhorn_step_(weight, weight, alpha=1.0, steps=0)


@pytest.mark.parametrize("shape", [(4, 9), (6, 6)], ids=str)
def test_swan_is_one_pass_of_row_and_spectral_norm(shape):
    g = gaussian(*shape)
    torch.testing.assert_close(alternate([RowNorm(rms=True), Spectral()], g, steps=1).x, swan(g), rtol=1e-9, atol=1e-9)


def test_row_and_spectral_norm_have_a_common_fixed_point_on_wide_matrices():
    # Orthonormal rows times sqrt(n) have row length sqrt(n), so one pass is already there.
    norms = [RowNorm(rms=True), Scaled(Spectral(), math.sqrt(9))]
    done = alternate(norms, gaussian(4, 9), steps=10, tol=1e-12)
    assert done.converged
    assert done.steps == 1


def test_the_status_is_true():
    x = gaussian(2, 8, 6)
    loose, tight = alternate(SINKGD, x, 2, tol=1e-9), alternate(SINKGD, x, 200, tol=1e-9)
    assert not loose.converged.any()
    assert loose.steps == 2
    assert tight.converged.all()
    assert 2 < tight.steps < 200
    for done in (loose, tight):
        again = -SINKGD[0].lmo(done.x)
        move = (again - done.x).flatten(1).norm(dim=1) / done.x.flatten(1).norm(dim=1)
        torch.testing.assert_close(done.residual, move, rtol=1e-4, atol=1e-14)
    fixed = alternate(SINKGD, x, 3)
    assert not fixed.converged.any()
    assert fixed.residual.shape == (2,)


def test_zero_rows_leave_no_fixed_point_and_the_residual_says_so():
    x = gaussian(6, 5)
    x[2] = 0
    done = alternate(SINKGD, x, 300, tol=1e-8)
    assert not done.converged
    assert float(done.residual) == pytest.approx(1 - math.sqrt(5 / 6), rel=1e-3)


def test_zero_is_its_own_fixed_point():
    done = alternate(SINKGD, torch.zeros(3, 4), 5, tol=0.0)
    assert not done.x.any()
    assert done.converged
    assert done.steps == 1


def test_alternate_refuses_nonsense():
    x = gaussian(4, 5)
    for norms in ([], [RowNorm(), BiasRMS()]):
        with pytest.raises(ValueError, match="at least one norm"):
            alternate(norms, x)
    with pytest.raises(ValueError, match="steps must be"):
        alternate([Sign()], x, 0)
    for tol in (-1.0, math.nan):
        with pytest.raises(ValueError, match="tol must be"):
            alternate([Sign()], x, 5, tol)
