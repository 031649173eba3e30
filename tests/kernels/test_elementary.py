import copy
import os
import re
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from steepest import functional
from steepest.kernels import elementary
from steepest.kernels._op import KERNEL, OPERATOR, PLAIN, route
from tests.kernels.accuracy import REFERENCES, measure

# torch's forward mode warns about torch.jit when it is first used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
NAMES = elementary.__all__
POSITIVE = {"log"}
BIG = 1 << 19  # more than one thread's worth


def operand(name, *shape, dtype=torch.float32, seed=0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x.abs() + 0.1 if name in POSITIVE else x.clamp(min=-0.95) if name == "log1p" else x).to(dtype)


def documented_bound(name):
    return float(re.search(r"Within ([\d.]+) ulp", getattr(functional, name).__doc__)[1])


def both(name):
    return getattr(functional, name), REFERENCES[name][0]


@pytest.mark.parametrize("name", NAMES)
def test_error_over_one_in_64_patterns(name):
    function, reference = both(name)
    assert measure(function, reference, one_in=64).largest <= documented_bound(name) <= REFERENCES[name][1]


@pytest.mark.parametrize("name", [n for n in NAMES if getattr(elementary, f"_{n.upper()}")._small])
def test_torchs_function_for_small_tensors_keeps_the_bound(name):
    assert measure(getattr(torch, name), REFERENCES[name][0], one_in=256).largest <= REFERENCES[name][1]
    assert torch.equal(getattr(functional, name)(torch.ones(5)), getattr(torch, name)(torch.ones(5)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_error_over_all_patterns(name):
    function, reference = both(name)
    assert measure(function, reference, one_in=1).largest <= documented_bound(name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_sixteen_bit_values_are_the_float32_ones_rounded_once(name, dtype):
    function, _ = both(name)
    x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
    expected = function(x.float()).to(dtype)
    assert torch.equal(torch.nan_to_num(function(x), nan=0.5), torch.nan_to_num(expected, nan=0.5))
    assert torch.equal(function(x).isnan(), expected.isnan())


@pytest.mark.parametrize("name", NAMES)
def test_vector_and_remainder_give_the_same_bits(name):
    function = getattr(elementary, f"_{name.upper()}").run
    x = operand(name, 1027) * 20
    whole = function(x)
    for start, stop in ((0, 1), (1, 18), (3, 66), (1000, 1027)):
        assert torch.equal(function(x[start:stop]).view(torch.int32), whole[start:stop].view(torch.int32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_layouts_shapes_and_the_input_stay_as_they_are(name, dtype):
    function, reference = both(name)
    base = operand(name, 6, 8, 10, dtype=dtype)
    saved = base.clone()
    views = [
        base,
        base.permute(2, 0, 1),
        base[:, ::2],
        base[1:, 3:7, 1::3],
        base[:, :1].expand(6, 4, 10),
        base[0, 0, 0],
        base[:0],
        base.flip(0),
    ]
    for x in views:
        y = function(x)
        assert (y.shape, y.dtype, y.stride()) == (x.shape, x.dtype, torch.empty_like(x).stride())
        assert y.data_ptr() != x.data_ptr() or x.numel() == 0
        torch.testing.assert_close(y.double(), reference(x.double()).to(dtype).double(), rtol=1e-2, atol=1e-7)
    assert torch.equal(base, saved)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_right_to_the_dtype(name):
    function, _ = both(name)
    for dtype, tolerance in ((torch.float32, 5e-7), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)):
        x = (operand(name, 3, 500) * (1 if name in {"log", "log1p"} else 3)).to(dtype).requires_grad_()
        weight = operand("exp", 500, 3, seed=1, dtype=dtype).t()  # another layout than x
        function(x).backward(weight)
        exact = x.detach().double().requires_grad_()
        function(exact).backward(weight.double())
        torch.testing.assert_close(x.grad.double(), exact.grad, rtol=tolerance, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("sigmoid", lambda x: 1 / (2 + x.exp() + (-x).exp())),
        ("tanh", lambda x: 1 / x.cosh() ** 2),
        ("softplus", torch.sigmoid),
        ("erf", lambda x: 2 / torch.pi**0.5 * (-x * x).exp()),
    ],
)
def test_gradient_keeps_its_digits_in_the_tails(name, slope):
    function, _ = both(name)
    edge = 9 if name == "erf" else 40
    x = torch.linspace(-edge, edge, 2001).requires_grad_()
    function(x).sum().backward()
    exact = slope(x.detach().double())
    assert ((x.grad - exact) / exact).abs().max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck_and_gradgradcheck(name):
    function, _ = both(name)
    x = operand(name, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(function, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, x)


@pytest.mark.parametrize("name", NAMES)
def test_double_backward_through_the_kernel(name):
    function, reference = both(name)
    for f, x in (
        (function, operand(name, 50).requires_grad_()),
        (reference, operand(name, 50).double().requires_grad_()),
    ):
        (first,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((first * first).sum(), x)
        if f is function:
            mine = second
    torch.testing.assert_close(mine.double(), second, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_torch_func_gives_the_right_answers(name):
    function, reference = both(name)
    x = operand(name, 5, 7)

    def tower(f, v):
        return torch.func.vmap(torch.func.grad(lambda row: f(row).sum()))(v)

    torch.testing.assert_close(tower(function, x), tower(reference, x), rtol=2e-5, atol=1e-6)
    torch.testing.assert_close(torch.func.vmap(function, in_dims=1)(x), function(x.t()))
    hessian = torch.func.hessian(lambda v: function(v).sum())(x[0])
    torch.testing.assert_close(hessian, torch.func.hessian(lambda v: reference(v).sum())(x[0]), rtol=1e-4, atol=1e-5)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        assert forward_ad.unpack_dual(function(dual)).tangent is not None


@pytest.mark.parametrize("name", NAMES)
def test_compiles_into_one_graph(name):
    function, _ = both(name)
    x = operand(name, 40, 65).requires_grad_()  # too large for torch's own function
    torch._dynamo.reset()
    compiled = torch.compile(lambda v: function(v * 1.0) + 1, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    (grad,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(function(x).sum(), x)
    assert torch.equal(y, function(x) + 1)
    assert torch.equal(grad, expected)


@pytest.mark.parametrize("name", NAMES)
def test_operators_keep_torchs_rules(name):
    x = operand(name, 3, 5).requires_grad_()
    value, gradient = getattr(torch.ops.steepest, name).default, getattr(torch.ops.steepest, f"{name}_gradient").default
    torch.library.opcheck(value, (x,))
    torch.library.opcheck(value, (x.detach().t(),))
    torch.library.opcheck(gradient, (torch.ones(3, 5, requires_grad=True), x))
    y, batched = operand(name, 2, 3, 5), torch.func.vmap(value)
    assert torch.equal(batched(y), value(y))
    both_ways = torch.func.vmap(gradient, in_dims=(None, 0))(torch.ones(3, 5), y)
    assert torch.equal(both_ways, gradient(torch.ones(2, 3, 5), y))


def test_routes():
    x = torch.ones(4)
    assert route(x) is KERNEL
    assert route(torch.nn.Parameter(x)) is KERNEL
    assert route(x.double()) is PLAIN
    assert route(x.to("meta")) is PLAIN
    imaginary = torch.ones(4, dtype=torch.complex64).conj().imag
    assert imaginary.is_neg()
    assert torch.equal(functional.exp(imaginary), torch.exp(imaginary))
    seen = []
    torch.func.vmap(lambda row: seen.append(route(row)) or row)(torch.ones(2, 2))
    assert seen == [PLAIN]
    with torch._subclasses.FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        assert route(fake) is OPERATOR
        assert functional.exp(fake).shape == x.shape


def test_make_fx_records_one_operator():
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(functional.sigmoid)(torch.ones(3)).graph
    assert [node.target for node in graph.nodes if node.op == "call_function"] == [torch.ops.steepest.sigmoid.default]


def test_autocast_keeps_the_dtype():
    x = torch.ones(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert functional.exp(x).dtype is torch.float32
        assert functional.exp(x.bfloat16()).dtype is torch.bfloat16


def test_wrong_operands_are_refused():
    with pytest.raises(TypeError, match="floating-point"):
        functional.exp(torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match=r"torch\.Tensor"):
        functional.log(1.0)
    with pytest.raises(ValueError, match="beta"):
        functional.softplus(torch.ones(3), beta=0.0)


def test_softplus_beta_is_torchs():
    x = torch.linspace(-8, 8, 101, dtype=torch.float64)
    torch.testing.assert_close(functional.softplus(x, beta=2.5), F.softplus(x, beta=2.5), rtol=1e-8, atol=1e-10)


def test_a_module_that_uses_it_can_be_copied():
    class Gate(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)
            self.act = functional.sigmoid

        def forward(self, x):
            return self.act(self.linear(x))

    gate, x = Gate(), torch.ones(2, 3)
    assert torch.equal(copy.deepcopy(gate)(x), gate(x))


@pytest.fixture
def two_threads():
    """Two kernel threads, with operands made and compared by numpy: torch's own OpenMP cannot survive a fork."""
    x = torch.from_numpy(np.linspace(-20, 20, BIG, dtype=np.float32))
    torch.set_num_threads(2)
    return x, functional.sigmoid(x).numpy()


def test_sixteen_threads_at_once(two_threads):
    x, expected = two_threads
    wrong = []

    def work():
        wrong.extend(1 for _ in range(5) if not np.array_equal(functional.sigmoid(x).numpy(), expected))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_after_fork(two_threads):
    x, expected = two_threads  # the parent's pool has run
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(functional.sigmoid(x).numpy(), expected) else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class _Squash(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, i):
        return functional.tanh(torch.full((1000,), float(i)))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_in_data_loader_workers():
    functional.tanh(torch.ones(BIG))
    batches = list(torch.utils.data.DataLoader(_Squash(), batch_size=2, num_workers=2, timeout=60))
    np.testing.assert_allclose(torch.cat(batches)[:, 0], np.tanh(np.arange(4.0)), rtol=1e-6)
