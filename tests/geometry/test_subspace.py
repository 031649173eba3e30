import itertools
import math

import numpy as np
import pytest
import scipy.fft
import torch

import steepest.geometry as geometry
from steepest.geometry import (
    DCTSubspace,
    RandomizedSubspace,
    RandomSubspace,
    Subspace,
    SVDSubspace,
    change_of_basis,
    compress_with_feedback,
    dct,
    dct_matrix,
    inverse_dct,
    select_top,
)

CLASSES = [
    value
    for value in (getattr(geometry, name) for name in geometry.__all__)
    if isinstance(value, type) and issubclass(value, Subspace) and value is not Subspace
]
every_subspace = pytest.mark.parametrize("kind", CLASSES)
LENGTHS = [1, 2, 3, 4, 5, 8, 17, 64, 100, 1025]


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def seeded(subspace: Subspace, a, rank, seed=0):
    return subspace.project(a, rank, generator=torch.Generator().manual_seed(seed) if subspace._random else None)


@pytest.mark.parametrize("n", LENGTHS)
def test_matrix_and_fft_are_the_same_basis_and_scipys(n):
    x = gaussian(2, 3, n)
    want = scipy.fft.dct(x.numpy(), type=2, norm="ortho")
    np.testing.assert_allclose(dct(x), want, atol=1e-11)
    np.testing.assert_allclose(x @ dct_matrix(n, dtype=torch.float64), want, atol=1e-11)
    torch.testing.assert_close(inverse_dct(dct(x)), x, atol=1e-12, rtol=0)
    np.testing.assert_allclose(inverse_dct(x), scipy.fft.idct(x.numpy(), norm="ortho"), atol=1e-11)
    torch.testing.assert_close(
        dct_matrix(n, dtype=torch.float64).T @ dct_matrix(n, dtype=torch.float64),
        torch.eye(n).double(),
        atol=1e-11,
        rtol=0,
    )


@pytest.mark.parametrize("n", LENGTHS)
def test_float32_transform_is_as_exact_as_scipys(n):
    x = gaussian(4, n, dtype=torch.float32)
    want = scipy.fft.dct(x.double().numpy(), norm="ortho")
    error = np.abs(dct(x).double().numpy() - want).max()
    theirs = np.abs(scipy.fft.dct(x.numpy(), norm="ortho") - want).max()
    assert error <= 3 * theirs + 2e-7


@pytest.mark.parametrize("order", [1, 2])
def test_both_routes_choose_the_same_cosines(order):
    a = gaussian(2, 20, 33)
    slow, fast = (DCTSubspace(order, method).project(a, 7) for method in ("matrix", "fft"))
    assert slow.indices is not None
    assert fast.indices is not None
    assert torch.equal(slow.indices, fast.indices)
    torch.testing.assert_close(slow.coefficients, fast.coefficients)
    assert torch.equal(slow.basis, fast.basis)


