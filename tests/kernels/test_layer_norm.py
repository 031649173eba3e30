import pytest
import torch
import torch.nn.functional as F

from steepest import functional

# torch's own forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
TOLERANCE = {torch.float32: 6e-7, torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 1e-13}
EPS = 1e-5


def operands(*shape, dtype=torch.float32, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def vectors(width, dtype=torch.float32):
    return [t.to(dtype).requires_grad_() for t in (torch.linspace(0.5, 2, width), torch.linspace(-1, 1, width))]


def reference(x, weight, bias, residual=None):
    s = x if residual is None else x + residual
    return F.layer_norm(s, s.shape[-1:], weight, bias, EPS), s


def two_outputs(x, weight, bias, residual):
    return functional.layer_norm(x, weight, bias, EPS, residual=residual)


def close(mine, right, tolerance):
    torch.testing.assert_close(mine.double(), right, rtol=tolerance, atol=tolerance * right.abs().max().item())


@pytest.mark.parametrize("width", [2, 17, 320, 5000])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_value_and_gradients(dtype, width):
    x, grad = operands(67, width, dtype=dtype, count=2)
    inputs = [(x + 2).requires_grad_(), *vectors(width, dtype)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected, _ = reference(*exact)
    y = functional.layer_norm(*inputs, EPS)
    assert (y.dtype, y.shape) == (dtype, x.shape)
    grads = zip(torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, exact, grad.double()), strict=True)
    # Two equal elements are 0 / 0 but for eps: a row of width 2 has no more digits than that.
    for mine, right in ((y, expected), *grads):
        close(mine, right, (50 if width == 2 else 2) * TOLERANCE[dtype])


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("r_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("out_dtype", [None, torch.bfloat16])
def test_residual_and_mixed_dtypes(x_dtype, r_dtype, out_dtype):
    x, grad, sum_grad = operands(5, 9, 40, dtype=x_dtype)
    residual = operands(5, 9, 40, dtype=r_dtype, seed=1)[0]
    inputs = [x.requires_grad_(), *vectors(40), residual.requires_grad_()]
    y, s = functional.layer_norm(*inputs[:3], EPS, residual=residual, out_dtype=out_dtype)
    assert s.dtype == torch.promote_types(x_dtype, r_dtype)
    assert y.dtype == (out_dtype or s.dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected, total = reference(*exact)
    loose = 2 * max(TOLERANCE[d] for d in (x_dtype, r_dtype, s.dtype, y.dtype))
    close(y, expected, loose)
    close(s, total, loose)
    outer = (grad.to(y.dtype), sum_grad.to(s.dtype))
    mine = torch.autograd.grad((y, s), inputs, outer)
    right = torch.autograd.grad((expected, total), exact, [t.double() for t in outer])
    for a, b, leaf in zip(mine, right, inputs, strict=True):
        assert a.dtype == leaf.dtype
        close(a, b, loose)


def test_a_large_mean_costs_no_digits():
    x = operands(8, 1000, count=1)[0] + 1e4
    close(functional.layer_norm(x, eps=EPS), reference(x.double(), None, None)[0], 2e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e18, 1e38])
def test_no_finite_row_overflows_or_vanishes(scale):
    x, grad = operands(4, 33, count=2)
    x = (x.clamp(-3, 3) * scale).requires_grad_()
    y = functional.layer_norm(x, eps=0.0)
    exact = x.detach().double().requires_grad_()
    expected = F.layer_norm(exact, (33,), None, None, 0.0)
    close(y, expected, 1e-6)
    (mine,), (right,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, exact, grad.double())
    if 1e-37 < right.abs().max() < 1e38:
        close(mine, right, 2e-6)


def test_zeros_and_specials():
    x = torch.ones(4, 20)
    x[1, 3], x[2, 3] = torch.inf, torch.nan
    torch.testing.assert_close(functional.layer_norm(x), F.layer_norm(x, (20,)), equal_nan=True)


def test_optional_vectors():
    (x,), (weight, bias) = operands(5, 40, count=1), vectors(40)
    for w, b in ((None, None), (weight, None), (None, bias)):
        torch.testing.assert_close(functional.layer_norm(x, w, b), F.layer_norm(x, (40,), w, b), rtol=2e-6, atol=2e-6)


def test_same_bits_for_any_number_of_threads():
    x, residual, grad = operands(801, 512)
    answers = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        inputs = [x.clone().requires_grad_(), *vectors(512), residual.clone().requires_grad_()]
        y, s = two_outputs(*inputs)
        answers.append((y, s, *torch.autograd.grad((y, s), inputs, (grad, grad))))
    for other in answers[1:]:
        assert all(torch.equal(p, q) for p, q in zip(answers[0], other, strict=True))


def test_layouts():
    base = operands(6, 8, 10, count=1)[0]
    for view in (lambda t: t.permute(2, 0, 1), lambda t: t[:, ::2], lambda t: t[..., 2:7], lambda t: t[:0]):
        x = view(base)
        y = functional.layer_norm(x)
        assert y.is_contiguous()
        assert torch.equal(y, functional.layer_norm(x.contiguous()))


def test_gradcheck():
    x, residual = (t.requires_grad_() for t in operands(3, 4, dtype=torch.float64, count=2))
    weight, bias = vectors(4, torch.float64)
    one = lambda x, weight, bias: functional.layer_norm(x, weight, bias, EPS)  # noqa: E731
    assert torch.autograd.gradcheck(one, (x, weight, bias), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(one, (x, weight, bias))
    assert torch.autograd.gradcheck(two_outputs, (x, weight, bias, residual), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(two_outputs, (x, weight, bias, residual))


def test_double_backward_through_the_kernel():
    seconds = []
    for function, dtype in ((two_outputs, torch.float32), (reference, torch.float64)):
        x, residual = (t.requires_grad_() for t in operands(9, 20, dtype=dtype, count=2))
        inputs = (x, *vectors(20, dtype), residual)
        y, s = function(*inputs)
        first = torch.autograd.grad((y.square() * s).sum(), inputs, create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for mine, right in zip(*seconds, strict=True):
        close(mine, right, 1e-4)


def test_torch_func():
    x, residual = operands(5, 6, count=2)
    weight, bias = (t.detach() for t in vectors(6))
    mine, right = (
        torch.func.vmap(
            torch.func.grad(lambda v, w, f=f: sum(t.sin().sum() for t in f(v, w, bias, residual[0])), argnums=(0, 1)),
            in_dims=(0, None),
        )(x, weight)
        for f in (two_outputs, reference)
    )
    for a, b in zip(mine, right, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("out_dtype", [None, torch.bfloat16])
def test_compiles_into_one_graph(out_dtype):
    torch._dynamo.reset()

    def block(x, residual, weight, bias):
        y = functional.layer_norm(x * 1.0, weight, bias, EPS, out_dtype=out_dtype)
        z, s = functional.layer_norm(y, weight, bias, EPS, residual=residual, out_dtype=out_dtype)
        return (z * s).sum()

    x, residual = (t.requires_grad_() for t in operands(4, 34, count=2))
    inputs = (x, residual, *vectors(34))
    answers = [
        torch.autograd.grad(f(*inputs), inputs)
        for f in (torch.compile(block, fullgraph=True, backend="aot_eager"), block)
    ]
    for mine, right in zip(*answers, strict=True):
        torch.testing.assert_close(mine, right)


def test_operators_keep_torchs_rules():
    ops = torch.ops.steepest
    x, residual, grad = (t.requires_grad_() for t in operands(3, 6))
    weight, bias = vectors(6)
    torch.library.opcheck(ops.layer_norm.default, (x, weight, bias, EPS))
    torch.library.opcheck(ops.layer_norm.default, (x, weight, bias, EPS, torch.bfloat16))
    torch.library.opcheck(ops.layer_norm_gradient.default, (grad, x, weight, bias, EPS))
    torch.library.opcheck(ops.add_layer_norm.default, (x, residual, weight, bias, EPS))
    torch.library.opcheck(ops.add_layer_norm_gradient.default, (grad, residual, x, weight, bias, EPS))


def test_wrong_operands_are_refused():
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match="bias of shape"):
        functional.layer_norm(x, None, torch.ones(3))
    with pytest.raises(ValueError, match="residual of shape"):
        functional.layer_norm(x, residual=torch.ones(4))
    with pytest.raises(ValueError, match="eps"):
        functional.layer_norm(x, eps=-1.0)
    with pytest.raises(TypeError, match="floating-point"):
        functional.layer_norm(torch.ones(3, dtype=torch.int32))
