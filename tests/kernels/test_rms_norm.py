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


def reference(x, weight, residual=None):
    s = x if residual is None else x + residual
    return F.rms_norm(s, s.shape[-1:], weight, EPS), s


def close(mine, right, dtype):
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(mine.double(), right, rtol=tolerance, atol=tolerance * right.abs().max().item())


@pytest.mark.parametrize("width", [1, 2, 17, 320, 5000])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_rms_norm_value_and_gradients(dtype, width):
    x, grad = operands(67, width, dtype=dtype, count=2)
    weight = operands(width, dtype=dtype, count=1, seed=1)[0]
    exact = [t.double().requires_grad_() for t in (x, weight)]
    expected, _ = reference(*exact)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())
    inputs = [t.clone().requires_grad_() for t in (x, weight)]
    y = functional.rms_norm(*inputs, EPS)
    assert (y.dtype, y.shape) == (dtype, x.shape)
    for mine, right in ((y, expected), *zip(torch.autograd.grad(y, inputs, grad), expected_grads, strict=True)):
        close(mine, right, dtype)


@pytest.mark.parametrize("x_dtype", list(TOLERANCE))
@pytest.mark.parametrize("r_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("out_dtype", [None, torch.float32, torch.bfloat16])
def test_residual_and_mixed_dtypes(x_dtype, r_dtype, out_dtype):
    x, grad, sum_grad = operands(5, 9, 40, dtype=x_dtype)
    residual, weight = operands(5, 9, 40, dtype=r_dtype, seed=1)[0], operands(40, count=1)[0]
    inputs = [t.requires_grad_() for t in (x, residual, weight)]
    y, s = functional.rms_norm(x, weight, EPS, residual=residual, out_dtype=out_dtype)
    assert s.dtype == torch.promote_types(x_dtype, r_dtype)
    assert y.dtype == (out_dtype or s.dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    expected, total = reference(exact[0], exact[2], exact[1])
    loose = max(x_dtype, s.dtype, y.dtype, key=TOLERANCE.__getitem__)
    close(y, expected, loose)
    close(s, total, s.dtype)
    grads = torch.autograd.grad((y, s), inputs, (grad.to(y.dtype), sum_grad.to(s.dtype)))
    expected_grads = torch.autograd.grad(
        (expected, total), exact, (grad.to(y.dtype).double(), sum_grad.to(s.dtype).double())
    )
    for mine, right, leaf in zip(grads, expected_grads, inputs, strict=True):
        assert mine.dtype == leaf.dtype
        close(mine, right, max(loose, leaf.dtype, key=TOLERANCE.__getitem__))


def test_a_float32_stream_is_normalized_straight_to_bfloat16():
    x, grad = operands(8, 64, count=2)
    weight = torch.ones(64)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    y = functional.rms_norm(x, weight, EPS, out_dtype=torch.bfloat16)
    assert torch.equal(y, functional.rms_norm(x, weight, EPS).bfloat16())
    mine = torch.autograd.grad(y, (x, weight), grad.bfloat16())
    right = torch.autograd.grad(functional.rms_norm(x, weight, EPS), (x, weight), grad.bfloat16().float())
    for a, b in zip(mine, right, strict=True):
        assert a.dtype is torch.float32
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18, 1e25, 1e38])
def test_no_finite_row_overflows_or_vanishes(scale):
    x, grad = operands(4, 33, count=2)
    x = (x.clamp(-3, 3) * scale).requires_grad_()
    y = functional.rms_norm(x, None, 0.0)
    exact = x.detach().double().requires_grad_()
    expected = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True))
    close(y, expected.detach(), torch.float32)
    (mine,) = torch.autograd.grad(y, x, grad)
    (right,) = torch.autograd.grad(expected, exact, grad.double())
    if right.abs().max() < 1e38 and right.abs().max() > 1e-38:
        close(mine, right, torch.float32)


def test_zeros_and_specials():
    x = torch.zeros(4, 8)
    x[1, 3], x[2, 3] = torch.inf, torch.nan
    x[3] = 1
    y = functional.rms_norm(x, None, EPS)
    torch.testing.assert_close(y, F.rms_norm(x, (8,), None, EPS), equal_nan=True)
    assert torch.equal(y[0], torch.zeros(8))


def test_long_rows_keep_their_digits():
    x = torch.rand(2, 1 << 20, generator=torch.Generator().manual_seed(0)) + 1
    close(functional.rms_norm(x, None, EPS), reference(x.double(), None)[0], torch.float32)


def test_weight_gradient_does_not_lose_with_the_number_of_rows():
    x, grad = operands(20000, 8, count=2)
    weight = torch.ones(8, requires_grad=True)
    (mine,) = torch.autograd.grad(functional.rms_norm(x, weight, EPS), weight, grad + 1)
    exact = torch.ones(8, dtype=torch.float64, requires_grad=True)
    (right,) = torch.autograd.grad(reference(x.double(), exact)[0], exact, (grad + 1).double())
    torch.testing.assert_close(mine.double(), right, rtol=2e-7, atol=1e-3)