@pytest.mark.parametrize("shape", [(9, 6), (4, 11), (5, 5), (1, 6), (6, 1), (2, 3, 9, 6)], ids=str)
@every_subspace
def test_projection_laws(kind, shape):
    a = gaussian(*shape)
    n = shape[-1]
    for rank in {1, (n + 1) // 2, n}:
        found = seeded(kind(), a, rank)
        identity = torch.eye(rank, dtype=a.dtype).expand(*shape[:-2], rank, rank)
        torch.testing.assert_close(found.basis.mT @ found.basis, identity, atol=1e-11, rtol=0)
        torch.testing.assert_close(found.coefficients, a @ found.basis, atol=1e-11, rtol=0)
        torch.testing.assert_close(found.lift(2 * found.coefficients), 2 * found.lift())
        # What is left out is orthogonal to what is kept.
        left_out = a - found.lift()
        torch.testing.assert_close(left_out @ found.basis, torch.zeros_like(found.coefficients), atol=1e-11, rtol=0)
        if rank == n:
            torch.testing.assert_close(found.lift(), a, atol=1e-11, rtol=0)


@every_subspace
def test_same_seed_same_bits_and_a_generator_only_where_it_is_used(kind):
    a = gaussian(9, 6)
    assert torch.equal(seeded(kind(), a, 3).basis, seeded(kind(), a, 3).basis)
    if not kind()._random:
        with pytest.raises(ValueError, match="takes no generator"):
            kind().project(a, 3, generator=torch.Generator())
    else:
        assert not torch.equal(seeded(kind(), a, 3).coefficients, seeded(kind(), a, 3, seed=1).coefficients)


@every_subspace
def test_half_zero_nan_and_wrong_input(kind):
    a = gaussian(3, 9, 6)
    a[1], a[2, 0, 0] = 0, math.nan
    found = seeded(kind(), a, 3)
    assert not found.coefficients[1].any()
    assert found.coefficients[2].isnan().all()
    assert found.coefficients[0].isfinite().all()
    assert found.basis.isfinite().all()
    assert seeded(kind(), a[0].bfloat16(), 3).coefficients.dtype == torch.float32
    for rank in (0, 7, 2.0):
        with pytest.raises(ValueError, match="rank must be"):
            kind().project(a, rank)
    with pytest.raises(TypeError, match="float16"):
        kind().project(a.to(torch.complex128), 3)
    with pytest.raises(ValueError, match="last 2"):
        kind().project(a[0, 0], 3)


@pytest.mark.parametrize("shape", [(9, 6), (4, 11)], ids=str)
def test_svd_has_the_smallest_error(shape):
    a = gaussian(*shape)
    s = torch.linalg.svdvals(a)
    for rank in (1, 3):
        error = (a - SVDSubspace().project(a, rank).lift()).norm()
        torch.testing.assert_close(error, s[rank:].norm())


def test_dct_by_l2_has_the_smallest_error_of_all_choices_of_cosines():
    a, cosines = gaussian(5, 7), dct_matrix(7, dtype=torch.float64)
    best = min(
        float((a - a @ cosines[:, list(chosen)] @ cosines[:, list(chosen)].T).norm())
        for chosen in itertools.combinations(range(7), 3)
    )
    assert float((a - DCTSubspace(order=2).project(a, 3).lift()).norm()) == pytest.approx(best)


def test_randomized_is_nearly_optimal_on_a_decaying_spectrum():
    s = 0.8 ** torch.arange(40, dtype=torch.float64)
    a = torch.linalg.qr(gaussian(60, 40)).Q * s @ torch.linalg.qr(gaussian(40, 40, seed=1)).Q
    for powers, factor in ((0, 2.0), (1, 1.1), (3, 1.001)):
        found = RandomizedSubspace(powers=powers).project(a, 8, generator=torch.Generator().manual_seed(0))
        assert float((a - found.lift()).norm()) <= factor * float(s[8:].norm())


def test_random_subspace_is_uniform():
    # The mean of B B^T over many draws is (r / n) I; entries have a standard error below 0.01 here.
    generator = torch.Generator().manual_seed(0)
    a = gaussian(1, 5)
    mean = torch.zeros(5, 5, dtype=torch.float64)
    for _ in range(3000):
        basis = RandomSubspace().project(a, 2, generator=generator).basis
        mean += basis @ basis.T / 3000
    torch.testing.assert_close(mean, 0.4 * torch.eye(5, dtype=torch.float64), atol=0.03, rtol=0)


@every_subspace
def test_error_feedback_loses_nothing(kind):
    error = torch.zeros(9, 6, dtype=torch.float64)
    sent, total = torch.zeros_like(error), torch.zeros_like(error)
    for step in range(20):
        g = gaussian(9, 6, seed=step)
        kept = g.clone()
        generator = torch.Generator().manual_seed(step) if kind()._random else None
        found, error = compress_with_feedback(g, error, kind(), 2, generator=generator)
        assert torch.equal(g, kept)
        sent, total = sent + found.lift(), total + g
    torch.testing.assert_close(sent + error, total, atol=1e-11, rtol=0)
    with pytest.raises(ValueError, match="same shape"):
        compress_with_feedback(g, error[:3], kind(), 2)


def test_error_keeps_its_own_dtype():
    g = gaussian(9, 6, dtype=torch.bfloat16)
    found, error = compress_with_feedback(g, torch.zeros(9, 6), SVDSubspace(), 2)
    assert error.dtype == torch.float32
    torch.testing.assert_close(found.lift() + error, g.float(), atol=1e-5, rtol=0)


def test_select_top_by_brute_force_and_its_ties():
    s = gaussian(3, 6, 9)
    for order in (1, 2):
        sizes = s.abs().pow(order).sum(-2)
        for matrix in range(3):
            want = sorted(sorted(range(9), key=lambda j, i=matrix, z=sizes: -float(z[i, j]))[:4])
            assert select_top(s, 4, order=order)[matrix].tolist() == want
    assert select_top(torch.ones(2, 50), 3).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="order must be"):
        select_top(s, 2, order=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="rank must be"):
        select_top(s, 10)


def test_change_of_basis_moves_moments():
    a, b = gaussian(9, 6), gaussian(9, 6, seed=1)
    old, new = DCTSubspace().project(a, 3), DCTSubspace().project(b, 3)
    rotation = change_of_basis(old, new)
    torch.testing.assert_close(old.coefficients @ rotation, old.lift() @ new.basis)
    # Between cosines it is a selection: entries are 0 or 1.
    torch.testing.assert_close(rotation, rotation.round(), atol=1e-12, rtol=0)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="method must be"):
        DCTSubspace(method="fast")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="order must be"):
        DCTSubspace(order=0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least 0"):
        RandomizedSubspace(oversample=-1)
    with pytest.raises(ValueError, match="n must be"):
        dct_matrix(0)
