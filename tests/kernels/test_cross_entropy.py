import math
import threading

import pytest
import torch
import torch.nn.functional as F

from steepest.functional import cross_entropy
from steepest.kernels._cross_entropy_rows import Terms, plain

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
INF, NAN = math.inf, math.nan


def problem(n=37, classes=1003, dtype=torch.float32, seed=0, spread=3.0):
    g = torch.Generator().manual_seed(seed)
    x = (spread * torch.randn(n, classes, generator=g)).to(dtype)
    return x, torch.randint(classes, (n,), generator=g)


def with_gradient(function, x, *args, **kwargs):
    x = x.detach().clone().requires_grad_()
    loss = function(x, *args, **kwargs)
    loss.sum().backward()
    return loss.detach(), x.grad


def reference(x, target, weight=None, *, z_loss=0.0, softcap=None, **kwargs):
    """Torch's own cross-entropy in float64, with the z-loss and the softcap written out."""
    if softcap:
        x = softcap * torch.tanh(x / softcap)
    loss = F.cross_entropy(x, target, weight, **kwargs)
    if not z_loss:
        return loss
    valid = target != kwargs.get("ignore_index", -100)
    w = torch.ones(len(x), dtype=x.dtype) if weight is None else weight[target.clamp(min=0)]
    extra = z_loss * torch.logsumexp(x, -1) ** 2 * torch.where(valid, w, 0)
    reduction = kwargs.get("reduction", "mean")
    if reduction == "none":
        return loss + extra
    return loss + (extra.sum() / torch.where(valid, w, 0).sum() if reduction == "mean" else extra.sum())


OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"z_loss": 1e-3},
    {"softcap": 4.0},
    {"weight": True},
    {"weight": True, "label_smoothing": 0.2, "z_loss": 1e-2, "softcap": 8.0},
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_loss_and_gradient_against_float64(dtype, options, reduction):
    x, target = problem(dtype=dtype)
    target[::5] = -100
    options = {**options, "reduction": reduction}
    weight = torch.rand(x.shape[1], generator=torch.Generator().manual_seed(1)) if options.pop("weight", 0) else None
    loss, gradient = with_gradient(cross_entropy, x, target, weight, **options)
    exact_weight = None if weight is None else weight.double()
    exact, exact_gradient = with_gradient(reference, x.double(), target, exact_weight, **options)
    # Torch's gradient in the same dtype; its loss would not take float32 weights with 16-bit logits.
    theirs = with_gradient(reference, x, target, None if weight is None else weight.to(dtype), **options)[1]
    assert loss.dtype == torch.float32
    assert gradient.dtype == dtype
    assert torch.allclose(loss.double(), exact, rtol=4e-6, atol=0)
    error = (gradient - exact_gradient).abs().max()
    assert error <= 2 * (theirs - exact_gradient).abs().max()
    assert (gradient[::5] == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_probabilities_as_targets(reduction, weighted, smoothing):
    x, _ = problem(11, 501)
    target = torch.softmax(problem(11, 501, seed=1)[0], -1)
    weight = torch.rand(501, generator=torch.Generator().manual_seed(1)) if weighted else None
    options = {"reduction": reduction, "label_smoothing": smoothing}
    loss, gradient = with_gradient(cross_entropy, x, target, weight, **options)
    exact_weight = None if weight is None else weight.double()
    exact, exact_gradient = with_gradient(F.cross_entropy, x.double(), target.double(), exact_weight, **options)
    theirs = with_gradient(F.cross_entropy, x, target, weight, **options)[1]
    assert torch.allclose(loss.double(), exact, rtol=4e-6, atol=0)
    assert (gradient - exact_gradient).abs().max() <= 2 * (theirs - exact_gradient).abs().max()


@pytest.mark.parametrize("exponent", [0, 4, 12, 13, 16, 20])
@pytest.mark.parametrize("offset", [0.0, -1000.0, 60000.0, 1e6])
def test_error_does_not_grow_with_the_number_of_classes(exponent, offset):
    classes = 2**exponent + (exponent % 2)
    x, target = problem(3, classes, seed=exponent)
    x = x + offset
    exact = F.cross_entropy(x.double(), target, reduction="none")
    loss = cross_entropy(x, target, reduction="none").double()
    assert torch.allclose(loss, exact, rtol=4e-6, atol=0)
    smooth = cross_entropy(x, target, reduction="none", label_smoothing=0.3).double()
    exact = F.cross_entropy(x.double(), target, reduction="none", label_smoothing=0.3)
    assert torch.allclose(smooth, exact, rtol=4e-6, atol=1e-15)  # one class: 0, from differences in float64


def test_a_tiny_loss_keeps_its_digits():
    gap = torch.tensor([1.0, 10.0, 30.0, 80.0])
    x = torch.stack([gap, torch.zeros(4)], -1)
    loss, gradient = with_gradient(cross_entropy, x, torch.zeros(4, dtype=torch.int64), reduction="none")
    exact = torch.log1p(torch.exp(-gap.double()))
    assert torch.allclose(loss.double(), exact, rtol=1e-6, atol=0)
    assert torch.allclose(gradient[:, 0].double(), torch.expm1(-exact), rtol=1e-6, atol=0)


def test_the_largest_logit_rises_through_blocks():
    x = torch.linspace(-200, 300, 20000).expand(4, -1).contiguous()
    target = torch.tensor([0, 5000, 19999, 12345])
    loss, gradient = with_gradient(cross_entropy, x, target, reduction="none")
    exact, exact_gradient = with_gradient(F.cross_entropy, x.double(), target, reduction="none")
    assert torch.allclose(loss.double(), exact, rtol=4e-6, atol=0)
    assert torch.allclose(gradient.double(), exact_gradient, rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ([-INF, 1.0, 2.0], 1),
        ([-INF, 1.0, 2.0], 0),
        ([-INF, -INF, -INF], 0),
        ([INF, 1.0, 2.0], 0),
        ([INF, 1.0, 2.0], 1),
        ([NAN, 1.0, 2.0], 0),
        ([NAN, 1.0, 2.0], 2),
        ([-INF, NAN, -INF], 2),
        ([-INF, 1.0, -INF], 1),
        ([1e30, 1.0, -3e38], 0),
        ([3e38, 1.0, -3e38], 2),
        ([-3e38, -3e38, -3e38], 2),
        ([1e-40, 1e8, 0.0], 1),
    ],
)
def test_special_logits_are_as_in_torch(row, target):
    x, target = torch.tensor([row]), torch.tensor([target])
    for wide in (0, 5000):  # alone, and at the end of a row of several blocks
        y = F.pad(x, (wide, 0), value=-INF)
        loss, gradient = with_gradient(cross_entropy, y, target + wide)
        theirs, their_gradient = with_gradient(F.cross_entropy, y, target + wide)
        assert torch.allclose(loss, theirs, rtol=1e-6, atol=1e-30, equal_nan=True)
        if not theirs.isnan():
            assert torch.allclose(gradient, their_gradient, atol=1e-7)
        else:
            assert gradient.isnan().any()


