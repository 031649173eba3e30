import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.nn import functional as F

from steepest.curvature import Operator, extreme_eigenvalues, ggn, hessian


def from_matrix(matrix: torch.Tensor) -> Operator:
    return Operator(len(matrix), lambda v: matrix @ v, matrix.dtype)


def rotated(values, dtype=torch.float64) -> torch.Tensor:
    n = len(values)
    q = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    return (q @ torch.diag(torch.as_tensor(values, dtype=torch.float64)) @ q.T).to(dtype)


@pytest.mark.parametrize(("count", "which"), [(1, "both"), (3, "both"), (4, "largest"), (2, "smallest")])
def test_values_and_vectors_are_those_of_the_dense_decomposition(count, which):
    matrix = rotated(np.concatenate([[-7.0, -6.5, -6.0], np.linspace(-1, 1, 150), [3.0, 4.0, 8.0, 9.0]]))
    found = extreme_eigenvalues(from_matrix(matrix), count=count, which=which)
    exact = torch.linalg.eigvalsh(matrix).numpy()
    expected = {"both": np.r_[exact[:count], exact[-count:]], "largest": exact[-count:], "smallest": exact[:count]}
    np.testing.assert_allclose(found.values, expected[which], rtol=0, atol=1e-10)
    assert found.converged
    assert found.residuals.max() <= 4e-11 * 9
    left = matrix @ found.vectors - found.vectors * torch.from_numpy(found.values)
    np.testing.assert_allclose(left.norm(dim=0).numpy(), found.residuals, rtol=1e-6, atol=1e-13)


def test_each_residual_bounds_the_distance_to_an_eigenvalue_also_before_convergence():
    matrix = rotated(np.geomspace(1e-3, 1.0, 300))
    exact = torch.linalg.eigvalsh(matrix).numpy()
    for steps in (2, 5, 10, 20, 40):
        found = extreme_eigenvalues(from_matrix(matrix), max_steps=steps, tol=1e-12)
        distance = np.abs(found.values[:, None] - exact).min(1)
        assert (distance <= found.residuals * (1 + 1e-9) + 1e-15).all()
        assert exact[0] - 1e-14 <= found.values[0]
        assert found.values[-1] <= exact[-1] + 1e-14
        assert found.steps == steps
        assert not found.converged


def network():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    generator = torch.Generator().manual_seed(4)
    x, y = torch.randn(40, 6, generator=generator).double(), torch.randint(0, 3, (40,), generator=generator)
    return model, [(x[:13], y[:13]), (x[13:], y[13:])]


@pytest.mark.parametrize("made", [hessian, ggn])
def test_a_network_against_its_dense_matrix_and_arpack(made):
    model, data = network()
    operator = made(model, F.cross_entropy, data) + 0.01
    exact = np.linalg.eigvalsh(operator.matrix().numpy())
    both = extreme_eigenvalues(operator)  # the smallest of a Gauss-Newton matrix is a multiple one
    np.testing.assert_allclose(both.values, exact[[0, -1]], rtol=0, atol=1e-10)
    largest = extreme_eigenvalues(operator, count=2, which="largest")
    np.testing.assert_allclose(largest.values, exact[-2:], rtol=0, atol=1e-10)
    arpack = eigsh(operator.to_scipy(), k=2, which="LA", return_eigenvectors=False, tol=1e-10)
    np.testing.assert_allclose(largest.values, np.sort(arpack), rtol=1e-8)


def test_a_network_in_float32():
    model, data = network()
    exact = extreme_eigenvalues(hessian(model, F.cross_entropy, data))
    model.float()
    found = extreme_eigenvalues(hessian(model, F.cross_entropy, [(x.float(), y) for x, y in data]))
    assert found.converged
    np.testing.assert_allclose(found.values, exact.values, rtol=0, atol=3e-5 * exact.values.max())


def test_the_whole_space_finds_every_copy():
    values = [2.0, 2.0, 2.0, 5.0, 5.0]
    found = extreme_eigenvalues(from_matrix(rotated(values)), count=5, which="largest")
    np.testing.assert_allclose(found.values, values, rtol=0, atol=1e-12)
    assert found.converged
    one = extreme_eigenvalues(from_matrix(3.0 * torch.eye(4, dtype=torch.float64)))
    np.testing.assert_allclose(one.values, [3.0, 3.0], rtol=1e-14)
    zero = extreme_eigenvalues(from_matrix(torch.zeros(4, 4)))
    assert (zero.values == 0).all()


def test_scale_does_not_matter_and_the_same_seed_gives_the_same_bits():
    matrix = rotated(np.linspace(1, 50, 80))
    one, two = extreme_eigenvalues(from_matrix(matrix)), extreme_eigenvalues(from_matrix(matrix * 2.0**-400))
    np.testing.assert_allclose(one.values, two.values * 2.0**400, rtol=1e-12)
    assert two.converged
    again = extreme_eigenvalues(from_matrix(matrix))
    assert np.array_equal(one.values, again.values)
    other = extreme_eigenvalues(from_matrix(matrix), seed=5)
    np.testing.assert_allclose(one.values, other.values, rtol=1e-10)


def test_mistakes_say_what_was_expected():
    matrix = from_matrix(torch.eye(3))
    with pytest.raises(ValueError, match="which"):
        extreme_eigenvalues(matrix, which="top")
    with pytest.raises(ValueError, match="4 eigenvalues of an operator of size 3"):
        extreme_eigenvalues(matrix, count=2)
    with pytest.raises(ValueError, match="count"):
        extreme_eigenvalues(matrix, count=0)
    with pytest.raises(ValueError, match="not finite"):
        extreme_eigenvalues(from_matrix(torch.full((3, 3), torch.nan)))
