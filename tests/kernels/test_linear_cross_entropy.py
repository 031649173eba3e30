import pytest
import torch
import torch.nn.functional as F

from steepest.functional import cross_entropy, linear_cross_entropy
from steepest.kernels import _linear_cross_entropy as chunks
from steepest.kernels import products

ROWS, WIDTH, CLASSES = 150, 24, 301


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch):
    """Small chunks, so that every test crosses their borders."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)


def operands(dtype=torch.float32, rows=ROWS):
    g = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(s, generator=g).to(dtype) for s in ((rows, WIDTH), (CLASSES, WIDTH), (CLASSES,))
    )
    targets = torch.randint(CLASSES, (rows,), generator=g)
    targets[::7] = -100
    return hidden, weight, targets, bias


def with_gradients(function, hidden, weight, targets, bias=None, factor=1.0, **kwargs):
    leaves = [x.detach().clone().requires_grad_() for x in (hidden, weight, bias) if x is not None]
    loss = function(leaves[0], leaves[1], targets, *leaves[2:], **kwargs)
    (loss.sum() * factor).backward()
    return loss.detach(), *(leaf.grad for leaf in leaves)


def by_torch(hidden, weight, targets, bias=None, **kwargs):
    return F.cross_entropy(F.linear(hidden, weight, bias), targets, **kwargs)


def error(found, exact):
    return ((found.double() - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_loss_and_gradients_are_no_worse_than_torch(dtype, options, reduction):
    hidden, weight, targets, bias = operands(dtype)
    options = {**options, "reduction": reduction}
    ours = with_gradients(linear_cross_entropy, hidden, weight, targets, bias, 2.5, **options)
    theirs = with_gradients(by_torch, hidden, weight, targets, bias, 2.5, **options)
    exact = with_gradients(by_torch, hidden.double(), weight.double(), targets, bias.double(), 2.5, **options)
    assert ours[0].dtype == torch.promote_types(dtype, torch.float32)
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        assert error(mine, right) <= 2 * error(other, right) + 1e-14
    assert [x.dtype for x in ours[1:]] == [dtype] * 3


@pytest.mark.parametrize("options", [{"z_loss": 0.01}, {"softcap": 5.0}, {"class_weight": True}], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_option_is_that_of_cross_entropy(options, reduction):
    hidden, weight, targets, _ = operands(torch.float64)
    class_weight = (
        torch.rand(CLASSES, generator=torch.Generator().manual_seed(1)) if "class_weight" in options else None
    )
    rest = {k: v for k, v in options.items() if k != "class_weight"} | {"reduction": reduction}
    wide = None if class_weight is None else class_weight.double()

    def right_way(hidden, weight, targets, **kwargs):
        return cross_entropy(F.linear(hidden, weight), targets, wide, **kwargs)

    exact = with_gradients(right_way, hidden, weight, targets, **rest)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        ours = with_gradients(
            linear_cross_entropy, hidden.to(dtype), weight.to(dtype), targets, class_weight=class_weight, **rest
        )
        for mine, right in zip(ours, exact, strict=True):
            assert error(mine, right) <= tolerance


@pytest.mark.parametrize("own_products", [False, True])
def test_autocast_keeps_the_weight_gradient_in_float32(own_products, monkeypatch):
    monkeypatch.setitem(products.HAS_OWN, torch.bfloat16, own_products)
    hidden, weight, targets, bias = operands(rows=2000)
    exact = with_gradients(by_torch, hidden.double(), weight.double(), targets, bias.double())
    with torch.autocast("cpu", torch.bfloat16):
        ours = with_gradients(linear_cross_entropy, hidden, weight, targets, bias)
        theirs = with_gradients(by_torch, hidden, weight, targets, bias)
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        assert mine.dtype == torch.float32
        assert error(mine, right) <= 1.1 * error(other, right)
    assert not torch.equal(ours[2], ours[2].bfloat16().float())


def test_only_what_is_wanted_is_computed():
    hidden, weight, targets, bias = operands()
    whole = with_gradients(linear_cross_entropy, hidden, weight, targets, bias)
    for i in range(3):
        leaves = [hidden.clone(), weight.clone(), bias.clone()]
        leaves[i].requires_grad_()
        linear_cross_entropy(leaves[0], leaves[1], targets, leaves[2]).backward()
        assert torch.equal(leaves[i].grad, whole[i + 1])
        assert all(leaf.grad is None for j, leaf in enumerate(leaves) if j != i)
    assert torch.equal(linear_cross_entropy(hidden, weight, targets, bias), whole[0])


def test_the_first_chunk_writes_over_whatever_the_memory_held(monkeypatch):
    """The weight's gradient is not set to zero first, so NaN left in the memory must not reach it."""
    monkeypatch.setattr(chunks.Sweep, "_new", lambda self, shape, dtype: torch.full(shape, torch.nan, dtype=dtype))
    hidden, weight, targets, bias = operands()
    right = with_gradients(by_torch, hidden, weight, targets, bias)
    for mine, other in zip(with_gradients(linear_cross_entropy, hidden, weight, targets, bias), right, strict=True):
        torch.testing.assert_close(mine, other)
    nothing = with_gradients(linear_cross_entropy, hidden, weight, torch.full_like(targets, -100), reduction="sum")
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in nothing)


