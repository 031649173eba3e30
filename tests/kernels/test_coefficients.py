import mpmath as mp
import numpy as np
import pytest

from steepest.kernels import _coefficients as k

mp.mp.dps = 30


def tail(q):
    a = 3 * (1 + q) / (1 - q)
    return (a + 3) * mp.erfc(a / mp.sqrt(2)) / 2 * mp.exp(a * a / 2)


def small_erf(s):
    return mp.erf(mp.sqrt(s)) / mp.sqrt(s) if s > 0 else 2 / mp.sqrt(mp.pi)


#: Polynomial -> the function that it makes from t and the value of the polynomial, and that function exactly.
USES = {
    "EXP": (lambda t, p: p, mp.exp),
    "EXP2": (lambda t, p: p, lambda t: mp.mpf(2) ** t),
    "EXPM1": (lambda t, p: t + t * t * p, mp.expm1),
    "LOG": (lambda f, p: f - f * f / 2 + f**3 * p, mp.log1p),
    "ERF_SMALL": (lambda s, p: 1 + p, small_erf),
    "ERF_LARGE": (lambda x, p: 1 - mp.exp(x * p - x), mp.erf),
    "PHI": (lambda q, p: p + k.PHI_LOW.item(), tail),
}


def test_every_polynomial_is_measured():
    assert {name for name, value in vars(k).items() if isinstance(value, k.Polynomial)} == set(USES)


@pytest.mark.parametrize("name", USES)
def test_stated_error_is_the_measured_one(name):
    polynomial, (use, exact) = getattr(k, name), USES[name]
    low, high = polynomial.interval
    points = (low + high) / 2 + (high - low) / 2 * np.cos(np.pi * np.arange(401) / 400)
    worst = 0
    for point in points:
        t = mp.mpf(float(point))
        if t == 0:
            continue
        value = mp.polyval([mp.mpf(c.item()) for c in reversed(polynomial.coefficients)], t)
        worst = max(worst, abs(use(t, value) / exact(t) - 1))
    assert 0.8 * polynomial.error <= worst <= polynomial.error


def test_split_constants_add_up():
    ln2, two = mp.log(2), mp.mpf(2)
    for high, low, value, error in (
        (k.LN2_HI, k.LN2_LO, ln2, -48),
        (k.LN2_SHORT, k.LN2_REST, ln2, -43),
        (k.SQRT2, k.SQRT2_LOW, mp.sqrt(2), -48),
        (k.GELU_RATIO, k.GELU_RATIO_LOW, 1 / mp.mpf("0.044715"), -40),
        (k.GELU_LN2, k.GELU_LN2_LOW, ln2 / (2 * mp.sqrt(2 / mp.pi) * mp.mpf("0.044715")), -44),
    ):
        assert abs(mp.mpf(high.item()) + mp.mpf(low.item()) - value) < two**error
    assert abs(mp.mpf(k.LOG2E.item()) * ln2 - 1) < two**-24
    assert abs(mp.mpf(k.TWO_OVER_SQRT_PI.item()) - 2 / mp.sqrt(mp.pi)) < two**-24
    # e * LN2_SHORT is exact for every exponent: at most 15 bits times at most 8 bits.
    assert int(k.LN2_SHORT * 2**15) == k.LN2_SHORT * 2**15
