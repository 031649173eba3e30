import pytest
import torch

from steepest.nn import PolyNorm, PolyReLU, Swish


def x(*shape, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def rms(power):
    return power * torch.rsqrt(power.square().mean(-1, keepdim=True) + 1e-6)


def test_start_is_the_papers():
    value = x(3, 8, dtype=torch.float64)
    above = torch.relu(value)
    torch.testing.assert_close(PolyReLU().double()(value), (above + above**2 + above**3) / 3)
    torch.testing.assert_close(PolyNorm().double()(value), (rms(value) + rms(value**2) + rms(value**3)) / 3)
    torch.testing.assert_close(PolyNorm(2, eps=0.0).double()(value).square().mean().isfinite(), torch.tensor(True))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_polyrelu_contains_relu(order):
    layer = PolyReLU(order)
    with torch.no_grad():
        layer.coefficients.copy_(torch.eye(order + 1)[1])
    assert torch.equal(layer(x(5, 7)), torch.relu(x(5, 7)))


def test_groups_keep_experts_apart():
    experts, hidden = 4, 6
    layer = PolyNorm(groups=experts)
    value = x(5, experts * hidden).requires_grad_()
    y = layer(value)
    alone = PolyNorm()
    apart = [alone(part) for part in value.chunk(experts, -1)]
    assert torch.equal(y, torch.cat(apart, -1))
    other = torch.autograd.grad(y[:, :hidden].sum(), value)[0]
    assert not other[:, hidden:].any()  # what one expert computes does not depend on the others
    assert other[:, :hidden].any()
    assert not torch.equal(y, alone(value))


def test_each_layer_has_its_own_coefficients_and_can_start_again():
    for layer, start in ((PolyNorm(), [0, 1 / 3, 1 / 3, 1 / 3]), (PolyReLU(2), [0, 0.5, 0.5]), (Swish(1.5), 1.5)):
        (parameter,) = layer.parameters()
        layer(x(4, 6)).sum().backward()
        assert parameter.grad.abs().sum() > 0
        with torch.no_grad():
            parameter.add_(1.0)
        layer.reset_parameters()
        torch.testing.assert_close(parameter.detach(), torch.tensor(start))


def test_a_scaled_row_changes_nothing():
    layer = PolyNorm(eps=0.0)
    torch.testing.assert_close(layer(x(3, 9) * 1e8), layer(x(3, 9)))
    half = layer(x(3, 9, dtype=torch.float16) * 1000)  # its cubes are beyond float16
    torch.testing.assert_close(half.float(), layer(x(3, 9)), rtol=0, atol=4e-3)


def test_swish_limits():
    value = x(40)
    torch.testing.assert_close(Swish(1e-8)(value), value / 2)
    torch.testing.assert_close(Swish(1e4)(value), torch.relu(value), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, 12), (3, 0, 12), (2, 3, 12)])
def test_shapes_layouts_and_empty_batches(shape):
    value = x(*shape)
    for layer in (PolyReLU(), PolyNorm(), PolyNorm(groups=3), Swish()):
        assert layer(value).shape == value.shape
        turned = value.transpose(0, -1).contiguous().transpose(0, -1)
        assert torch.equal(layer(turned), layer(value))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PolyReLU(0), "order"),
        (lambda: PolyNorm(0), "order"),
        (lambda: PolyNorm(groups=0), "groups"),
        (lambda: PolyNorm(eps=-1.0), "eps"),
        (lambda: PolyNorm(groups=5)(torch.zeros(2, 12)), "divide"),
        (lambda: PolyNorm(groups=2)(torch.zeros(())), "divide"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