def test_a_second_backward_pass_gives_the_same_again():
    hidden, weight, targets, _ = operands()
    weight.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets)
    (first,) = torch.autograd.grad(loss, weight, torch.tensor(3.0), retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, weight)
    assert torch.equal(first, kept)
    assert torch.allclose(first, 3 * second, rtol=1e-5, atol=1e-8)


def test_everything_ignored_and_nothing_at_all():
    hidden, weight, targets, _ = operands()
    loss, to_hidden, to_weight = with_gradients(linear_cross_entropy, hidden, weight, torch.full_like(targets, -100))
    assert loss.isnan()
    assert (to_hidden == 0).all()
    assert (to_weight == 0).all()
    assert linear_cross_entropy(hidden[:0], weight, targets[:0], reduction="sum") == 0
    assert linear_cross_entropy(hidden[:0], weight, targets[:0]).isnan()


def test_leading_dimensions():
    hidden, weight, targets, _ = operands()
    loss = linear_cross_entropy(hidden, weight, targets, reduction="none")
    shaped = linear_cross_entropy(hidden.reshape(3, 50, WIDTH), weight, targets.reshape(3, 50), reduction="none")
    assert torch.equal(shaped, loss.reshape(3, 50))
    single = linear_cross_entropy(hidden[1], weight, targets[1], reduction="none")
    assert single.shape == ()
    assert torch.allclose(single, loss[1], rtol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradients_of_first_and_second_order(reduction):
    g = torch.Generator().manual_seed(0)
    leaves = [torch.randn(s, generator=g, dtype=torch.float64, requires_grad=True) for s in ((5, 3), (7, 3), (7,))]
    targets = torch.tensor([0, 3, -100, 6, 1])

    def function(hidden, weight, bias):
        options = {"z_loss": 0.01, "softcap": 3.0, "label_smoothing": 0.1}
        return linear_cross_entropy(hidden, weight, targets, bias, reduction=reduction, **options)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("biased", [False, True])
def test_compile(biased, reduction):
    hidden, weight, targets, bias = operands()
    arguments = (hidden, weight, targets) + ((bias,) if biased else ())

    def function(*arguments):
        return linear_cross_entropy(*arguments, reduction=reduction)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    ours, eager = with_gradients(compiled, *arguments), with_gradients(function, *arguments)
    for a, b in zip(ours, eager, strict=True):
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8)


def test_operators_pass_opcheck():
    hidden, weight, targets, bias = operands()
    hidden.requires_grad_()
    weight.requires_grad_()
    for reduction, b in ((0, None), (2, bias)):
        rest = (torch.float32, [True, True, False], -100, reduction, 0.1, 0.0, 0.0)
        torch.library.opcheck(
            torch.ops.steepest.linear_cross_entropy.default, (hidden, weight, b, targets, None, *rest)
        )
        grad = torch.ones(ROWS if reduction else ())
        operator = torch.ops.steepest.linear_cross_entropy_gradient.default
        torch.library.opcheck(operator, (grad, hidden.detach(), weight.detach(), b, targets, None, *rest))


def test_functional_transforms():
    hidden, weight, targets, _ = operands(rows=6)
    per_sample = torch.vmap(torch.func.grad(linear_cross_entropy, argnums=1), in_dims=(0, None, 0))
    found = per_sample(hidden.unsqueeze(1), weight, targets.unsqueeze(1).clamp(min=0))
    right = with_gradients(linear_cross_entropy, hidden[2:3], weight, targets[2:3])[2]
    assert torch.allclose(found[2], right, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "raised", "message"),
    [
        ({"hidden": torch.zeros(4, 5)}, ValueError, "laid out as in torch.nn.Linear"),
        ({"targets": torch.zeros(5, dtype=torch.int64)}, ValueError, r"targets of shape \(4,\)"),
        ({"targets": torch.zeros(4)}, TypeError, "class indices"),
        ({"targets": torch.tensor([0, 1, 2, 7])}, ValueError, "targets from 0 to 6.*got 7"),
        ({"bias": torch.zeros(3)}, ValueError, r"bias of shape \(7,\)"),
        ({"weight": torch.zeros(7, 3, dtype=torch.bfloat16)}, ValueError, "one dtype"),
        ({"class_weight": torch.zeros(3)}, ValueError, "each of the 7 classes"),
        ({"weight": torch.zeros(7, 3, dtype=torch.int64)}, TypeError, "floating-point"),
    ],
)
def test_the_public_door(change, raised, message):
    arguments = {"hidden": torch.zeros(4, 3), "weight": torch.zeros(7, 3), "targets": torch.zeros(4, dtype=torch.int64)}
    with pytest.raises(raised, match=message):
        linear_cross_entropy(**{**arguments, **change})
