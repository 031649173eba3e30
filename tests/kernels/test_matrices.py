# SPDX-License-Identifier: Apache-2.0
"""Sweeps between the products of a polar iteration, beside float64 and beside the same lines of torch."""

import math

import pytest
import torch

from steepest.kernels import matrices

SHAPES = [(1, 1, 1), (2, 3, 5), (1, 16, 16), (3, 17, 33), (2, 70, 31), (1, 31, 130), (1, 257, 100)]


def normal(*shape, scale=1.0, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30, 1e-41])
@pytest.mark.parametrize("shape", SHAPES)
def test_normalized_is_division_and_one_rounding(shape, scale):
    x = normal(*shape, scale=scale)
    x[-1, -1, 0] = 0.0
    expected = (x.double() / x.double().abs().amax((-2, -1), keepdim=True).clamp_min(1e-300)).float().bfloat16()
    for transpose in (False, True):
        y = matrices.normalized(x, transpose=transpose)
        assert y.is_contiguous()
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, expected.mT if transpose else expected)


@pytest.mark.parametrize("transpose", [False, True])
def test_each_matrix_has_its_own_largest_entry(transpose):
    x = normal(5, 20, 40)
    x[1] = 0.0
    x[2, 3, 4] = math.nan
    x[3, 19, 39] = -math.inf
    y = matrices.normalized(x, transpose=transpose)
    assert y[[0, 4]].abs().amax((-2, -1)).tolist() == [1.0, 1.0]
    assert (y[1] == 0).all()
    assert y[2].isnan().all()
    assert y[3].isnan().sum() == 1
    assert (y[3].nan_to_num(0.0) == 0).all()


def test_a_view_is_taken_as_it_looks():
    x = normal(40, 3, 30).movedim(0, -1)[:, ::2]
    assert not x.is_contiguous()
    assert torch.equal(matrices.normalized(x, transpose=False), matrices.normalized(x.clone(), transpose=False))


@pytest.mark.parametrize("shape", [*SHAPES, (2, 3, 9000), (7, 20)])
def test_squared_norms(shape):
    x = normal(*shape).bfloat16()
    expected = x.double().square().sum((-2, -1))
    torch.testing.assert_close(matrices.squared_norms(x), expected, rtol=3e-7, atol=0)
    assert matrices.squared_norms(x.fill_(math.nan)).isnan().all()


def polynomial_in_float64(gram, square, numbers):
    a, b, c = numbers.double().reshape(-1, 3, 1, 1).unbind(1)
    even = b * gram.double() + (0 if square is None else c * square.double())
    return even + a * torch.eye(gram.shape[-1], dtype=torch.float64)


@pytest.mark.parametrize("m", [1, 2, 15, 16, 17, 33, 100, 256])
@pytest.mark.parametrize("with_square", [False, True])
def test_polynomial_is_rounded_once(m, with_square):
    gram, square = normal(3, m, m).bfloat16(), normal(3, m, m, seed=1).bfloat16()
    numbers = torch.tensor([[3.4, -4.8, 2.0], [0.5, 2.0, 0.0], [0.0, 1.0, -1e-6]])
    if not with_square:
        square, numbers[:, 2] = None, 0.0
    exact = polynomial_in_float64(gram, square, numbers)
    size = polynomial_in_float64(gram.abs(), None if square is None else square.abs(), numbers.abs())
    before = gram.clone()
    y = matrices.polynomial(gram, square, numbers)
    assert square is None or y.data_ptr() == square.data_ptr()
    assert torch.equal(gram, before)
    # Half an ulp of bfloat16, and float32's rounding where terms cancel.
    assert ((y.double() - exact).abs() <= exact.abs() * 2**-8 + size * 2**-22).all()


def test_one_matrix_without_a_batch():
    gram = normal(20, 20).bfloat16()
    numbers = torch.tensor([[1.0, 2.0, 0.0]])
    assert torch.equal(matrices.polynomial(gram, None, numbers), matrices.polynomial(gram[None], None, numbers)[0])


def test_two_threads_give_the_bits_of_one():
    x, before = normal(2, 600, 700), torch.get_num_threads()
    gram, square = normal(2, 600, 600).bfloat16(), normal(2, 600, 600, seed=1).bfloat16()
    numbers = torch.tensor([[3.4, -4.8, 2.0]] * 2)
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            both = [matrices.normalized(x, transpose=t) for t in (False, True)]
            found.append([*both, matrices.squared_norms(gram), matrices.polynomial(gram, square.clone(), numbers)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_other_tensors_have_no_kernel():
    assert matrices.has_kernel(normal(2, 3, 4))
    assert matrices.has_kernel(normal(2, 3, 4).bfloat16())
    assert not matrices.has_kernel(normal(2, 3, 4).double())
    assert not matrices.has_kernel(torch.empty(2, 3, 4, device="meta"))
    assert not torch.func.vmap(lambda x: torch.full((), matrices.has_kernel(x)))(normal(2, 3, 4)).any()
