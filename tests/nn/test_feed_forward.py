import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from steepest.nn import FeedForward, GatedFeedForward, activation, feed_forward, gated_width
from steepest.nn.feed_forward import GATED, UNGATED

KINDS = [*GATED, *UNGATED]


def powers(x, coefficients):
    return sum(c * x**k for k, c in enumerate(coefficients))


def normalized_powers(x, coefficients):
    rest = (c * x**k * torch.rsqrt((x**k).square().mean(-1, keepdim=True) + 1e-6) for k, c in enumerate(coefficients))
    return coefficients[0] + sum(list(rest)[1:])


REFERENCES = {
    "glu": lambda gate, up: torch.sigmoid(gate) * up,
    "bilinear": lambda gate, up: gate * up,
    "reglu": lambda gate, up: torch.relu(gate) * up,
    "geglu": lambda gate, up: F.gelu(gate) * up,
    "geglu_tanh": lambda gate, up: F.gelu(gate, approximate="tanh") * up,
    "swiglu": lambda gate, up: F.silu(gate) * up,
    "relu": torch.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": lambda x, beta: x * torch.sigmoid(beta * x),
    "polyrelu": lambda x, c: powers(torch.relu(x), c),
    "polynorm": normalized_powers,
}


def reference(layer, x, dtype=torch.float64):
    """The layer by its formula in plain torch, from its own parameters."""
    p = {name: tensor.to(dtype) for name, tensor in layer.state_dict(keep_vars=True).items()}
    x = x.to(dtype)

    def product(name, x):
        return F.linear(x, p[f"{name}_proj.weight"], p.get(f"{name}_proj.bias"))

    if isinstance(layer, GatedFeedForward):
        parts = product("gate_up", x).chunk(2, -1) if layer.packed else (product("gate", x), product("up", x))
    else:
        parts = (product("up", x), *(p[k] for k in p if k.startswith("activation.")))
    return product("down", REFERENCES[layer.kind](*parts))


def make(kind, width=24, hidden=32, **settings):
    torch.manual_seed(3)
    layer = feed_forward(kind, width, hidden, **settings)
    for name, parameter in layer.named_parameters():
        if "proj" in name:
            nn.init.normal_(parameter, std=0.4)
    return layer


