import numba
import numpy as np
import pytest

from steepest.kernels import _llvm, _registry
from steepest.kernels._erf import erfc_f32, gelu_f32, normal_cdf_f32
from steepest.kernels._exp import exp_f32, extexp_f32
from steepest.kernels._llvm import (
    bfloat_from_f32,
    bits_f32,
    copysign,
    f32_bits,
    f32_from_bfloat,
    f32_from_half,
    f32_pointer,
    fma,
    half_from_f32,
    horner,
    max_or_second,
    maximum,
    maxnum,
    min_or_second,
    minimum,
    power_of_two,
    rint,
    scale,
    select,
    store_fence,
    stream_line,
)
from steepest.kernels._registry import Kernel, kernel
from steepest.kernels._rows import lane_add
from steepest.kernels._sigmoid import gelu_tanh_f32, silu_f32
from tests.kernels.accuracy import REFERENCES, measure

F32, NAN, INF = np.float32, np.float32(np.nan), np.float32(np.inf)
COEFFICIENTS = (F32(1), F32(2), F32(3))


@numba.njit
def scalars(a, b, c):
    return fma(a, b, c), rint(a), maximum(a, b), minimum(a, b), max_or_second(a, b), min_or_second(a, b), maxnum(a, b)


@numba.njit
def more(a, n):
    return scale(a, n), f32_bits(bits_f32(a)), copysign(a, n), select(a > n, a, n), horner(a, COEFFICIENTS)


@numba.njit
def powers(n):
    return power_of_two(n)


@numba.njit
def round_trips(bits, x):
    return (
        half_from_f32(f32_from_half(bits)),
        bfloat_from_f32(f32_from_bfloat(bits)),
        half_from_f32(x),
        bfloat_from_f32(x),
    )


def test_fma_rounds_once_and_rint_rounds_to_even():
    a = F32(1 + 2**-12)
    assert scalars(a, a, -F32(1 + 2**-11))[0] == F32(2**-24)
    assert [scalars(F32(v), F32(0), F32(0))[1] for v in (0.5, 1.5, 2.5, -0.5, 3.4)] == [0, 2, 2, 0, 3]


def test_the_order_of_nan():
    one = F32(1)
    _, _, maximum_, minimum_, first, least, number = scalars(NAN, one, one)
    assert np.isnan([maximum_, minimum_]).all()
    assert (first, least, number) == (1, 1, 1)
    _, _, maximum_, minimum_, first, least, number = scalars(one, NAN, one)
    assert np.isnan([maximum_, minimum_, first, least]).all()
    assert number == 1
    assert np.signbit(scalars(F32(-0.0), F32(0.0), one)[3])


@pytest.mark.parametrize("vector", [True, False])
def test_scale_rounds_once_like_ldexp(vector, monkeypatch):
    monkeypatch.setattr(_llvm, "HAS_VECTOR_LDEXP", vector)
    compiled = numba.njit(lambda a, n: scale(a, n))
    rng = np.random.default_rng(0)
    for a, n in zip(rng.uniform(0.5, 2, 500).astype(F32), rng.integers(-170, 150, 500), strict=True):
        with np.errstate(over="ignore", under="ignore"):
            expected = F32(np.ldexp(np.float64(a), n))
        assert compiled(a, F32(n)) == expected
    assert np.isnan(compiled(NAN, NAN))
    assert compiled(F32(0), F32(-150)) == 0


def test_bits_powers_and_horner():
    assert more(F32(1.5), F32(-2)) == (F32(0.375), F32(1.5), F32(-1.5), F32(1.5), F32(10.75))
    assert [powers(F32(n)) for n in (-126, -1, 0, 127)] == [2.0**-126, 0.5, 1, 2.0**127]


def test_sixteen_bit_floats():
    if not _llvm.HAS_FLOAT16:
        pytest.skip("this CPU cannot convert float16")
    every = np.arange(1 << 16, dtype=np.uint16)
    for bits in every[::17]:
        half, bfloat, *_ = round_trips(bits, F32(0))
        is_nan = np.isnan(bits.view(np.float16))
        assert (half == bits) if not is_nan else np.isnan(np.uint16(half).view(np.float16))
        widened = np.array([np.uint32(bits) << 16], dtype=np.uint32).view(F32)[0]
        assert bfloat == bits or np.isnan(widened)
    for x, half, bfloat in ((1 + 2**-11, 0x3C00, 0x3F80), (1 + 2**-8, 0x3C04, 0x3F80), (1 + 3 * 2**-8, 0x3C0C, 0x3F82)):
        assert round_trips(np.uint16(0), F32(x))[2:] == (half, bfloat)
    assert np.isnan(np.array([round_trips(np.uint16(0), NAN)[3] << 16], dtype=np.uint32).view(F32))[0]


