import re

import pytest
import torch
import torch.nn.functional as F

from steepest import functional
from steepest.kernels import gated
from tests.kernels.accuracy import REFERENCES, measure

# torch's own forward mode
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
ACTIVATIONS = {
    "glu": torch.sigmoid,
    "bilinear": lambda g: g,
    "reglu": torch.relu,
    "geglu": F.gelu,
    "geglu_tanh": lambda g: F.gelu(g, approximate="tanh"),
    "swiglu": F.silu,
}
NAMES = list(ACTIVATIONS)
TOLERANCE = {torch.float32: 6e-7, torch.bfloat16: 8e-3, torch.float16: 1e-3, torch.float64: 1e-13}


def unit(name):
    if name == "geglu_tanh":
        return lambda gate, up=None: functional.geglu(gate, up, approximate="tanh")
    return getattr(functional, name)


def reference(name):
    return lambda gate, up: ACTIVATIONS[name](gate) * up


def operands(*shape, dtype=torch.float32, count=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def test_every_unit_is_here():
    assert {name.removesuffix("_tanh") for name in NAMES} == set(gated.__all__)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradients_of_pair_and_packed(name, dtype):
    gate, up, grad = operands(7, 301, dtype=dtype, count=3)
    gate = gate * 4
    exact = [t.double().requires_grad_() for t in (gate, up)]
    expected = reference(name)(*exact)
    expected_grads = torch.autograd.grad(expected, exact, grad.double())
    pair = [t.clone().requires_grad_() for t in (gate, up)]
    packed = torch.cat([gate, up], -1).requires_grad_()
    for inputs in (pair, [packed]):
        y = unit(name)(*inputs)
        assert (y.dtype, y.shape, y.is_contiguous()) == (dtype, gate.shape, True)
        grads = torch.autograd.grad(y, inputs, grad)
        grads = grads if len(grads) == 2 else grads[0].chunk(2, -1)
        for mine, right in ((y, expected), *zip(grads, expected_grads, strict=True)):
            torch.testing.assert_close(mine.double(), right, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] / 2)


@pytest.mark.parametrize("name", ["glu", "geglu", "geglu_tanh", "swiglu"])
def test_gradient_error_is_at_most_twice_torchs(name):
    gate, up, grad = operands(400, 200, count=3)
    gate = gate * 5
    errors = []
    exact = [t.double().requires_grad_() for t in (gate, up)]
    expected = torch.autograd.grad(reference(name)(*exact), exact, grad.double())
    for function in (unit(name), reference(name)):
        inputs = [t.clone().requires_grad_() for t in (gate, up)]
        got = torch.autograd.grad(function(*inputs), inputs, grad)
        errors.append([(a - b).abs().mean().item() for a, b in zip(got, expected, strict=True)])
    assert all(mine <= 2 * torchs for mine, torchs in zip(*errors, strict=True))


@pytest.mark.parametrize("name", ["swiglu", "geglu", "geglu_tanh", "glu"])
def test_tails_keep_their_digits(name):
    low = {"swiglu": -80.0, "glu": -80.0, "geglu": -12.0, "geglu_tanh": -9.0}[name]
    gate = torch.linspace(low, 30, 5001)
    y = unit(name)(gate, torch.ones_like(gate))
    x = gate.double()
    u = 2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)
    exact = {
        "swiglu": x / (1 + torch.exp(-x)),
        "glu": 1 / (1 + torch.exp(-x)),
        "geglu": 0.5 * x * torch.erfc(-x * 0.5**0.5),
        "geglu_tanh": x / (1 + torch.exp(-u)),
    }[name]
    inside = exact != 0
    assert ((y[inside] - exact[inside]) / exact[inside]).abs().max() < 6e-7
    assert torch.equal(y[~inside], torch.zeros_like(y[~inside]))


