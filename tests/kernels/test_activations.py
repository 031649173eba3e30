import pytest
import torch
import torch.nn.functional as F

from steepest import functional
from tests.kernels.accuracy import REFERENCES, measure

# torch's own forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
TOLERANCE = {torch.float32: 6e-7, torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 1e-13}
ONE = {
    "relu": (functional.relu, torch.relu),
    "silu": (functional.silu, F.silu),
    "gelu": (functional.gelu, F.gelu),
    "gelu_tanh": (lambda x: functional.gelu(x, approximate="tanh"), lambda x: F.gelu(x, approximate="tanh")),
}


def jump_gradients(x, threshold, bandwidth, grad):
    by_threshold = -threshold / bandwidth * ((x - threshold).abs() < bandwidth / 2) * grad
    return grad * (x > threshold), by_threshold.sum_to_size(threshold.shape)


def operands(*shape, dtype=torch.float32, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def parameter(kind, width, dtype=torch.float32):
    p = torch.tensor(0.75) if kind == "scalar" else torch.linspace(0.25, 1.5, width)
    return p.to(dtype).requires_grad_()


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh"])
def test_error_over_one_in_64_patterns(name):
    exact, bound = REFERENCES[name]
    assert measure(ONE[name][0], exact, one_in=64).largest <= bound


@pytest.mark.slow
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh"])
def test_error_over_all_patterns(name):
    exact, bound = REFERENCES[name]
    assert measure(ONE[name][0], exact, one_in=1).largest <= bound


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", list(ONE))
def test_value_and_gradient(name, dtype):
    function, reference = ONE[name]
    x, grad = operands(7, 301, dtype=dtype)
    x = (4 * x).requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, expected = function(x), reference(exact)
    assert y.dtype is dtype
    (mine,), (right,) = torch.autograd.grad(y, x, grad), torch.autograd.grad(expected, exact, grad.double())
    for a, b in ((y, expected), (mine, right)):
        torch.testing.assert_close(a.double(), b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 2)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_tanh"])
def test_gradient_error_is_at_most_torchs(name):
    function, reference = ONE[name]
    x = torch.linspace(-20, 20, 100_001)
    exact = x.double().requires_grad_()
    (right,) = torch.autograd.grad(reference(exact).sum(), exact)
    errors = []
    for f in (function, reference):
        leaf = x.clone().requires_grad_()
        errors.append((torch.autograd.grad(f(leaf).sum(), leaf)[0] - right).abs().max().item())
    assert errors[0] <= 1.2 * errors[1]


def test_specials():
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 3e38, -3e38, 0.0, -0.0], requires_grad=True)
    for name, (function, _) in ONE.items():
        y = function(x)
        expected = torch.tensor([torch.inf, 0.0, torch.nan, 3e38, 0.0, 0.0, 0.0])
        torch.testing.assert_close(y, expected, equal_nan=True)
        (grad,) = torch.autograd.grad(y.sum(), x)
        middle = 0.0 if name == "relu" else 0.5
        torch.testing.assert_close(grad[[0, 1, 3, 4, 5, 6]], torch.tensor([1.0, 0.0, 1.0, 0.0, middle, middle]))
        torch.testing.assert_close(function(x.double()).float(), y, equal_nan=True)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kind", ["scalar", "feature"])
@pytest.mark.parametrize("shape", [(67, 45), (1,), (4096, 2), (3, 0), (8200,)])
def test_swish_value_and_gradients(shape, kind, dtype):
    x, grad = operands(*shape, dtype=dtype)
    beta = parameter(kind, shape[-1], torch.float64 if dtype is torch.float64 else torch.float32)
    x.requires_grad_()
    y = functional.swish(x, beta)
    exact = [t.detach().double().requires_grad_() for t in (x, beta)]
    expected = exact[0] * torch.sigmoid(exact[1] * exact[0])
    torch.testing.assert_close(y.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    mine = torch.autograd.grad(y, (x, beta), grad)
    right = torch.autograd.grad(expected, exact, grad.double())
    torch.testing.assert_close(mine[0].double(), right[0], rtol=2 * TOLERANCE[dtype], atol=TOLERANCE[dtype])
    loose = 1e-12 if dtype is torch.float64 else 1e-5
    torch.testing.assert_close(mine[1].double(), right[1], rtol=loose, atol=loose)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("kind", ["scalar", "feature"])
def test_jumprelu_value_and_straight_through_gradients(kind, dtype):
    x, grad = operands(67, 45, dtype=dtype)
    threshold = parameter(kind, 45, torch.float64 if dtype is torch.float64 else torch.float32)
    x[3] = threshold.detach().to(dtype)  # strict: equal gives 0
    x.requires_grad_()
    y = functional.jumprelu(x, threshold, 0.5)
    assert torch.equal(y, torch.where(x.double() > threshold.double(), x, torch.zeros_like(x)))
    mine = torch.autograd.grad(y, (x, threshold), grad)
    right = jump_gradients(x.detach().double(), threshold.detach().double(), 0.5, grad.double())
    assert torch.equal(mine[0].double(), right[0])
    torch.testing.assert_close(mine[1].double(), right[1], rtol=1e-5, atol=1e-4)


def test_jumprelu_keeps_nan_and_infinity():
    x = torch.tensor([torch.nan, torch.inf, -torch.inf])
    for wide in (x, x.double()):
        y = functional.jumprelu(wide, 0.5)
        torch.testing.assert_close(y.float(), torch.tensor([torch.nan, torch.inf, 0.0]), equal_nan=True)


def test_swish_at_infinity():
    x = torch.tensor([torch.inf, -torch.inf, 3e38, -3e38], requires_grad=True)
    beta = torch.tensor(2.0, requires_grad=True)
    y = functional.swish(x, beta)
    assert torch.equal(y, torch.tensor([torch.inf, -0.0, 3e38, -0.0]))
    for grad in torch.autograd.grad(y.sum(), (x, beta)):
        assert grad.isfinite().all()


def test_parameter_gradients_have_the_same_bits_for_any_number_of_threads():
    x, grad = operands(701, 512)
    answers = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        answer = []
        for kind in ("scalar", "feature"):
            p = parameter(kind, 512)
            answer += torch.autograd.grad(functional.swish(x, p), p, grad)
            answer += torch.autograd.grad(functional.jumprelu(x, p, 0.5), p, grad)
        answers.append(answer)
    for other in answers[1:]:
        assert all(torch.equal(a, b) for a, b in zip(answers[0], other, strict=True))


@pytest.mark.parametrize("kind", ["scalar", "feature"])
def test_parameter_layouts(kind):
    base = operands(6, 8, 10, count=1)[0]
    for view in (lambda t: t.permute(2, 0, 1), lambda t: t[:, ::2], lambda t: t[..., 2:7], lambda t: t[:0]):
        x = view(base)
        p = parameter(kind, x.shape[-1])
        for function in (functional.swish, functional.jumprelu):
            y = function(x, p)
            assert y.is_contiguous()
            assert torch.equal(y, function(x.contiguous(), p))
            grads = [torch.autograd.grad(function(t, p), p, y)[0] for t in (x, x.contiguous())]
            torch.testing.assert_close(*grads)


@pytest.mark.parametrize("name", list(ONE))
def test_gradcheck(name):
    function, _ = ONE[name]
    (x,) = operands(3, 4, dtype=torch.float64, count=1)
    x.requires_grad_()
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, x)


