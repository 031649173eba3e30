import pytest
import torch

from steepest.geometry import RMS, BiasRMS, Frobenius, RMSToRMS, Scaled, Sign, Spectral, steepest_direction


@pytest.fixture
def g():
    return torch.randn(2, 4, 3, dtype=torch.float64)


def test_frobenius_dual_scaled_is_plain_sgd(g):
    torch.testing.assert_close(steepest_direction(g, Frobenius(), "dual-scaled"), -g)


@pytest.mark.parametrize(
    "norm", [Frobenius(), RMS(), Sign(), Spectral(), RMSToRMS(), BiasRMS()], ids=lambda n: type(n).__name__
)
def test_dual_scaled_minimizes_the_regularized_model(norm, g):
    # min <g, d> + |d|^2 / 2 is -|g|*^2 / 2, and no nearby direction is lower.
    def model(d):
        return (g * d).flatten(g.ndim - norm.element_dims).sum(-1) + norm.norm(d) ** 2 / 2

    best = steepest_direction(g, norm, "dual-scaled")
    torch.testing.assert_close(model(best), -(norm.dual(g) ** 2) / 2)
    for seed in range(50):
        noise = torch.randn(g.shape, generator=torch.Generator().manual_seed(seed), dtype=g.dtype)
        assert (model(best + 0.1 * noise) >= model(best) - 1e-10).all()


def test_frank_wolfe_stays_in_the_ball(g):
    norm = Scaled(Spectral(), 3.0)
    x = norm.project(10 * g)
    for lr in (0.0, 0.3, 1.0):
        assert (norm.norm(x + lr * steepest_direction(g, norm, "frank-wolfe", x=x)) <= 1 + 1e-12).all()


def test_half_precision_keeps_its_dtype(g):
    for mode in ("lmo", "dual-scaled"):
        assert steepest_direction(g.bfloat16(), Sign(), mode).dtype == torch.bfloat16


def test_arguments_that_do_not_fit_are_refused(g):
    with pytest.raises(ValueError, match="frank-wolfe"):
        steepest_direction(g, Sign(), "frank-wolfe")
    with pytest.raises(ValueError, match="only for it"):
        steepest_direction(g, Sign(), "lmo", x=g)
    with pytest.raises(ValueError, match="same shape"):
        steepest_direction(g, Sign(), "frank-wolfe", x=g[0])
    with pytest.raises(ValueError, match="mode must be"):
        steepest_direction(g, Sign(), "lmos")  # pyright: ignore[reportArgumentType]
