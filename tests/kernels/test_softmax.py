# SPDX-License-Identifier: Apache-2.0
import math
import os
import subprocess
import sys

import pytest
import torch

from steepest.functional import log_softmax, logsumexp, softmax, softmax_
from steepest.kernels import softmax as module
from steepest.kernels._caches import Caches, caches, read_caches
from steepest.kernels._softmax_op import ALGORITHMS, ONLINE, ONLINE_RELOAD, SINGLE_WRITE, best_algorithm

NAMED = [name for name in ALGORITHMS if name != "auto"]
INF, NAN = math.inf, math.nan
LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 127, 1000, 1023, 1024, 1025, 4096, 5000, 131072, 1 << 20]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning"),
    # opcheck looks at `.grad` of tensors that are not leaves.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"),
]


def normal(*shape, seed=0, dtype=torch.float32, scale=1.0):
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale).to(dtype)


def relative_error(y, x, dim=-1):
    exact = torch.softmax(x.double(), dim)
    return ((y.double() - exact).abs() / exact)[exact > 1e-36].max().item()


@pytest.mark.parametrize("algorithm", NAMED)
@pytest.mark.parametrize("n", LENGTHS)
def test_error_does_not_grow_with_length(n, algorithm):
    for scale in (2.0, 4.0):
        x = normal(2 if n < 1 << 17 else 1, n, seed=n, scale=scale)
        assert relative_error(softmax(x, algorithm=algorithm), x) <= 5e-7


