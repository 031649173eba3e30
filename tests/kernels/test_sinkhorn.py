import math

import numba
import numpy as np
import pytest
import torch
from numba.core import event

from steepest.kernels import _registry
from steepest.kernels._sinkhorn import APPLY, SWEEP, sinkhorn_columns
from steepest.kernels.sinkhorn import has_kernel, scale_rows_and_columns_

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}
# Around the sixteen lanes, the four rows of a group, the blocks of 4 to 32 rows, and the 4096 terms of a run.
SHAPES = [(1, 1), (1, 17), (17, 1), (3, 15), (4, 16), (5, 33), (9, 4100), (257, 31), (290, 600), (2, 3, 37, 50)]


def naive(x, steps):
    """Rows, then columns, to RMS one, in float64 NumPy."""
    x = x.double().numpy().copy()
    for _ in range(steps):
        x /= np.sqrt(np.square(x).mean(-1, keepdims=True))
        x /= np.sqrt(np.square(x).mean(-2, keepdims=True))
    return torch.from_numpy(x)


def scaled(x, steps=5):
    target = torch.empty(x.shape, dtype=x.dtype)
    assert has_kernel(x, target)
    return scale_rows_and_columns_(target, x, steps=steps)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_equals_the_float64_reference(shape, steps, dtype):
    x = torch.randn(shape).to(dtype)
    x[x == 0] = 1
    torch.testing.assert_close(scaled(x, steps).double(), naive(x, steps), rtol=ROUNDING[dtype] + 2e-6, atol=1e-7)


def test_error_does_not_grow_with_length():
    for shape in ((40_000, 8), (8, 40_000)):
        x = torch.rand(shape) + 1  # all of one sign and size: sums that lose digits lose them here
        torch.testing.assert_close(scaled(x).double(), naive(x, 5), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_rows_transposes_and_batches(dtype):
    base = torch.randn(6, 40, 80).to(dtype)
    for x in (base[:, :, 3:70], base[1, ::2], base.mT, base[:, ::2], base[::2, 1]):
        assert not x.is_contiguous()
        kept = x.clone()
        assert torch.equal(scaled(x), scaled(x.contiguous()))
        assert torch.equal(x, kept)
    each = torch.stack([scaled(one) for one in base])
    assert torch.equal(scaled(base), each)


def test_a_strided_target_is_written_in_place_and_its_surroundings_are_not():
    whole, x = torch.full((20, 50), 7.0), torch.randn(20, 33)
    target = whole[:, 4:37]
    assert has_kernel(x, target)
    scale_rows_and_columns_(target, x, steps=5)
    assert torch.equal(target, scaled(x))
    assert (whole[:, :4] == 7).all()
    assert (whole[:, 37:] == 7).all()
    assert not has_kernel(x, torch.empty(33, 20).mT)
    assert not has_kernel(x, torch.empty(20, 33, dtype=torch.float64))


def test_the_same_bits_for_any_number_of_threads():
    x = torch.randn(700, 1100)
    one = scaled(x)
    torch.set_num_threads(2)
    for _ in range(3):
        assert torch.equal(scaled(x), one)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_rows_columns_and_matrices_stay_zero(dtype):
    x = torch.randn(3, 37, 50).to(dtype)
    x[0, 5], x[0, :, 7], x[1] = 0, 0, 0
    out = scaled(x)
    assert out.isfinite().all()
    assert not out[0, 5].any()
    assert not out[0, :, 7].any()
    assert not out[1].any()
    rest = [j for j in range(50) if j != 7]
    torch.testing.assert_close(out[0].float().square().mean(0)[rest], torch.ones(49), rtol=1e-2, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_and_inf_spoil_their_matrix_and_no_other(bad, dtype):
    x = torch.randn(3, 9, 20).to(dtype)
    x[1, 4, 19] = bad
    out = scaled(x)
    assert out[1].isnan().all()
    assert torch.equal(out[[0, 2]], scaled(x[[0, 2]]))


def test_any_scale_of_a_row_gives_the_same_result():
    x = torch.randn(10, 30)
    x[x.abs() < 1e-2] = 1
    scales = torch.tensor([2.0**e for e in (-115, -90, -30, -1, 0, 1, 40, 90, 110, 125)])[:, None]
    torch.testing.assert_close(scaled(x * scales), scaled(x), rtol=1e-6, atol=1e-7)
    for exponent in range(-149, -110, 3):
        assert scaled(x * 2.0**exponent).isfinite().all()


def test_columns_of_any_size_stay_finite():
    for exponent in range(1, 38):
        x = torch.randn(300, 40)
        x[:, 3] *= 10.0**-exponent
        out = scaled(x)
        assert out.isfinite().all()
        if exponent < 15:
            torch.testing.assert_close(out.double(), naive(x, 5), rtol=1e-4, atol=1e-6)


def test_in_place_and_the_fused_update():
    x, weight = torch.randn(37, 50), torch.randn(37, 50)
    want = scaled(x)
    updated = scale_rows_and_columns_(weight.clone(), x, steps=5, alpha=-0.1, beta=0.5)
    torch.testing.assert_close(updated, 0.5 * weight - 0.1 * want)
    assert torch.equal(scale_rows_and_columns_(x, x, steps=5), want)


def test_the_compiler_is_given_nothing_but_our_own_functions():
    # numba's arrays, minima and maxima are functions of its own, which took most of a first step's wait.
    with event.install_recorder("numba:compile") as found:
        for kernel in (SWEEP[torch.float32], APPLY[torch.float32], sinkhorn_columns):
            numba.njit(kernel.signature, **_registry._COMMON)(kernel.function)
    compiled = {one.data["dispatcher"].py_func for _, one in found.buffer}
    assert len(compiled) >= 3
    assert all(function.__module__.startswith("steepest.kernels.") for function in compiled), compiled
