import pytest
import torch
import torch.nn.functional as F

from steepest import functional

# torch's own forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
TOLERANCE = {torch.float32: 6e-7, torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 1e-13}


def operands(*shape, dtype=torch.float32, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def close(mine, right, tolerance):
    torch.testing.assert_close(mine.double(), right, rtol=tolerance, atol=tolerance * right.abs().max().item())


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("shape", [(3, 37, 45), (2, 300, 16), (5, 2, 5000), (2, 0, 3), (3, 4, 0)])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_value_and_gradient(dtype, shape, dim):
    x, grad = operands(*shape, dtype=dtype)
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, expected = functional.l2_normalize(x, dim), F.normalize(exact, dim=dim)
    assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, x.shape, True)
    if x.numel():
        close(y, expected, TOLERANCE[dtype])
        close(
            torch.autograd.grad(y, x, grad)[0], torch.autograd.grad(expected, exact, grad.double())[0], TOLERANCE[dtype]
        )


def test_one_dimension():
    assert torch.equal(functional.l2_normalize(torch.tensor([3.0, 4.0])), torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e20, 1e38])
def test_no_finite_vector_overflows_or_vanishes(scale, dim):
    x, grad = operands(33, 33)
    x = (x.clamp(-3, 3) * scale).requires_grad_()
    y = functional.l2_normalize(x, dim, 1e-45)
    exact = x.detach().double().requires_grad_()
    expected = F.normalize(exact, dim=dim, eps=1e-45)
    close(y, expected, 1e-6)
    (mine,), (right,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, exact, grad.double())
    if 1e-36 < right.abs().max() < 1e37:
        close(mine, right, 2e-6)


@pytest.mark.parametrize("dim", [0, 1])
def test_short_vectors_are_divided_by_eps(dim):
    x = torch.full((20, 20), 1e-3)
    x[3] = 0
    x = (x if dim else x.t().contiguous()).requires_grad_()
    y = functional.l2_normalize(x, dim, 0.5)
    torch.testing.assert_close(y, 2 * x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], torch.full((20, 20), 2.0))
    zero = functional.l2_normalize(torch.zeros(4, 4), dim, 1e-45)
    assert torch.equal(zero, torch.zeros(4, 4))


@pytest.mark.parametrize("dim", [0, 1])
def test_specials(dim):
    x = torch.ones(20, 20)
    x[1, 1], x[2, 2] = torch.nan, torch.inf
    torch.testing.assert_close(functional.l2_normalize(x, dim), F.normalize(x, dim=dim), equal_nan=True)


@pytest.mark.parametrize("dim", [0, 1])
def test_same_bits_for_any_number_of_threads(dim):
    x, grad = operands(801, 512)
    answers = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        y = functional.l2_normalize(leaf, dim)
        answers.append((y, *torch.autograd.grad(y, leaf, grad)))
    for other in answers[1:]:
        assert all(torch.equal(p, q) for p, q in zip(answers[0], other, strict=True))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_layouts(dim):
    base = operands(6, 8, 10, count=1)[0]
    for view in (lambda t: t.permute(2, 0, 1), lambda t: t[:, ::2], lambda t: t[..., 2:7]):
        x = view(base)
        assert torch.equal(functional.l2_normalize(x, dim), functional.l2_normalize(x.contiguous(), dim))


@pytest.mark.parametrize("dim", [0, 1])
def test_gradcheck(dim):
    (x,) = operands(3, 4, dtype=torch.float64, count=1)
    function = lambda t: functional.l2_normalize(t, dim)  # noqa: E731
    assert torch.autograd.gradcheck(function, x.requires_grad_(), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, x)


@pytest.mark.parametrize("dim", [0, 1])
def test_double_backward_through_the_kernel(dim):
    seconds = []
    for function, dtype in ((functional.l2_normalize, torch.float32), (F.normalize, torch.float64)):
        (x,) = operands(9, 20, dtype=dtype, count=1)
        (first,) = torch.autograd.grad(function(x.requires_grad_(), dim=dim).pow(3).sum(), x, create_graph=True)
        seconds += torch.autograd.grad(first.square().sum(), x)
    close(*seconds, 1e-5)


def test_torch_func_and_compile():
    torch._dynamo.reset()
    (x,) = operands(5, 6, 7, count=1)
    mine, right = (
        torch.func.vmap(torch.func.grad(lambda v, f=f: f(v, dim=0).sin().sum()))(x)
        for f in (functional.l2_normalize, F.normalize)
    )
    torch.testing.assert_close(mine, right, rtol=2e-5, atol=1e-6)
    compiled = torch.compile(lambda v: functional.l2_normalize(v * 1.0, 1) + 1, fullgraph=True, backend="aot_eager")
    x.requires_grad_()
    y, expected = compiled(x), functional.l2_normalize(x, 1) + 1
    assert torch.equal(y, expected)
    torch.testing.assert_close(*(torch.autograd.grad(t.sin().sum(), x)[0] for t in (y, expected)))


@pytest.mark.parametrize("dim", [0, 1])
def test_operators_keep_torchs_rules(dim):
    x, grad = (t.requires_grad_() for t in operands(3, 6))
    torch.library.opcheck(torch.ops.steepest.l2_normalize.default, (x, dim, 1e-12))
    torch.library.opcheck(torch.ops.steepest.l2_normalize_gradient.default, (grad, x, dim, 1e-12))


def test_wrong_operands_are_refused():
    with pytest.raises(IndexError, match="dim in"):
        functional.l2_normalize(torch.ones(3), 1)
    with pytest.raises(ValueError, match="eps"):
        functional.l2_normalize(torch.ones(3), eps=0.0)
    with pytest.raises(ValueError, match="without dimensions"):
        functional.l2_normalize(torch.tensor(1.0))
    with pytest.raises(TypeError, match="floating-point"):
        functional.l2_normalize(torch.ones(3, dtype=torch.int32))
