import math

import pytest
import torch

from steepest.geometry import RMSToRMS, SpectralConv, TapConv, exact_polar
from tests.reference import norms as reference

KINDS = [SpectralConv, TapConv]


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def operator_norm(weight, groups):
    """RMS-to-RMS norm of the convolution on a small picture, zero padding, by power iteration."""
    kernel_dims = weight.ndim - 2
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[kernel_dims - 1]
    x = gaussian(1, weight.shape[1] * groups, *(6,) * kernel_dims, seed=3)

    def apply(picture):
        return convolve(picture, weight, padding="same", groups=groups)

    for _ in range(100):
        x = x / x.square().mean().sqrt()
        y, pull = torch.func.vjp(apply, x)
        x = pull(y)[0]
    x = x / x.square().mean().sqrt()
    return float(apply(x).square().mean().sqrt())


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [(1,), (5,), (3, 3), (1, 3), (1, 1), (3, 3, 3)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_it_bounds_the_convolution_and_equals_the_reference(kind, kernel, groups):
    weight = gaussian(8, 4 // groups, *kernel)
    norm = kind(kernel_dims=len(kernel), groups=groups)
    size = float(norm.norm(weight))
    assert operator_norm(weight, groups) <= size * (1 + 1e-9)
    assert size == pytest.approx(reference.norm(norm, weight.numpy()), rel=1e-12)
    step = norm.lmo(weight)
    assert step.shape == weight.shape
    assert reference.norm(norm, step.numpy()) == pytest.approx(1, rel=1e-10)
    assert -float((step * weight).sum()) == pytest.approx(reference.dual(norm, weight.numpy()), rel=1e-10)
    assert reference.norm(norm, norm.project(weight).numpy()) <= 1 + 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_a_one_by_one_convolution_is_a_linear_layer(kind):
    weight = gaussian(5, 3)
    torch.testing.assert_close(kind().norm(weight[..., None, None]), RMSToRMS().norm(weight))
    torch.testing.assert_close(kind().lmo(weight[..., None, None])[..., 0, 0], RMSToRMS().lmo(weight))


def test_published_directions():
    g = gaussian(6, 4, 3, 3)
    flat = exact_polar(g.reshape(6, 36)).reshape(g.shape)
    torch.testing.assert_close(SpectralConv().lmo(g), -flat * math.sqrt(6 / 4) / 9)
    taps = torch.stack([torch.stack([exact_polar(g[:, :, i, j]) for j in range(3)], -1) for i in range(3)], -2)
    torch.testing.assert_close(TapConv().lmo(g), -taps * math.sqrt(6 / 4) / 9)


@pytest.mark.parametrize("kind", KINDS)
def test_a_depthwise_update_treats_each_channel_alone(kind):
    g = gaussian(4, 1, 3, 3)
    norm = kind(groups=4)
    together = norm.lmo(g)
    for channel in range(4):
        torch.testing.assert_close(together[channel : channel + 1], kind().lmo(g[channel : channel + 1]))


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_settings_are_refused(kind):
    for kernel_dims in (0, 4, 1.5):
        with pytest.raises(ValueError, match="kernel_dims"):
            kind(kernel_dims=kernel_dims)
    with pytest.raises(ValueError, match="groups must"):
        kind(groups=0)
    with pytest.raises(ValueError, match="not divisible by groups=3"):
        kind(groups=3).norm(gaussian(4, 1, 3, 3))
