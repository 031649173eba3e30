# SPDX-License-Identifier: Apache-2.0
"""Every constant of the elementary functions: what it approximates, where, in which normalisation, how well.

The polynomials are weighted minimax fits (linear programming over 400 to 600 Chebyshev points), their coefficients
rounded to float32 one at a time from the lowest up, the rest fitted again after each. `error` is the largest relative
error of the *function*, in exact arithmetic with the rounded coefficients. `tests/kernels/test_coefficients.py`
measures each again with mpmath.
"""

from dataclasses import dataclass

import numpy as np

F32 = np.float32


def _f32(*values: float) -> tuple[np.float32, ...]:
    return tuple(F32(value) for value in values)


@dataclass(frozen=True)
class Polynomial:
    """Float32 coefficients, lowest first, of what `meaning` says, on `interval`, with relative error `error`."""

    meaning: str
    interval: tuple[float, float]
    error: float
    coefficients: tuple[np.float32, ...]


LOG2E = F32(1.4426950408889634)
#: ln 2 = LN2_HI + LN2_LO to 2^-53; LN2_HI has 21 significant bits, so an integer times it is exact up to 2^3 and, with
#: fma, the reduction x - n ln 2 rounds once.
LN2_HI = F32(float.fromhex("0x1.62E43p-1"))
LN2_LO = F32(float.fromhex("-0x1.05C61p-29"))
#: The same with 15 bits in front, for e * LN2_SHORT exact for every exponent e.
LN2_SHORT = F32(float.fromhex("0x1.62E4p-1"))
LN2_REST = F32(float.fromhex("0x1.7F7D1Cp-20"))

EXP = Polynomial(
    "e^t; the first two coefficients are exactly 1",
    (-0.3466, 0.3466),
    3.2e-9,
    _f32(
        1.0,
        1.0,
        0.4999999403953552,
        0.1666652113199234,
        0.041668254882097244,
        0.008368661627173424,
        0.0013821452157571912,
    ),
)
EXP2 = Polynomial(
    "2^t",
    (-0.5, 0.5),
    3.1e-9,
    _f32(
        1.0,
        0.6931471824645996,
        0.24022647738456726,
        0.05550359934568405,
        0.009618505835533142,
        0.0013390806270763278,
        0.0001532647293061018,
    ),
)
EXPM1 = Polynomial(
    "(e^t - 1 - t) / t^2, error relative to e^t - 1",
    (-0.3466, 0.3466),
    4.4e-10,
    _f32(
        0.5,
        0.1666666567325592,
        0.04166649281978607,
        0.008333547040820122,
        0.0013932324945926666,
        0.00019760630675591528,
    ),
)
LOG = Polynomial(
    "(ln(1 + f) - f + f^2 / 2) / f^3, error relative to ln(1 + f)",
    (-0.2929, 0.41422),
    7.8e-10,
    _f32(
        0.3333331346511841,
        -0.25000008940696716,
        0.20002073049545288,
        -0.16667990386486053,
        0.14220312237739563,
        -0.12406177073717117,
        0.11883928626775742,
        -0.11670621484518051,
        0.06748899817466736,
    ),
)
ERF_SMALL = Polynomial(
    "erf(x) / x - 1 in s = x^2, error relative to erf",
    (0.0, 0.8649),
    8.7e-10,
    _f32(
        0.12837916612625122,
        -0.37612631916999817,
        0.11283697187900543,
        -0.026860099285840988,
        0.00520329037681222,
        -0.0008169611683115363,
        8.480929682264104e-05,
    ),
)
ERF_LARGE = Polynomial(
    "ln(erfc(x)) / x + 1, error relative to erf",
    (0.92, 3.95),
    3.0e-9,
    _f32(
        -0.1285143494606018,
        -0.6357183456420898,
        -0.10526181757450104,
        0.022889958694577217,
        -0.0032149574253708124,
        0.00021398556418716908,
    ),
)
#: Phi is the standard normal distribution function; the first coefficient is PHI_LOW more than its float32.
PHI = Polynomial(
    "(a + 3) Phi(-a) e^(a^2 / 2) in q = (a - 3) / (a + 3)",
    (-1.0, 0.6859),
    2.1e-9,
    _f32(
        0.729083695016274,
        -0.509332001209259,
        0.23001770675182343,
        -0.04726244881749153,
        -0.010462618432939053,
        0.006967775523662567,
        0.001024887547828257,
        -0.0010288429912179708,
        -0.00024377462978009135,
        0.00012819175026379526,
        5.278562821331434e-05,
    ),
)
PHI_LOW = F32(0.7290836903800424 - float(PHI.coefficients[0]))
#: 2 sqrt(2 / pi) and 0.044715 times it, for the tanh form of GELU, x sigmoid(x (GELU_LINEAR + GELU_CUBIC x^2)).
GELU_LINEAR = F32(1.5957691216057308)
GELU_CUBIC = F32(0.07135481627260025)
#: The same as GELU_CUBIC x (x^2 + GELU_RATIO + GELU_RATIO_LOW). GELU_RATIO is a multiple of 2^-15, so that it can be
#: taken off x^2 + GELU_RATIO without rounding, and exponents are reduced in units of GELU_CUBIC: by
#: ln 2 / GELU_CUBIC = GELU_LN2 + GELU_LN2_LOW.
GELU_RATIO = F32(732819 * 2.0**-15)
GELU_RATIO_LOW = F32(22.363860002236386 - float(GELU_RATIO))
GELU_LN2 = F32(9.714091028023696)
GELU_LN2_LOW = F32(9.714091028023696 - float(GELU_LN2))
SQRT2 = F32(2.0**0.5)
SQRT2_LOW = F32(2.0**0.5 - float(SQRT2))
TWO_OVER_SQRT_PI = F32(1.1283791670955126)
