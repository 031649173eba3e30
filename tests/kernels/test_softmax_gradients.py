# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from steepest.functional import log_softmax, logsumexp, softmax

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")


def normal(*shape, seed=0, dtype=torch.float32, scale=1.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def exact_gradient(plain, x, weight, dim):
    x = x.detach().double().requires_grad_()
    return torch.autograd.grad(plain(x, dim), x, weight.double())[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("ours", "plain"), [(softmax, torch.softmax), (log_softmax, torch.log_softmax), (logsumexp, torch.logsumexp)]
)
def test_gradient_error_is_at_most_twice_torchs(ours, plain, dtype):
    for shape, dim in (((7, 1000), -1), ((3, 65, 4), 1), ((1, 100_000), -1)):
        x = normal(*shape, scale=3, dtype=dtype).requires_grad_()
        y = ours(x, dim)
        weight = normal(*y.shape, seed=1, dtype=dtype)
        (mine,) = torch.autograd.grad(y, x, weight)
        (theirs,) = torch.autograd.grad(plain(x, dim), x, weight)
        exact = exact_gradient(plain, x, weight, dim)
        assert mine.dtype is dtype
        assert (mine - exact).abs().max() <= 2 * (theirs - exact).abs().max() + 1e-9
        assert (mine - exact).norm() <= 2 * (theirs - exact).norm() + 1e-12


def test_a_small_tensors_gradient_belongs_to_the_kernels_values():
    for ours, plain in ((softmax, torch.softmax), (log_softmax, torch.log_softmax)):
        x = normal(5, 30, scale=4).requires_grad_()
        y = ours(x)
        assert torch.equal(y, ours(x.detach()))
        weight = normal(5, 30, seed=1)
        (grad,) = torch.autograd.grad(y, x, weight, create_graph=True)
        exact = exact_gradient(plain, x, weight, -1)
        torch.testing.assert_close(grad.double(), exact, rtol=1e-5, atol=1e-6)
        assert grad.grad_fn is not None
        with torch.autocast("cpu"):
            assert ours(x).dtype is torch.float32


def test_sixteen_bit_log_softmax_on_every_route_takes_its_gradient_from_the_logits():
    for dtype, bound in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)):
        for mask, temperature in ((None, 1.0), (normal(1, 300, seed=2), 0.5)):
            x = normal(4, 300, dtype=dtype, scale=3).requires_grad_()
            weight = normal(4, 300, seed=1, dtype=dtype)

            def call(v, function=log_softmax, mask=mask, temperature=temperature):
                return function(v, mask=mask, temperature=temperature)

            torch._dynamo.reset()
            exact = exact_gradient(lambda v, d: call(v), x, weight, -1)
            for route in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
                (grad,) = torch.autograd.grad(route(x), x, weight)
                assert grad.dtype is dtype
                assert ((grad - exact).abs() <= bound * exact.abs() + 1e-5).all()
            (first,) = torch.autograd.grad(call(x), x, weight, create_graph=True)
            assert torch.isfinite(torch.autograd.grad(first.float().square().sum(), x)[0]).all()


def test_mask_gets_its_gradient():
    x, mask = normal(2, 3, 20).requires_grad_(), normal(3, 1, seed=1).requires_grad_()
    weight = normal(2, 3, 20, seed=2)
    for function in (softmax, log_softmax):
        y = function(x, 1, mask=mask, temperature=0.5)
        mine = torch.autograd.grad(y, (x, mask), weight)
        z, m = x.detach().double().requires_grad_(), mask.detach().double().requires_grad_()
        exact = torch.autograd.grad(function(z, 1, mask=m, temperature=0.5), (z, m), weight.double())
        for one, other in zip(mine, exact, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("masked_rows", ["nan", "zero"])
def test_gradcheck_and_gradgradcheck(masked_rows):
    x, mask = normal(2, 3, 4, dtype=torch.float64).requires_grad_(), normal(3, 1, dtype=torch.float64).requires_grad_()
    for function in (softmax, log_softmax):

        def call(x, mask, function=function):
            return function(x, 1, mask=mask, temperature=1.5, masked_rows=masked_rows)

        assert torch.autograd.gradcheck(call, (x, mask), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(call, (x, mask))
    assert torch.autograd.gradgradcheck(logsumexp, x)


@pytest.mark.parametrize(
    ("ours", "plain"), [(softmax, torch.softmax), (log_softmax, torch.log_softmax), (logsumexp, torch.logsumexp)]
)
def test_double_backward_through_the_kernel(ours, plain):
    results = []
    for function, x in ((ours, normal(4, 50).requires_grad_()), (plain, normal(4, 50).double().requires_grad_())):
        y = function(x, -1)
        (first,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
        results.append(torch.autograd.grad((first * first).sum(), x)[0].double())
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)