@pytest.mark.parametrize("kind", ["scalar", "feature"])
def test_gradcheck_with_a_parameter(kind):
    (x,) = operands(3, 4, dtype=torch.float64, count=1)
    x.requires_grad_()
    beta = parameter(kind, 4, torch.float64)
    assert torch.autograd.gradcheck(functional.swish, (x, beta), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(functional.swish, (x, beta))


@pytest.mark.parametrize("kind", ["scalar", "feature"])
def test_torch_func(kind):
    x, _ = operands(5, 6)
    p = parameter(kind, 6).detach()
    for function, reference in (
        (functional.swish, lambda x, b: x * torch.sigmoid(b * x)),
        (lambda x, _: functional.gelu(x), lambda x, _: F.gelu(x)),
    ):
        mine, right = (
            torch.func.vmap(torch.func.grad(lambda a, b, f=f: f(a, b).sum(), argnums=(0, 1)), in_dims=(0, None))(x, p)
            for f in (function, reference)
        )
        for a, b in zip(mine, right, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-6)
    jump = torch.func.vmap(
        torch.func.grad(lambda a, b: functional.jumprelu(a, b, 0.5).sum(), argnums=(0, 1)), in_dims=(0, None)
    )
    tangents = torch.func.jvp(lambda a: functional.jumprelu(a, p, 0.5), (x,), (torch.ones_like(x),))[1]
    assert torch.equal(tangents, (x > p).float())
    by_x, by_p = jump(x, p)
    right = jump_gradients(x, p.expand(5, 6), 0.5, torch.ones(5, 6))
    assert torch.equal(by_x, right[0])
    torch.testing.assert_close(by_p, right[1].sum(1) if kind == "scalar" else right[1])


@pytest.mark.parametrize("name", [*ONE, "swish", "jumprelu"])
def test_compiles_into_one_graph(name):
    torch._dynamo.reset()
    function = ONE[name][0] if name in ONE else lambda x: getattr(functional, name)(x, beta)
    beta = torch.tensor(0.5, requires_grad=True)
    x = operands(4, 33, count=1)[0].requires_grad_()
    y = torch.compile(lambda v: function(v * 1.0) + 1, fullgraph=True, backend="aot_eager")(x)
    assert torch.equal(y, function(x) + 1)
    inputs = (x,) if name in ONE else (x, beta)
    for a, b in zip(torch.autograd.grad(y.sum(), inputs), torch.autograd.grad(function(x).sum(), inputs), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", [*ONE, "swish", "jumprelu"])
def test_operators_keep_torchs_rules(name):
    x, grad = (t.requires_grad_() for t in operands(3, 5))
    more = () if name in ONE else (parameter("feature", 5), 0.5)
    value, gradient = (getattr(torch.ops.steepest, name + suffix).default for suffix in ("", "_gradient"))
    torch.library.opcheck(value, (x, *more))
    torch.library.opcheck(gradient, (grad, x, *more))


def test_wrong_operands_are_refused():
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match="one for each feature"):
        functional.swish(x, torch.ones(3))
    with pytest.raises(ValueError, match="bandwidth"):
        functional.jumprelu(x, 0.5, 0.0)
    with pytest.raises(ValueError, match="approximate"):
        functional.gelu(x, approximate="erf")
    with pytest.raises(TypeError, match="floating-point"):
        functional.swish(torch.ones(3, dtype=torch.int64))