@numba.njit
def streamed(source, target, lines):
    for i in range(lines):
        stream_line(target + 64 * i, source + 64 * i)
    store_fence()


def test_streaming_stores_copy():
    source, target = np.arange(70, dtype=F32), np.zeros(96, F32)
    offset = -target.ctypes.data % 64
    streamed(source.ctypes.data + 4, target.ctypes.data + offset, 4)
    np.testing.assert_array_equal(target[offset // 4 : offset // 4 + 64], source[1:65])
    assert (target != 0).sum() == 64
    assert "vmovnt" in (code := next(iter(streamed.inspect_asm().values()))) or "stnp" in code or "movnt" in code


DEVICE = {
    "silu": silu_f32, "gelu": gelu_f32, "gelu_tanh": gelu_tanh_f32, "normal_cdf": normal_cdf_f32, "erfc": erfc_f32
}  # fmt: skip


def elementwise(function):
    @numba.njit(nogil=True, error_model="numpy")
    def loop(x, y):
        for i in range(x.size):
            y[i] = function(x[i])

    def call(x):
        y = x.clone()
        loop(x.numpy(), y.numpy())
        return y

    return call


@pytest.mark.parametrize("name", DEVICE)
def test_error_of_device_functions_over_some_patterns(name):
    assert measure(elementwise(DEVICE[name]), REFERENCES[name][0], one_in=512).largest <= REFERENCES[name][1]


@pytest.mark.slow
@pytest.mark.parametrize("name", DEVICE)
def test_error_of_device_functions_over_all_patterns(name):
    assert measure(elementwise(DEVICE[name]), REFERENCES[name][0], one_in=1).largest <= REFERENCES[name][1]


@numba.njit
def pair(x):
    return extexp_f32(x)


def test_extended_exponential_reaches_far_beyond_float32():
    for x in (-1e5, -200.0, 0.0, 3.0, 1e5):
        m, n = pair(F32(x))
        assert 0.7 <= m <= 1.42
        assert abs(np.log2(float(m)) + float(n) - x / np.log(2)) < 1e-6
    assert np.isnan(pair(NAN)[0])


@kernel("float64(intp, intp, intp)")
def sum_of_exponentials_for_the_test(x_address, start, stop):
    x = f32_pointer(x_address)
    total = 0.0
    for i in range(start, stop):
        total += np.float64(exp_f32(x[i]))
    return total


@kernel("void(intp, intp, intp, intp)")
def shifted_exp_for_the_test(x_address, y_address, start, stop):
    x, y = f32_pointer(x_address), f32_pointer(y_address)
    for i in range(start, stop):
        y[i] = exp_f32(x[i]) + F32(1)


def test_a_loop_in_another_file_inlines_and_vectorizes():
    assert isinstance(shifted_exp_for_the_test, Kernel)
    x = np.linspace(-3, 3, 100, dtype=F32)
    y = np.empty_like(x)
    shifted_exp_for_the_test.run(x.ctypes.data, y.ctypes.data, 0, x.size)
    np.testing.assert_allclose(y, np.exp(x) + 1, rtol=1e-6)
    total = sum_of_exponentials_for_the_test.run(x.ctypes.data, 0, x.size)
    assert abs(total - np.exp(x.astype(float)).sum()) < 1e-4
    fresh = numba.njit(shifted_exp_for_the_test.signature, **_registry._COMMON)(shifted_exp_for_the_test.function)
    code = next(iter(fresh.inspect_asm().values()))
    register = "zmm" if _llvm.HAS_VECTOR_LDEXP else "ymm" if "ymm" in code else "fmla"
    arithmetic = [line for line in code.splitlines() if register in line and ("fmadd" in line or "fmla" in line)]
    assert len(arithmetic) >= 6, "the Horner steps must be vector instructions"


@pytest.mark.skipif(not _llvm.host_has("avx512f"), reason="the processor has no registers of 512 bits")
def test_loops_of_device_functions_have_512_bits_too():
    # Numba vectorizes a device function before it is inlined.
    @_registry.device
    def sum_of_squares(x, n):
        total = F32(0)
        for i in range(n):
            total = lane_add(total, x[i] * x[i])
        return total

    def add(address, n):
        return sum_of_squares(f32_pointer(address), n)

    made = numba.njit("float32(intp, intp)", **_registry._COMMON)(add)
    x = np.arange(100, dtype=F32)
    assert made(x.ctypes.data, 100) == (x.astype(float) ** 2).sum()
    code = next(iter(made.inspect_asm().values()))
    assert any("zmm" in line and ("vfmadd" in line or "vmul" in line) for line in code.splitlines())