def inputs(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def gradients(layer, x, grad, call=None):
    parameters = list(layer.parameters())
    x = x.clone().requires_grad_()
    y = (call or layer)(x)
    return [y, *torch.autograd.grad(y, [x, *parameters], grad.to(y.dtype))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", KINDS)
def test_error_against_the_formula_is_at_most_twice_plain_torchs(kind, dtype):
    layer = make(kind, bias=True).to(dtype)
    x, grad = inputs(3, 5, 24, dtype=dtype), inputs(3, 5, 24, seed=2)
    wide = copy.deepcopy(layer).double()
    exact = gradients(wide, x.double(), grad, lambda x: reference(wide, x, torch.float64))
    plain = gradients(layer, x, grad, lambda x: reference(layer, x, dtype))
    for mine, torchs, right in zip(gradients(layer, x, grad), plain, exact, strict=True):
        errors = [(t.double() - right).norm().item() for t in (mine, torchs)]
        # A coefficient's gradient is one sum, in which either may be lucky: it may lose a few digits to cancellation.
        slack = 10 if right.numel() < 5 else 0.5
        assert errors[0] <= 2 * errors[1] + slack * torch.finfo(dtype).eps * right.norm().item()
        assert (mine.dtype, mine.shape) == (dtype, right.shape)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_in_float64(kind):
    layer = make(kind, 3, 4).double()
    x = inputs(2, 3, dtype=torch.float64).requires_grad_()
    for memory in ("save", "recompute"):
        layer.memory = memory
        names = [name for name, _ in layer.named_parameters()]

        def call(x, *values, names=names):
            return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

        assert torch.autograd.gradcheck(call, (x, *layer.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    ("kind", "settings"), [*((kind, {}) for kind in KINDS), *((kind, {"packed": True}) for kind in GATED)]
)
def test_recomputing_gives_the_same_bits(kind, dtype, settings):
    layer = make(kind, bias=True, **settings).to(dtype)
    x, grad = inputs(7, 24, dtype=dtype), inputs(7, 24, seed=2)
    answers = []
    for memory in ("save", "recompute"):
        layer.memory = memory
        answers.append(gradients(layer, x, grad))
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


class Live(TorchDispatchMode):
    """Remembers the memory that operations made, to ask later what of it is still there."""

    def __init__(self, known):
        super().__init__()
        self.made, self.known = {}, {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() in self.known:
                    continue
                self.made[storage.data_ptr()] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def numbers(self):
        return sum(size for storage, size in self.made.values() if not storage.expired()) // 4


@pytest.mark.parametrize(
    ("kind", "settings", "save", "recompute"),
    [
        ("relu", {}, 2, 1),
        ("polynorm", {}, 2, 1),
        ("swiglu", {}, 3, 2),
        ("swiglu", {"packed": True}, 3, 2),
    ],
)
def test_what_is_kept_for_backward_is_what_the_docstring_says(kind, settings, save, recompute):
    width, hidden, positions = 8, 512, 64
    x = inputs(positions, width).requires_grad_()
    for memory, expected in (("save", save), ("recompute", recompute)):
        layer = feed_forward(kind, width, hidden, memory=memory, **settings)
        with Live([x, *layer.parameters()]) as live:
            y = layer(x)
            kept = live.numbers() - y.numel()
        # Beyond the hidden values: an output's worth of small change.
        assert expected * hidden * positions <= kept <= (expected + 0.1) * hidden * positions
        y.sum().backward()


@pytest.mark.parametrize("kind", GATED)
def test_packed_and_separate_layouts_load_into_each_other(kind):
    apart, packed = make(kind, bias=True), feed_forward(kind, 24, 32, packed=True, bias=True)
    saved = apart.state_dict()
    packed.load_state_dict(saved)
    x = inputs(5, 24)
    torch.testing.assert_close(packed(x), apart(x))
    again = make(kind, bias=True)
    with torch.no_grad():
        again.gate_proj.weight.zero_()
    again.load_state_dict(packed.state_dict())
    assert all(torch.equal(saved[name], tensor) for name, tensor in again.state_dict().items())
    holder = nn.ModuleDict({"mlp": feed_forward(kind, 24, 32, packed=True, bias=True)})
    holder.load_state_dict({f"mlp.{name}": tensor for name, tensor in saved.items()})
    assert torch.equal(holder["mlp"].gate_up_proj.weight, packed.gate_up_proj.weight)
    assert "gate_proj.weight" in saved  # the caller's dictionary stays


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind):
    one, two = make(kind), feed_forward(kind, 24, 32)
    two.load_state_dict(one.state_dict())
    x = inputs(4, 24)
    assert torch.equal(one(x), two(x))


def count(layer):
    return sum(p.numel() for name, p in layer.named_parameters() if "activation" not in name)


@pytest.mark.parametrize("width", [96, 192, 768, 960])
@pytest.mark.parametrize("kind", GATED)
def test_gated_and_ungated_have_equal_parameters(kind, width):
    with torch.device("meta"):
        assert count(GatedFeedForward(kind, width)) == count(FeedForward("relu", width))
        assert count(GatedFeedForward(kind, width, packed=True)) == count(FeedForward("gelu", width))


@pytest.mark.parametrize("multiple_of", [1, 32, 64, 256])
@pytest.mark.parametrize("width", [48, 100, 512, 4096])
def test_rounding_adds_less_than_one_multiple(width, multiple_of):
    inner = gated_width(width, multiple_of=multiple_of)
    assert inner % multiple_of == 0
    assert 3 * inner >= 8 * width > 3 * (inner - multiple_of)
    assert 3 * gated_width(width, ungated=7 * width, multiple_of=multiple_of) >= 14 * width


def test_known_widths():
    assert gated_width(768, ungated=3072, multiple_of=64) == 2048  # T5
    assert gated_width(4096, multiple_of=256) == 11008  # LLaMA 7B


@pytest.mark.parametrize("kind", KINDS)
def test_any_layout_and_empty_batches(kind):
    layer = make(kind)
    base = inputs(24, 6, 4)
    for x in (base.permute(2, 1, 0), base.permute(1, 2, 0)[::2], inputs(24), inputs(0, 24), inputs(3, 0, 24)):
        y = layer(x.requires_grad_())
        torch.testing.assert_close(y, layer(x.contiguous()))
        y.sum().backward()
        assert y.shape == x.shape


@pytest.mark.parametrize("kind", ["swiglu", "bilinear", "polyrelu", "relu"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("memory", ["save", "recompute"])
def test_float16_hidden_values_beyond_its_range_give_the_right_output(kind, bias, memory):
    layer = make(kind, bias=bias, memory=memory)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "proj.weight" in name:
                parameter.mul_(2.0**-10 if name.startswith("down") else 2.0**6)
    layer.half()
    x = inputs(6, 24, dtype=torch.float16)
    x[:3] *= 2**-6  # rows that need no scaling among those that do
    with torch.no_grad():
        hidden = reference_hidden(layer, x)
        exact = reference(layer, x)
    if kind != "relu":
        assert hidden.abs().max() > 65504
    assert exact.abs().max() < 65504
    y = layer(x)
    assert y.isfinite().all()
    row = exact.abs().amax(-1, keepdim=True)
    assert ((y.double() - exact).abs() / row).max() < 4e-3
    (y.float().mean() / 1024).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def reference_hidden(layer, x):
    silent = nn.Linear(layer.hidden, layer.hidden, bias=False)
    nn.init.eye_(silent.weight)
    state = {**layer.state_dict(), "down_proj.weight": silent.weight}
    state.pop("down_proj.bias", None)
    twin = feed_forward(layer.kind, layer.width, layer.hidden, bias=layer.down_proj.bias is not None)
    twin.down_proj = silent
    twin.load_state_dict(state)
    return reference(twin, x)


def test_float16_that_does_not_fit_stays_visible():
    layer = make("bilinear").half()
    x = torch.full((2, 24), 6e4, dtype=torch.float16)
    assert not layer(x).isfinite().all()
    x[0] = torch.nan
    assert layer(x)[0].isnan().all()


@pytest.mark.parametrize("kind", ["swiglu", "relu", "polynorm"])
def test_autocast_computes_products_in_its_dtype(kind):
    for memory in ("save", "recompute"):
        layer = make(kind, memory=memory)
        x = inputs(4, 24).requires_grad_()
        for dtype in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", dtype):
                y = layer(x)
            assert y.dtype == dtype
            torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.15)
            y.float().sum().backward()
        assert x.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("kind", ["swiglu", "polynorm"])
def test_torch_func_and_second_derivatives(kind, memory):
    layer = make(kind, 4, 6, memory=memory).double()
    x = inputs(3, 4, dtype=torch.float64)
    each = torch.func.vmap(torch.func.grad(lambda row: layer(row[None]).square().sum()))(x)
    x.requires_grad_()
    whole = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)[0]
    torch.testing.assert_close(each, whole)
    assert torch.autograd.grad(whole.sum(), x)[0].isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["save", "recompute"])
@pytest.mark.parametrize("kind", ["swiglu", "relu"])
def test_torch_compile_in_one_graph(kind, memory):
    layer = make(kind, memory=memory)
    x, grad = inputs(5, 24), inputs(5, 24, seed=2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for got, right in zip(gradients(compiled, x, grad), gradients(layer, x, grad), strict=True):
        torch.testing.assert_close(got, right)


@pytest.mark.parametrize(
    ("make_call", "error", "message"),
    [
        (lambda: feed_forward("swigul", 8), ValueError, "did you mean swiglu"),
        (lambda: GatedFeedForward("relu", 8), ValueError, "expected one of glu"),
        (lambda: FeedForward("swiglu", 8), ValueError, "expected one of relu"),
        (lambda: FeedForward("relu", 0), ValueError, "width"),
        (lambda: FeedForward("relu", 8, 0), ValueError, "hidden"),
        (lambda: GatedFeedForward("glu", 8, multiple_of=0), ValueError, "multiple_of"),
        (lambda: FeedForward("relu", 8, memory="offload"), ValueError, "save, recompute"),
        (lambda: GatedFeedForward("glu", 8, memory="offload"), ValueError, "save, recompute"),
        (lambda: activation("tanh"), ValueError, "polynorm"),
        (lambda: make("relu")(torch.zeros(2, 23)), ValueError, r"expects \(..., 24\), got shape \(2, 23\)"),
        (lambda: make("glu")(torch.zeros(())), ValueError, r"\(..., 24\)"),
        (lambda: make("glu")(torch.zeros(2, 24, dtype=torch.long)), TypeError, "floating-point"),
        (lambda: make("glu")(torch.zeros(2, 24, dtype=torch.float64)), TypeError, "torch.autocast"),
        (lambda: make("relu").half()(torch.zeros(2, 24)), TypeError, "weights in torch.float16"),
    ],
)
def test_errors_say_what_to_do(make_call, error, message):
    with pytest.raises(error, match=message):
        make_call()


def test_repr_names_kind_and_policy():
    assert "swiglu, packed=True, memory='recompute'" in repr(
        GatedFeedForward("swiglu", 8, packed=True, memory="recompute")
    )
    assert "Activation(relu)" in repr(FeedForward("relu", 8))


def test_no_copy_of_what_backward_keeps_under_no_grad():
    layer = make("swiglu", memory="recompute")
    with torch.no_grad():
        assert layer(inputs(2, 24)).grad_fn is None
    x = inputs(2, 24)
    assert torch.equal(layer.requires_grad_(False)(x), make("swiglu")(x))
