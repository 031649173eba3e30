import pytest
import torch

from steepest.functional import heaviside


def draw(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["number", "feature"])
def test_value_and_straight_through_gradient(kind, dtype):
    x = draw(67, 45, dtype=dtype)
    wide = torch.promote_types(dtype, torch.float32)
    threshold = torch.tensor(0.75, dtype=wide) if kind == "number" else torch.linspace(0.25, 1.5, 45, dtype=wide)
    x[3] = threshold.to(dtype)
    x.requires_grad_()
    threshold.requires_grad_()
    grad = draw(67, 45, dtype=dtype)
    y = heaviside(x, threshold, 0.5)
    exact, at = x.detach().double(), threshold.detach().double()
    assert torch.equal(y.double(), (exact > at).double())
    by_x, by_threshold = torch.autograd.grad(y, (x, threshold), grad)
    assert not by_x.any()
    near = ((exact - at).abs() < 0.25) * -2.0 * grad.double()
    torch.testing.assert_close(by_threshold.double(), near.sum_to_size(at.shape), rtol=1e-5, atol=1e-4)


def test_gradient_estimates_the_derivative_of_the_expectation():
    # d/dt P(x > t) = -density(t), for a standard normal x.
    x, threshold = draw(400_000), torch.tensor(0.6, requires_grad=True)
    (slope,) = torch.autograd.grad(heaviside(x, threshold, 0.1).mean(), threshold)
    density = torch.exp(torch.tensor(-0.18)) / (2 * torch.pi) ** 0.5
    assert slope.item() == pytest.approx(-density.item(), rel=0.02)


def test_nan_stays_and_errors_say_why():
    x = torch.tensor([torch.nan, torch.inf, -torch.inf])
    for wide in (x, x.double()):
        torch.testing.assert_close(heaviside(wide, 0.5).float(), torch.tensor([torch.nan, 1.0, 0.0]), equal_nan=True)
    with pytest.raises(ValueError, match="bandwidth"):
        heaviside(x, 0.5, 0.0)
    with pytest.raises(TypeError, match="heaviside"):
        heaviside(torch.tensor([1]), 0.5)


def test_transforms_and_layouts():
    x, threshold = draw(6, 8), torch.linspace(0.1, 1, 8)
    assert torch.equal(torch.func.vmap(lambda row: heaviside(row, threshold))(x), heaviside(x, threshold))
    assert torch.equal(heaviside(x.t().contiguous().t(), threshold), heaviside(x, threshold))
    assert heaviside(x[:0], threshold).shape == (0, 8)