@pytest.mark.parametrize("name", ["swiglu", "geglu", "geglu_tanh", "glu"])
def test_product_is_within_the_documented_bound(name):
    bound = float(re.search(r"Within ([\d.]+) ulp", getattr(functional, name.removesuffix("_tanh")).__doc__)[1])
    activation = REFERENCES[{"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "glu": "sigmoid"}[name]][0]
    factor = 1.7320508  # its products round

    def mine(gate):
        return unit(name)(gate, torch.full_like(gate, factor))

    exact = torch.tensor(factor).double()
    assert measure(mine, lambda gate: activation(gate) * exact, one_in=64).normal <= bound


@pytest.mark.parametrize("name", NAMES)
def test_special_gates(name):
    gate = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, 3e38, -3e38])
    ones = torch.ones_like(gate)
    y = unit(name)(gate, ones)
    expected = {
        "glu": [1.0, 0.0, torch.nan, 0.5, 1.0, 0.0],
        "bilinear": gate.tolist(),
    }.get(name, [torch.inf, 0.0, torch.nan, 0.0, 3e38, 0.0])
    torch.testing.assert_close(y, torch.tensor(expected), equal_nan=True)
    a, b = (t.requires_grad_() for t in (gate, ones))
    grads = torch.autograd.grad(unit(name)(a, b), (a, b), torch.ones(6))
    assert torch.equal(torch.stack(grads).isnan().any(0), torch.tensor([False, False, True, False, False, False]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["swiglu", "bilinear"])
def test_layouts(name, dtype):
    base, other = operands(6, 8, 10, dtype=dtype)
    views = [
        lambda t: t,
        lambda t: t.permute(2, 0, 1),
        lambda t: t[:, ::2],
        lambda t: t[..., 2:7],
        lambda t: t[..., ::2],
        lambda t: t[:, :1].expand(6, 4, 10),
        lambda t: t[..., :1],
        lambda t: t[0, 0, 0],
        lambda t: t[:0],
        lambda t: t[..., :0],
    ]
    for view in views:
        gate, up = view(base), view(other)
        y = unit(name)(gate, up)
        torch.testing.assert_close(y, unit(name)(gate.contiguous(), up.contiguous()), rtol=0, atol=0)
        if gate.dim() and gate.shape[-1] % 2 == 0:
            packed = unit(name)(gate)
            torch.testing.assert_close(packed, unit(name)(*(t.contiguous() for t in gate.chunk(2, -1))))
            leaf = gate.detach().clone().requires_grad_()
            strided = view(base.detach().clone().requires_grad_())
            grads = [torch.autograd.grad(unit(name)(t), t, packed)[0] for t in (leaf, strided)]
            torch.testing.assert_close(grads[0], grads[1])


def test_pieces_and_threads_give_the_same_bits():
    gate, up, grad = operands(1021, 517, count=3)
    answers = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        a, b = gate.clone().requires_grad_(), up.clone().requires_grad_()
        packed = torch.cat([gate, up], -1).requires_grad_()
        y, z = functional.swiglu(a, b), functional.swiglu(packed)
        answers.append((y, z, *torch.autograd.grad(y, (a, b), grad), *torch.autograd.grad(z, packed, grad)))
    assert torch.equal(answers[0][0], answers[0][1])
    for other in answers[1:]:
        assert all(torch.equal(p, q) for p, q in zip(answers[0], other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    gate, up = (t.requires_grad_() for t in operands(3, 4, dtype=torch.float64))
    assert torch.autograd.gradcheck(unit(name), (gate, up), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(unit(name), (gate, up))
    assert torch.autograd.gradgradcheck(unit(name), (gate,))


@pytest.mark.parametrize("name", ["swiglu", "geglu"])
def test_double_backward_through_the_kernel(name):
    seconds = []
    for function, dtype in ((unit(name), torch.float32), (reference(name), torch.float64)):
        gate, up = (t.requires_grad_() for t in operands(50, dtype=dtype))
        first = torch.autograd.grad(function(gate, up).square().sum(), (gate, up), create_graph=True)
        seconds.append(torch.autograd.grad(sum(g.square().sum() for g in first), (gate, up)))
    for mine, right in zip(*seconds, strict=True):
        torch.testing.assert_close(mine.double(), right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_torch_func(name):
    gate, up = operands(5, 6)

    def tower(f):
        return torch.func.vmap(torch.func.grad(lambda g, u: f(g, u).sum(), argnums=(0, 1)), in_dims=(0, None))

    for mine, right in zip(tower(unit(name))(gate, up[0]), tower(reference(name))(gate, up[0]), strict=True):
        torch.testing.assert_close(mine, right, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_compiles_into_one_graph(name):
    torch._dynamo.reset()
    gate, up = (t.requires_grad_() for t in operands(4, 34))
    compiled = torch.compile(
        lambda g, u: unit(name)(g * 1.0, u) + unit(name)(torch.cat([g, u], -1)), fullgraph=True, backend="aot_eager"
    )
    y = compiled(gate, up)
    expected = unit(name)(gate, up) * 2
    torch.testing.assert_close(y, expected)
    for mine, right in zip(
        torch.autograd.grad(y.sum(), (gate, up)), torch.autograd.grad(expected.sum(), (gate, up)), strict=True
    ):
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("name", NAMES)
def test_operators_keep_torchs_rules(name):
    ops = torch.ops.steepest
    gate, up, grad = (t.requires_grad_() for t in operands(3, 6, count=3))
    torch.library.opcheck(getattr(ops, name).default, (gate, up))
    torch.library.opcheck(getattr(ops, f"{name}_gradient").default, (grad, gate, up))
    torch.library.opcheck(getattr(ops, f"{name}_packed").default, (gate,))
    torch.library.opcheck(
        getattr(ops, f"{name}_packed_gradient").default, (grad.detach()[:, :3].clone().requires_grad_(), gate)
    )
    batched = torch.func.vmap(getattr(ops, name).default, in_dims=(None, 1))(gate[0, :3], up.detach())
    torch.testing.assert_close(batched, unit(name)(gate[0, :3].expand(6, 3), up.t()))


def test_wrong_operands_are_refused():
    gate, up = operands(4, 6)
    with pytest.raises(ValueError, match="one shape"):
        functional.swiglu(gate, up[:2])
    with pytest.raises(ValueError, match="one shape, dtype"):
        functional.swiglu(gate, up.bfloat16())
    with pytest.raises(ValueError, match="halves"):
        functional.swiglu(gate[:, :3])
    with pytest.raises(TypeError, match="floating-point"):
        functional.glu(torch.ones(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="approximate"):
        functional.geglu(gate, up, approximate="erf")
