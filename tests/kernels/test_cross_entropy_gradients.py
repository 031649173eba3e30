import copy

import pytest
import torch

from steepest.functional import cross_entropy
from tests.kernels.test_cross_entropy import ALL, problem, with_gradient


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_of_first_and_second_order_in_float64(reduction):
    x, target = problem(5, 4, dtype=torch.float64)
    x.requires_grad_()
    target[1] = -100
    weight = torch.rand(4, dtype=torch.float64)
    for options in ({}, ALL):
        function = lambda x: cross_entropy(x, target, weight, reduction=reduction, **options)  # noqa: E731, B023
        assert torch.autograd.gradcheck(function, x)
        assert torch.autograd.gradgradcheck(function, x)
    soft = torch.softmax(torch.randn(5, 4, dtype=torch.float64), -1).requires_grad_()
    both = lambda x, y: cross_entropy(x, y, weight, reduction=reduction)  # noqa: E731
    assert torch.autograd.gradcheck(both, (x, soft))


@pytest.mark.parametrize("options", [{}, ALL], ids=str)
def test_double_backward_of_the_kernel(options):
    x, target = problem(5, 40)
    direction = torch.randn(5, 40, generator=torch.Generator().manual_seed(2))

    def hessian_product(x):
        x = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(cross_entropy(x, target, **options), x, create_graph=True)
        return torch.autograd.grad((gradient * direction.to(x.dtype)).sum(), x)[0]

    assert torch.allclose(hessian_product(x).double(), hessian_product(x.double()), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {**ALL, "reduction": "none"}], ids=str)
def test_compile(options):
    x, target = problem(6, 90, dtype=torch.bfloat16)
    compiled = torch.compile(
        lambda x: cross_entropy(x * 2, target, **options).sum(), fullgraph=True, backend="aot_eager"
    )
    for a, b in zip(
        with_gradient(compiled, x),
        with_gradient(lambda x: cross_entropy(x * 2, target, **options).sum(), x),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_operators_pass_opcheck():
    x, target = problem(6, 20)
    soft = torch.softmax(x, -1)
    ops, weight = torch.ops.steepest, torch.rand(20)
    for reduction in (0, 2):
        terms = (-100, reduction, 0.1, 0.01, 3.0)
        for t in (target, soft):
            torch.library.opcheck(ops.cross_entropy.default, (x.clone().requires_grad_(), t, weight, *terms))
            loss, state = ops.cross_entropy(x, t, weight, *terms)
            arguments = (torch.ones_like(loss), x, t, weight, state, *terms)
            torch.library.opcheck(ops.cross_entropy_gradient.default, arguments)


def test_functional_transforms():
    x, target = problem(6, 20)
    x = x.reshape(2, 3, 20)
    target = target.reshape(2, 3)
    mapped = torch.vmap(cross_entropy)(x, target)
    assert torch.allclose(mapped, torch.stack([cross_entropy(a, b) for a, b in zip(x, target, strict=True)]))
    per_sample = torch.vmap(torch.func.grad(cross_entropy))(x, target)
    assert torch.allclose(per_sample[1], with_gradient(cross_entropy, x[1], target[1])[1], atol=1e-7)
    for made in [torch.empty(2, 3, device="meta")]:
        assert cross_entropy(made, torch.empty(2, dtype=torch.int64, device="meta")).shape == ()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own jvp uses it
def test_forward_mode():
    x, target = problem(3, 20)
    direction = problem(3, 20, seed=1)[0]
    _, tangent = torch.func.jvp(lambda x: cross_entropy(x, target), (x,), (direction,))
    gradient = with_gradient(cross_entropy, x, target)[1]
    assert torch.allclose(tangent, (gradient * direction).sum(), rtol=1e-5)


def test_autocast_takes_16_bit_logits_as_they_are():
    x, target = problem(6, 20, dtype=torch.bfloat16)
    expected = with_gradient(cross_entropy, x, target)
    with torch.autocast("cpu", torch.bfloat16):
        loss, gradient = with_gradient(cross_entropy, x, target)
        wide = with_gradient(cross_entropy, x.float(), target)
    assert loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(loss, expected[0])
    assert torch.equal(gradient, expected[1])
    assert wide[1].dtype == torch.float32
    assert torch.equal(copy.deepcopy(loss), loss)