def test_same_bits_for_any_number_of_threads():
    x, residual, grad = operands(801, 512)
    answers = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        inputs = [t.clone().requires_grad_() for t in (x, residual, torch.linspace(0, 1, 512))]
        y, s = functional.rms_norm(inputs[0], inputs[2], EPS, residual=inputs[1])
        answers.append((y, s, *torch.autograd.grad((y, s), inputs, (grad, grad))))
    for other in answers[1:]:
        assert all(torch.equal(p, q) for p, q in zip(answers[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_layouts(dtype):
    base, other = operands(6, 8, 10, dtype=dtype, count=2)
    for view in (
        lambda t: t.permute(2, 0, 1),
        lambda t: t[:, ::2],
        lambda t: t[..., 2:7],
        lambda t: t[..., ::2],
        lambda t: t[:, :1].expand(6, 4, 10),
        lambda t: t[0, 0],
        lambda t: t[:0],
        lambda t: t[..., :0],
        lambda t: t.flip(-1),
    ):
        x, r = view(base), view(other)
        weight = torch.linspace(1, 2, x.shape[-1]) if x.shape[-1] else torch.ones(0)
        y = functional.rms_norm(x, weight, EPS)
        assert y.is_contiguous()
        assert torch.equal(y, functional.rms_norm(x.contiguous(), weight, EPS))
        for mine, right in zip(
            functional.rms_norm(x, weight, EPS, residual=r),
            functional.rms_norm(x.contiguous(), weight, EPS, residual=r.contiguous()),
            strict=True,
        ):
            assert torch.equal(mine, right)
        leaf, strided = (t.detach().clone().requires_grad_() for t in (x, base))
        grads = [torch.autograd.grad(functional.rms_norm(t, weight, EPS), t, y)[0] for t in (leaf, view(strided))]
        assert torch.equal(*grads)


def two_outputs(x, weight, residual):
    return functional.rms_norm(x, weight, EPS, residual=residual)


def test_gradcheck():
    x, residual = (t.requires_grad_() for t in operands(3, 4, dtype=torch.float64, count=2))
    weight = torch.linspace(0.5, 2, 4, dtype=torch.float64, requires_grad=True)
    one = lambda x, weight: functional.rms_norm(x, weight, EPS)  # noqa: E731
    assert torch.autograd.gradcheck(one, (x, weight), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(one, (x, weight))
    assert torch.autograd.gradcheck(two_outputs, (x, weight, residual), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(two_outputs, (x, weight, residual))


def test_double_backward_through_the_kernel():
    seconds = []
    for function, dtype in ((two_outputs, torch.float32), (reference, torch.float64)):
        x, residual = (t.requires_grad_() for t in operands(9, 20, dtype=dtype, count=2))
        weight = torch.linspace(0.5, 2, 20, dtype=dtype, requires_grad=True)
        y, s = function(x, weight, residual)
        inputs = (x, weight, residual)
        first = torch.autograd.grad((y.square() * s).sum(), inputs, create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), inputs))
    for mine, right in zip(*seconds, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-4 * right.abs().max().item())


def test_torch_func():
    x, residual = operands(5, 6, count=2)
    weight = torch.linspace(0.5, 2, 6)
    for f, g in (
        (lambda x, w: functional.rms_norm(x, w, EPS).sin().sum(), lambda x, w: reference(x, w)[0].sin().sum()),
        (
            lambda x, w: sum(t.sin().sum() for t in two_outputs(x, w, residual[0])),
            lambda x, w: sum(t.sin().sum() for t in reference(x, w, residual[0])),
        ),
    ):
        mine, right = (
            torch.func.vmap(torch.func.grad(h, argnums=(0, 1)), in_dims=(0, None))(x, weight) for h in (f, g)
        )
        for a, b in zip(mine, right, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("out_dtype", [None, torch.bfloat16])
def test_compiles_into_one_graph(out_dtype):
    torch._dynamo.reset()

    def block(x, residual, weight):
        y = functional.rms_norm(x * 1.0, weight, EPS, out_dtype=out_dtype)
        z, s = functional.rms_norm(y, weight, EPS, residual=residual, out_dtype=out_dtype)
        return (z * s).sum()

    x, residual = (t.requires_grad_() for t in operands(4, 34, count=2))
    weight = torch.linspace(0.5, 2, 34, requires_grad=True)
    answers = [
        torch.autograd.grad(f(x, residual, weight), (x, residual, weight))
        for f in (torch.compile(block, fullgraph=True, backend="aot_eager"), block)
    ]
    for mine, right in zip(*answers, strict=True):
        torch.testing.assert_close(mine, right)


def test_operators_keep_torchs_rules():
    ops = torch.ops.steepest
    x, residual, grad = (t.requires_grad_() for t in operands(3, 6))
    weight = torch.linspace(0.5, 2, 6, requires_grad=True)
    torch.library.opcheck(ops.rms_norm.default, (x, weight, EPS))
    torch.library.opcheck(ops.rms_norm.default, (x, weight, EPS, torch.bfloat16))
    torch.library.opcheck(ops.rms_norm_gradient.default, (grad, x, weight, EPS))
    torch.library.opcheck(ops.add_rms_norm.default, (x, residual, weight, EPS))
    torch.library.opcheck(ops.add_rms_norm_gradient.default, (grad, residual, x, weight, EPS))
    batched = torch.func.vmap(ops.rms_norm.default, in_dims=(None, 0, None))(x[0], torch.stack([weight, weight]), EPS)
    torch.testing.assert_close(batched[1], functional.rms_norm(x[0], weight, EPS))


def test_wrong_operands_are_refused():
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match="weight of shape"):
        functional.rms_norm(x, torch.ones(3))
    with pytest.raises(ValueError, match="residual of shape"):
        functional.rms_norm(x, torch.ones(4), residual=torch.ones(4))
    with pytest.raises(ValueError, match="eps"):
        functional.rms_norm(x, torch.ones(4), -1.0)
    with pytest.raises(ValueError, match="without dimensions"):
        functional.rms_norm(torch.tensor(1.0))
    with pytest.raises(TypeError, match="floating-point"):
        functional.rms_norm(torch.ones(3, dtype=torch.int32))