def test_a_class_of_probability_zero_does_not_count():
    x = torch.tensor([[-INF, 1.0, 2.0]])
    hard, hard_gradient = with_gradient(cross_entropy, x, torch.tensor([1]))
    soft, soft_gradient = with_gradient(cross_entropy, x, torch.tensor([[0.0, 1.0, 0.0]]))
    wide = with_gradient(cross_entropy, x.double(), torch.tensor([[0.0, 1.0, 0.0]]).double())
    assert torch.allclose(hard, soft)
    assert torch.allclose(hard_gradient, soft_gradient)
    assert torch.allclose(hard.double(), wide[0])
    assert torch.allclose(hard_gradient.double(), wide[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_of_shape(dtype):
    x, target = problem(4, 7, dtype=dtype)
    everything = torch.full((4,), -100)
    loss, gradient = with_gradient(cross_entropy, x, everything)
    assert loss.isnan()
    assert (gradient == 0).all()
    assert cross_entropy(x, everything, reduction="sum") == 0
    assert cross_entropy(x[:0], target[:0]).isnan()
    assert cross_entropy(x[:0], target[:0], reduction="none").shape == (0,)
    one, gradient = with_gradient(cross_entropy, x[:, :1], torch.zeros(4, dtype=torch.int64))
    assert one == 0
    assert (gradient == 0).all()
    x[0] = NAN
    target[0] = -100
    loss, gradient = with_gradient(cross_entropy, x, target)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    single = cross_entropy(x[1], target[1], reduction="none")
    assert single.shape == ()
    assert torch.equal(single, cross_entropy(x, target, reduction="none")[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_more_dimensions(dtype, reduction):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 11, 4, 5, generator=g, dtype=dtype)
    for target in (torch.randint(11, (3, 4, 5), generator=g), torch.softmax(x, 1)):
        loss, gradient = with_gradient(cross_entropy, x, target, reduction=reduction)
        theirs, their_gradient = with_gradient(F.cross_entropy, x, target, reduction=reduction)
        assert loss.shape == theirs.shape
        assert torch.allclose(loss, theirs, rtol=1e-5)
        assert torch.allclose(gradient, their_gradient, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_any_layout_gives_the_same_numbers(dtype):
    x, target = problem(9, 130, dtype=dtype)
    loss, gradient = with_gradient(cross_entropy, x, target)
    padded = torch.zeros(18, 150, dtype=dtype)
    for view in (padded[::2, 5:135], padded[:9, :130], torch.zeros(130, 9, dtype=dtype).T):
        view.copy_(x)
        leaf = view.detach().requires_grad_()
        ours = cross_entropy(leaf, target)
        ours.backward()
        assert torch.equal(ours.detach(), loss)
        assert torch.equal(leaf.grad, gradient)
    row = x[:1].expand(9, -1)
    assert torch.allclose(cross_entropy(row, target[:1].expand(9)), cross_entropy(x[:1], target[:1]))


def test_threads_change_nothing():
    x, target = problem(64, 30011)
    alone = with_gradient(cross_entropy, x, target)
    torch.set_num_threads(2)
    results = [None] * 8

    def work(i):
        results[i] = with_gradient(cross_entropy, x, target)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for loss, gradient in results:
        assert torch.equal(loss, alone[0])
        assert torch.equal(gradient, alone[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_place_gradient_is_the_same_and_takes_the_logits(dtype):
    x, target = problem(9, 5000, dtype=dtype)
    target[2] = -100
    loss, gradient = with_gradient(cross_entropy, x, target, label_smoothing=0.1)
    leaf = x.clone().requires_grad_()
    logits = leaf * 1
    ours = cross_entropy(logits, target, label_smoothing=0.1, inplace_backward=True)
    ours.backward(retain_graph=True)
    assert torch.equal(ours.detach(), loss)
    assert torch.equal(leaf.grad, gradient)
    assert torch.equal(logits.detach(), gradient)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        ours.backward()


def test_in_place_is_refused_where_it_would_be_wrong():
    x, target = problem(4, 10)
    leaf = x.clone().requires_grad_()
    with pytest.raises(ValueError, match="leaf"):
        cross_entropy(leaf, target, inplace_backward=True)
    logits = leaf * 1
    other = (logits**2).sum()  # saves the logits, and must not read the gradient instead
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (cross_entropy(logits, target, inplace_backward=True) + other).backward()
    with pytest.raises(ValueError, match="double backward"):
        torch.autograd.grad(cross_entropy(leaf * 1, target, inplace_backward=True), leaf, create_graph=True)


ALL = {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 3.0}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_plain_path_has_the_same_contract(dtype):
    x, target = problem(8, 300, dtype=dtype)
    target[3] = -100
    x[3] = NAN
    for reduction, number in (("mean", 0), ("sum", 1), ("none", 2)):
        ours = with_gradient(cross_entropy, x, target, reduction=reduction, **ALL)
        theirs = with_gradient(lambda x: plain(x, target, None, Terms(-100, number, 0.1, 0.01, 3.0)), x)  # noqa: B023
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            # One rounding to 16 bits apart at most.
            assert torch.allclose(a, b, rtol=2e-6 if a.dtype == torch.float32 else 2**-7, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_out_of_range(dtype):
    x, target = problem(6, 20, dtype=dtype)
    for wrong in (20, -1, 1 << 40):
        target[3] = wrong
        with pytest.raises(ValueError, match=f"targets from 0 to 19.*got {wrong}"):
            cross_entropy(x, target)
        assert cross_entropy(x, target, ignore_index=wrong).isfinite()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"input": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "floating-point"),
        ({"target": [0, 1]}, TypeError, "tensor of class indices"),
        ({"target": torch.zeros(3, dtype=torch.int64)}, ValueError, r"shape \(2,\)"),
        ({"target": torch.zeros(2)}, ValueError, "probabilities of shape"),
        ({"input": torch.tensor(1.0)}, ValueError, "scalar"),
        ({"weight": torch.zeros(2)}, ValueError, "each of the 3 classes"),
        ({"reduction": "avg"}, ValueError, "reduction"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing"),
        ({"z_loss": -1.0}, ValueError, "z_loss"),
        ({"softcap": 0.0}, ValueError, "softcap"),
    ],
)
def test_the_public_door(change, error, message):
    arguments = {"input": torch.zeros(2, 3), "target": torch.zeros(2, dtype=torch.int64), **change}
    with pytest.raises(error, match=message):
        cross_entropy(**arguments)
