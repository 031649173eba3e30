# SPDX-License-Identifier: Apache-2.0
"""Linear layers of patched models where the processor has no 16-bit products, against float64."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from steepest.kernels import products
from steepest.nn import hf_linear
from steepest.nn.hf_modules import patched_class

LAYERS = {
    "linear": lambda: nn.Linear(24, 40),
    "no bias": lambda: nn.Linear(24, 40, bias=False),
    "conv1d": lambda: Conv1D(40, 24),
}


@pytest.fixture(autouse=True)
def no_own_products(monkeypatch):
    monkeypatch.setitem(products.HAS_OWN, torch.bfloat16, False)


def layer(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    made = LAYERS[name]().to(dtype)
    nn.init.normal_(made.weight)
    return made


def patch_layer(module: nn.Module) -> nn.Module:
    part = hf_linear.linear_part(module)
    assert part is not None
    module.__class__ = patched_class(type(module), part)
    return module


def with_gradients(module: nn.Module, x: torch.Tensor, autocast: bool) -> list[torch.Tensor]:
    module.zero_grad()
    x = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = module(x)
    out.backward(torch.ones_like(out) * torch.arange(out.shape[-1]).to(out.dtype))
    return [out.detach(), x.grad, *(p.grad.clone() for p in module.parameters())]


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_no_worse_than_torch(name, autocast, given):
    if not autocast:
        given = torch.bfloat16  # a model in bfloat16
    dtype = torch.float32 if autocast else torch.bfloat16
    module, x = layer(name, dtype), torch.randn(3, 7, 24, generator=torch.Generator().manual_seed(1)).to(given)
    plain = with_gradients(module, x, autocast)
    ours = with_gradients(patch_layer(module), x, autocast)
    right = with_gradients(layer(name, dtype).double(), x.double(), False)
    for mine, other, truth in zip(ours, plain, right, strict=True):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        assert (mine - truth).norm() <= 1.01 * (other - truth).norm() + 1e-6 * truth.norm()


def test_the_gradient_of_a_float32_weight_is_not_rounded_to_16_bits():
    gradient = with_gradients(patch_layer(layer("linear")), torch.randn(50, 24), True)[2]
    assert not torch.equal(gradient, gradient.bfloat16().float())


def test_kept_is_the_input_in_16_bits_and_the_weight_itself():
    module, kept = patch_layer(layer("linear")), []
    with (
        torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x), lambda x: x),
        torch.autocast("cpu", torch.bfloat16),
    ):
        module(torch.randn(5, 24))
    assert [x.dtype for x in kept] == [torch.bfloat16, torch.float32]
    assert kept[1].data_ptr() == module.weight.data_ptr()


@pytest.mark.parametrize("shape", [(24,), (0, 24), (2, 0, 24)])
def test_odd_shapes(shape):
    module, x = layer("linear"), torch.ones(shape)
    right = layer("linear").double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        ours = patch_layer(module)(x)
    torch.testing.assert_close(ours.double(), right, rtol=0.01, atol=0.01)
    ours.sum().backward()


def test_float32_goes_through_torch_and_mixed_dtypes_are_refused_as_before():
    module, x = layer("linear"), torch.randn(5, 24)
    usual = module(x)
    patch_layer(module)
    assert torch.equal(module(x), usual)
    with pytest.raises(RuntimeError, match="dtype"):
        module(x.bfloat16())
    assert hf_linear.linear_part(module) is None
