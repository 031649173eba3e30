import pytest
import torch

from steepest import functional

# torch's own forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
TOLERANCE = {torch.float32: 6e-7, torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 1e-13}
EPS = 1e-6


def operands(*shape, dtype=torch.float32, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def weights(order, dtype=torch.float32):
    return torch.linspace(-0.5, 1.25, order + 1, dtype=torch.float64).to(dtype)


def reference(x, a, eps=EPS):
    y = a[0]
    for i in range(1, len(a)):
        y = y + a[i] * x**i / ((x ** (2 * i)).mean(-1, keepdim=True) + eps).sqrt()
    return y


def close(mine, right, tolerance):
    torch.testing.assert_close(mine.double(), right, rtol=tolerance, atol=tolerance * right.abs().max().item())


@pytest.mark.parametrize("order", [1, 3, 5])
@pytest.mark.parametrize("shape", [(67, 45), (9, 16), (3, 5000), (3, 0), (2, 5, 33)])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_value_and_gradients(dtype, shape, order):
    x, grad = operands(*shape, dtype=dtype)
    a = weights(order, torch.float64 if dtype is torch.float64 else torch.float32).requires_grad_()
    x.requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (x, a)]
    y, expected = functional.polynorm(x, a), reference(*exact)
    assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, x.shape, True)
    if x.numel():
        close(y, expected, TOLERANCE[dtype])
        mine = torch.autograd.grad(y, (x, a), grad)
        right = torch.autograd.grad(expected, exact, grad.double())
        close(mine[0], right[0], TOLERANCE[dtype])
        close(mine[1], right[1], 1e-12 if dtype is torch.float64 else 2e-6)


@pytest.mark.parametrize("scale", [1e15, 1e38])
def test_no_finite_row_overflows(scale):
    x, grad = operands(4, 33)
    x = (x.clamp(-3, 3) * scale).requires_grad_()
    y = functional.polynorm(x, weights(3))
    exact = x.detach().double().requires_grad_()
    expected = reference(exact, weights(3).double())
    close(y, expected, 1e-6)
    (mine,), (right,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, exact, grad.double())
    if right.abs().max() > 1e-36:
        close(mine, right, 1e-6)


def test_scale_does_not_matter():
    (x,) = operands(4, 100, count=1)
    assert torch.equal(functional.polynorm(x, weights(3), 0.0), functional.polynorm(x * 8, weights(3), 0.0))


def test_zeros_and_specials():
    x = torch.zeros(3, 20)
    x[1, 3], x[2, 3] = torch.inf, torch.nan
    y = functional.polynorm(x, weights(3))
    expected = reference(x.double(), weights(3).double()).float()
    torch.testing.assert_close(y, expected, equal_nan=True)


def test_same_bits_for_any_number_of_threads():
    x, grad = operands(601, 512)
    answers = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        a, leaf = weights(3).requires_grad_(), x.clone().requires_grad_()
        y = functional.polynorm(leaf, a)
        answers.append((y, *torch.autograd.grad(y, (leaf, a), grad)))
    for other in answers[1:]:
        assert all(torch.equal(p, q) for p, q in zip(answers[0], other, strict=True))


def test_layouts():
    base = operands(6, 8, 10, count=1)[0]
    for view in (lambda t: t.permute(2, 0, 1), lambda t: t[:, ::2], lambda t: t[..., 2:7], lambda t: t[:0]):
        x = view(base)
        y = functional.polynorm(x, weights(3))
        assert y.is_contiguous()
        assert torch.equal(y, functional.polynorm(x.contiguous(), weights(3)))


def test_gradcheck():
    (x,), a = operands(3, 4, dtype=torch.float64, count=1), weights(3, torch.float64)
    inputs = (x.requires_grad_(), a.requires_grad_())
    assert torch.autograd.gradcheck(functional.polynorm, inputs, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(functional.polynorm, inputs)


def test_double_backward_through_the_kernel():
    seconds = []
    for function, dtype in ((functional.polynorm, torch.float32), (reference, torch.float64)):
        (x,), a = operands(50, dtype=dtype, count=1), weights(3, dtype)
        inputs = (x.requires_grad_(), a.requires_grad_())
        first = torch.autograd.grad(function(*inputs).square().sum(), inputs, create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for mine, right in zip(*seconds, strict=True):
        close(mine, right, 1e-5)


def test_torch_func():
    (x,), a = operands(5, 6, count=1), weights(3)
    mine, right = (
        torch.func.vmap(torch.func.grad(lambda v, c, f=f: f(v, c).sum(), argnums=(0, 1)), in_dims=(0, None))(x, a)
        for f in (functional.polynorm, reference)
    )
    for p, q in zip(mine, right, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-5, atol=1e-6)


def test_compiles_into_one_graph():
    torch._dynamo.reset()
    (x,), a = operands(4, 33, count=1), weights(3).requires_grad_()
    x.requires_grad_()
    compiled = torch.compile(lambda v, c: functional.polynorm(v * 1.0, c) + 1, fullgraph=True, backend="aot_eager")
    y, expected = compiled(x, a), functional.polynorm(x, a) + 1
    assert torch.equal(y, expected)
    grads = [torch.autograd.grad(t.sum(), (x, a)) for t in (y, expected)]
    for p, q in zip(*grads, strict=True):
        torch.testing.assert_close(p, q)


def test_operators_keep_torchs_rules():
    x, grad = (t.requires_grad_() for t in operands(3, 5))
    torch.library.opcheck(torch.ops.steepest.polynorm.default, (x, weights(3).requires_grad_(), EPS))
    torch.library.opcheck(torch.ops.steepest.polynorm_gradient.default, (grad, x, weights(3).requires_grad_(), EPS))


def test_autocast_changes_nothing():
    (x,) = operands(3, 5, count=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = functional.polynorm(x, weights(3))
    assert torch.equal(y, functional.polynorm(x, weights(3)))


def test_wrong_operands_are_refused():
    x = torch.ones(3)
    with pytest.raises(ValueError, match="vector of at least 2"):
        functional.polynorm(x, torch.ones(()))
    with pytest.raises(ValueError, match="eps"):
        functional.polynorm(x, torch.ones(3), -1.0)
    with pytest.raises(ValueError, match="without dimensions"):
        functional.polynorm(torch.ones(()), torch.ones(3))
    with pytest.raises(ValueError, match="vector of at least 2"):
        functional.polynorm(x, torch.ones(1))
    with pytest.raises(TypeError, match="floating-point"):
        functional.polynorm(torch.ones(3, dtype=torch.int32), torch.ones(2))