@pytest.mark.parametrize("algorithm", NAMED)
def test_blocks_far_apart_are_brought_together(algorithm):
    # Rising, falling, and with blocks that vanish beside another: what an online sum corrects again and again.
    for step in (60.0, -60.0, 0.5, 200.0):
        x = normal(2, 6000) + step * (torch.arange(6000) // 1024)
        assert relative_error(softmax(x, algorithm=algorithm), x) <= 5e-7
        x[:, :1500] = -INF
        assert relative_error(softmax(x, algorithm=algorithm), x) <= 5e-7


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", NAMED)
def test_error_at_the_largest_length(algorithm):
    x = torch.randn(1 << 26, generator=torch.Generator().manual_seed(0)) * 2
    assert relative_error(softmax(x, algorithm=algorithm), x) <= 5e-7


@pytest.mark.parametrize("algorithm", NAMED)
def test_error_of_equal_terms_which_round_alike(algorithm):
    for n in (3, 4096, 100_003, 1 << 20):
        x = torch.full((n,), 1.2345)
        assert relative_error(softmax(x, algorithm=algorithm), x) <= 1e-6
        x = torch.linspace(-80, 80, n)
        assert relative_error(softmax(x, algorithm=algorithm), x) <= 5e-7
        x = torch.linspace(-60000, 60000, n)
        assert relative_error(softmax(x, algorithm=algorithm), x) <= 5e-7


@pytest.mark.parametrize("algorithm", NAMED)
@pytest.mark.parametrize("n", [5, 16, 70, 3000])
@pytest.mark.parametrize(
    "special",
    [[-INF], [1e30], [-3e38], [-3.4e38, 3.4e38], [1e8], [7e4], [-7e4], [INF], [NAN], [NAN, -INF], [NAN, INF], [1e-40]],
)
def test_special_values_are_torchs(special, n, algorithm):
    for place in (0, n // 2, n - len(special)):
        x = normal(2, n)
        x[0, place : place + len(special)] = torch.tensor(special)
        y = softmax(x, algorithm=algorithm)
        torch.testing.assert_close(y, torch.softmax(x.double(), -1).float(), rtol=1e-6, atol=1e-44, equal_nan=True)
        if special == [-INF]:
            assert y[0, place] == 0
        torch.testing.assert_close(
            log_softmax(x, algorithm=algorithm),
            torch.log_softmax(x.double(), -1).float(),
            rtol=1e-6,
            atol=1e-6,
            equal_nan=True,
        )
        expected = torch.logsumexp(x.double(), -1).float()
        torch.testing.assert_close(logsumexp(x), expected, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("algorithm", NAMED)
@pytest.mark.parametrize("offset", [-3e38, -1e30, -1e6, -65537.0, 65537.0, 1e6, 1e30, 3e38])
def test_rows_far_from_zero(offset, algorithm):
    spacing = torch.finfo(torch.float32).eps * abs(offset)
    x = offset + torch.arange(2000, dtype=torch.float32) % 7 * spacing
    y = softmax(x, algorithm=algorithm)
    torch.testing.assert_close(y, torch.softmax(x.double(), -1).float(), rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("algorithm", NAMED)
def test_masked_rows(algorithm):
    for n in (1, 16, 33, 2000):
        x = normal(3, n)
        x[1] = -INF
        y = softmax(x, algorithm=algorithm)
        assert y[1].isnan().all()
        assert not y[[0, 2]].isnan().any()
        assert (softmax(x, algorithm=algorithm, masked_rows="zero")[1] == 0).all()
        assert (log_softmax(x, algorithm=algorithm, masked_rows="zero")[1] == -INF).all()
        assert log_softmax(x, algorithm=algorithm)[1].isnan().all()
        x[1, -1] = NAN
        assert softmax(x, algorithm=algorithm, masked_rows="zero")[1].isnan().all()
        assert logsumexp(x)[1].isnan()
    x = torch.full((2, 5), -INF, requires_grad=True)
    for dtype in (torch.float32, torch.float64):
        for function in (softmax, log_softmax):
            (grad,) = torch.autograd.grad(
                function(x, masked_rows="zero", dtype=dtype), x, torch.ones(2, 5, dtype=dtype)
            )
            assert (grad == 0).all()
    (grad,) = torch.autograd.grad(logsumexp(x).sum(), x)
    assert (grad == 0).all()


def test_subnormal_results_are_kept():
    x = torch.tensor([0.0] * 20 + [-90.0, -95.0, -100.0, -103.0, -120.0])
    for algorithm in NAMED:
        y = softmax(x, algorithm=algorithm)
        exact = torch.softmax(x.double(), -1)
        assert ((y.double() - exact).abs() <= 1.5 * 2.0**-149 + 5e-7 * exact).all()
        assert y[20] > 0
        assert y[-1] == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("algorithm", NAMED)
def test_sixteen_bit_results_are_rounded_once(dtype, algorithm):
    for n in (1, 17, 500, 5000):
        x = normal(3, n, dtype=dtype, scale=3)
        assert torch.equal(softmax(x, algorithm=algorithm), softmax(x.float(), algorithm=algorithm).to(dtype))
        assert torch.equal(log_softmax(x), log_softmax(x.float()).to(dtype))
        assert torch.equal(logsumexp(x), logsumexp(x.float()).to(dtype))


@pytest.mark.parametrize("algorithm", ["auto", *NAMED])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_layouts_and_dims(dtype, algorithm):
    base = normal(6, 8, 34, dtype=dtype)
    saved = base.clone()
    unaligned = base.flatten()[3 : 3 + 40].view(2, 20)
    views = [
        base,
        base.permute(2, 0, 1),
        base[:, ::2],
        base[:, :1].expand(6, 4, 34),
        base[:0],
        base[..., :0],
        unaligned,
    ]
    for x in [*views, base[0, 0, 0], base[..., :1]]:
        for dim in range(-x.ndim, max(x.ndim, 1)):
            y = softmax(x, dim, algorithm=algorithm)
            assert (y.shape, y.dtype) == (x.shape, dtype)
            assert y.is_contiguous()
            tolerance = {"rtol": 1e-2 if dtype.itemsize == 2 else 1e-6, "atol": 1e-2 if dtype.itemsize == 2 else 1e-6}
            torch.testing.assert_close(y, torch.softmax(x, dim), **tolerance)
            torch.testing.assert_close(log_softmax(x, dim), torch.log_softmax(x, dim), **tolerance)
            torch.testing.assert_close(logsumexp(x, dim), torch.logsumexp(x, dim), **tolerance)
            torch.testing.assert_close(logsumexp(x, dim, True), torch.logsumexp(x, dim, True), **tolerance)
    assert torch.equal(base, saved)


def test_logsumexp_over_several_dims_and_extremes():
    x = normal(3, 4, 5)
    for keepdim in (False, True):
        torch.testing.assert_close(logsumexp(x, (0, -1), keepdim), torch.logsumexp(x, (0, -1), keepdim))
    rows = torch.tensor([[INF, 1.0], [INF, -INF], [INF, NAN], [-INF, -INF], [1e30, 1e30], [-3e38, -3e38]])
    torch.testing.assert_close(logsumexp(rows), torch.logsumexp(rows, -1), equal_nan=True)


@pytest.mark.parametrize("n", [7, 5000, 1 << 20])
def test_log_softmax_and_logsumexp_keep_their_digits(n):
    x = normal(2, n, scale=4)
    exact = torch.log_softmax(x.double(), -1)
    for algorithm in NAMED:
        error = (log_softmax(x, algorithm=algorithm).double() - exact).abs()
        assert (error / exact.abs().clamp(min=1.0)).max() <= 2.4e-7
    exact = torch.logsumexp(x.double(), -1)
    assert ((logsumexp(x).double() - exact) / exact).abs().max() <= 2e-7


def test_mask_and_temperature():
    x = normal(2, 3, 5, 40)
    for shape in [(5, 40), (2, 1, 5, 40), (40,), (2, 3, 5, 1), (1, 3, 1, 40), (), (2, 3, 5, 40)]:
        mask = normal(*shape, seed=1)
        mask = torch.where(mask > 1, -INF, mask) if shape and shape[-1] == 40 else mask
        for dim in (-1, 1):
            for function, plain in ((softmax, torch.softmax), (log_softmax, torch.log_softmax)):
                expected = plain(x.double() / 0.7 + mask, dim).float()
                y = function(x, dim, mask=mask, temperature=0.7)
                torch.testing.assert_close(y, expected, rtol=2e-6, atol=1e-6, equal_nan=True)
                y = function(x.bfloat16(), dim, mask=mask.bfloat16())
                assert y.dtype is torch.bfloat16
    for algorithm in NAMED:
        y = softmax(x, algorithm=algorithm, temperature=2.0)
        torch.testing.assert_close(y, torch.softmax(x / 2, -1), rtol=2e-6, atol=0)
        far = softmax(torch.tensor([1e30, -3e38, 0.0]), temperature=3.0, algorithm=algorithm)
        assert torch.equal(far, torch.tensor([1.0, 0, 0]))


@pytest.mark.parametrize(
    ("ours", "plain"), [(softmax, torch.softmax), (log_softmax, torch.log_softmax), (logsumexp, torch.logsumexp)]
)
def test_torch_func_gives_the_right_answers(ours, plain):
    x = normal(5, 7)

    def tower(f, v):
        return torch.func.vmap(torch.func.grad(lambda row: f(row, -1).square().sum()))(v)

    torch.testing.assert_close(tower(ours, x), tower(plain, x))
    torch.testing.assert_close(torch.func.vmap(lambda v: ours(v, 0), in_dims=1)(x), ours(x.t(), 1))
    torch.testing.assert_close(
        torch.func.jacfwd(lambda v: ours(v, -1))(x), torch.func.jacrev(lambda v: plain(v, -1))(x)
    )


@pytest.mark.parametrize("function", [softmax, log_softmax, logsumexp])
def test_compiles_into_one_graph(function):
    x = normal(4, 33).requires_grad_()
    for dim in (0, -1):
        torch._dynamo.reset()
        compiled = torch.compile(lambda v, dim=dim: function(v * 1.0, dim) + 1, fullgraph=True, backend="aot_eager")
        y = compiled(x)
        weight = normal(*y.shape, seed=2)
        (grad,) = torch.autograd.grad(y, x, weight)
        (expected,) = torch.autograd.grad(function(x, dim), x, weight)
        assert torch.equal(y, function(x, dim) + 1)
        torch.testing.assert_close(grad, expected, rtol=1e-6, atol=1e-7)


def test_compiles_with_a_mask():
    x, mask = normal(4, 33).requires_grad_(), normal(33, seed=1).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda v, m: softmax(v, mask=m, temperature=0.5).square(), fullgraph=True, backend="aot_eager"
    )
    mine = torch.autograd.grad(compiled(x, mask).sum(), (x, mask))
    expected = torch.autograd.grad(softmax(x, mask=mask, temperature=0.5).square().sum(), (x, mask))
    torch.testing.assert_close(mine, expected)


def test_operators_keep_torchs_rules():
    x = normal(3, 5).requires_grad_()
    ops = torch.ops.steepest
    for name in ("softmax", "log_softmax"):
        operator, gradient = getattr(ops, name).default, getattr(ops, f"{name}_gradient").default
        torch.library.opcheck(operator, (x, 1, None, 1.0, -1, False))
        torch.library.opcheck(operator, (x.detach().t(), 0, normal(5, 1), 0.5, 2, True))
        torch.library.opcheck(
            gradient, (normal(3, 5, seed=1).requires_grad_(), operator(x, 1, None, 1.0, -1, False), 1, 1.0)
        )
    torch.library.opcheck(ops.logsumexp.default, (x, 0))


def test_in_place():
    for algorithm in ["auto", *NAMED]:
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            x = normal(3, 1000, dtype=dtype)
            expected = softmax(x, algorithm=algorithm)
            assert softmax_(x, algorithm=algorithm) is x
            assert torch.equal(x, expected)
    x = normal(4, 6)
    expected = softmax(x, 0)
    assert torch.equal(softmax_(x.t(), 1), expected.t())
    with pytest.raises(RuntimeError, match="gradient"):
        softmax_(normal(3).requires_grad_())


def test_in_place_on_a_saved_tensor_is_noticed():
    w = normal(5).requires_grad_()
    x = normal(5)
    y = w * x
    softmax_(x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_streaming_writes_the_same_bits():
    from steepest.kernels import _softmax_kernels as kernels

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for n in (5, 100, 3001):
            x = normal(3, n, dtype=dtype)
            for code in SINGLE_WRITE:
                plain, streamed = torch.empty_like(x), torch.empty_like(x)
                for y, flag in ((plain, 0), (streamed, 1)):
                    kernels.SOFTMAX[dtype, False].run(x.data_ptr(), y.data_ptr(), n, code, NAN, flag, 0, 3)
                assert torch.equal(plain, streamed)


def test_laws():
    x = normal(3, 1000, scale=3)
    y = softmax(x)
    torch.testing.assert_close(y.double().sum(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-7)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(softmax(x[:, order]), y[:, order], rtol=5e-7, atol=0)
    whole = (x * 1024).round() / 1024
    torch.testing.assert_close(softmax(whole + 64), softmax(whole), rtol=1e-6, atol=0)


def test_auto_goes_by_the_caches():
    assert best_algorithm(4096, wide=True) == best_algorithm(4096, wide=False) == ONLINE_RELOAD
    assert best_algorithm(100 * caches().last, wide=True) == ONLINE
    assert best_algorithm(3 * caches().last, wide=True) == ONLINE_RELOAD
    assert best_algorithm(3 * caches().last, rows=2, wide=True) == ONLINE
    assert best_algorithm(caches().last, rows=100, wide=True) == ONLINE_RELOAD
    assert best_algorithm(100 * caches().last, wide=False) == ONLINE_RELOAD


def test_caches_are_read_from_sysfs(tmp_path):
    assert read_caches(tmp_path) == Caches()
    for i, (level, kind, size) in enumerate([("1", "Data", "48K"), ("2", "Unified", "2M"), ("3", "Unified", "36864K")]):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(value + "\n")
    assert read_caches(tmp_path) == Caches(second=2 << 20, last=36 << 20)
    (tmp_path / "index3").mkdir()
    assert read_caches(tmp_path) == Caches(second=2 << 20, last=36 << 20)


def test_wrong_arguments_are_refused():
    x = normal(2, 3)
    with pytest.raises(TypeError, match="floating-point"):
        softmax(torch.ones(3, dtype=torch.int64))
    with pytest.raises(TypeError, match="keep"):
        softmax(x, mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="two_pass"):
        softmax(x, algorithm="three_pass")
    with pytest.raises(ValueError, match="masked_rows"):
        log_softmax(x, masked_rows="one")
    with pytest.raises(ValueError, match="temperature"):
        softmax(x, temperature=0.0)
    with pytest.raises(ValueError, match="broadcast"):
        softmax(x, mask=normal(4, 2, 3))
    with pytest.raises(IndexError, match="dim"):
        softmax(x, 2)
    with pytest.raises(ValueError, match="once"):
        logsumexp(x, (0, -2))
    assert softmax(torch.ones(3, dtype=torch.int64), dtype=torch.float32).dtype is torch.float32


@pytest.mark.slow
def test_without_avx512_the_answers_keep_the_bound():
    """The same kernels compiled for a processor without vscalefps, in a process of their own."""
    program = (
        "import torch; from steepest.functional import softmax\n"
        "torch.set_num_threads(1); x = torch.randn(3, 5003, generator=torch.Generator().manual_seed(0)) * 4\n"
        "x[0, 7] = -torch.inf; x[1, 3] = -3e38; exact = torch.softmax(x.double(), -1)\n"
        "for name in ('two_pass', 'online', 'three_pass_reload', 'three_pass_recompute'):\n"
        "    error = ((softmax(x, algorithm=name) - exact).abs() / exact)[exact > 1e-36].max()\n"
        "    assert error <= 5e-7, (name, error)\n"
    )
    features = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma,+f16c"
    settings = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": features}
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, **settings}, timeout=300)


def test_public_names():
    assert module.__all__ == ["log_softmax", "logsumexp", "softmax", "softmax_"]
