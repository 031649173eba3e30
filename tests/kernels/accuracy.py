"""Ulp error of a float32 function against a float64 reference, over all 2^32 inputs or a hashed 1/64 of them.

err = |y - f(x)| / ulp(f(x)) with ulp(r) = 2^(floor(log2 |r|) - 23), and 2^-149 below 2^-126. An infinite y counts as
2^128. NaN where the reference has none, or none where it has one, is an infinite error; so is a zero or infinity of the
wrong sign. The reference is a float64 library function, whose own error is about 2^-28 of a float32 ulp.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numba
import numpy as np
import torch

CHUNK = 1 << 20
EDGES = (
    0.0,
    2.0**-149,
    2.0**-126,
    2.0**-25,
    2.0**-13,
    0.34657359,
    0.5,
    0.925,
    1.0,
    10.0,
    16.0,
    87.33654,
    88.72283,
    103.97208,
    126.0,
    128.0,
    149.0,
    3.4028235e38,
)


@dataclass(frozen=True)
class Error:
    """The largest error over a set of inputs, and where: for normal results and for subnormal ones apart."""

    normal: float
    normal_at: float
    subnormal: float
    subnormal_at: float

    @property
    def largest(self) -> float:
        return max(self.normal, self.subnormal)


#: 1 / ulp for every exponent field of the float64 reference.
_PER_ULP = 2.0 ** (23 - np.maximum(np.arange(2048) - 1023.0, -126.0))
_LARGEST = 2.0**128


@numba.njit(error_model="numpy")
def _worst(x, y, reference, bits, per_ulp, worst, where):
    for i in range(x.size):
        r, v = reference[i], float(y[i])
        if abs(v) == np.inf:
            v = np.copysign(_LARGEST, v)
        if abs(r) > _LARGEST:
            r = np.copysign(_LARGEST, r)
        error = abs(v - r) * per_ulp[(bits[i] >> 52) & 2047]
        if (np.signbit(v) != np.signbit(r)) and (v == 0 or r == 0):
            error = np.inf
        if error != error:
            error = 0.0 if r != r and v != v else np.inf
        slot = 1 if abs(r) < 2.0**-126 else 0
        if error > worst[slot]:
            worst[slot] = error
            where[slot] = x[i]


def patterns(one_in: int, part: tuple[int, int] = (0, 1)) -> Iterator[np.ndarray]:
    """Yield chunks of float32: of each `one_in` neighbouring patterns one, by a hash; edges and specials always.

    `part` (i, n) is the i-th of n equal parts, for runs that must be short.
    """
    bits = np.array(EDGES, dtype=np.float32).view(np.uint32).astype(np.int64)
    near = (bits[:, None] + np.arange(-40, 41)).ravel()
    near = near[(near >= 0) & (near < 1 << 31)].astype(np.uint32)
    specials = np.array([np.inf, np.nan], dtype=np.float32).view(np.uint32)
    edges = np.concatenate([near, specials])
    yield np.concatenate([edges, edges | np.uint32(1 << 31)]).view(np.float32)
    chunks = range(0, (1 << 32) // one_in, CHUNK)
    for start in chunks[part[0] * len(chunks) // part[1] : (part[0] + 1) * len(chunks) // part[1]]:
        group = np.arange(start, start + CHUNK, dtype=np.uint32)
        offset = ((group * np.uint32(2654435761)) >> np.uint32(16)) % np.uint32(one_in)
        yield (group * np.uint32(one_in) + offset).view(np.float32)


def measure(
    function: Callable[[torch.Tensor], torch.Tensor],
    reference: Callable[[torch.Tensor], torch.Tensor],
    *,
    one_in: int = 64,
    part: tuple[int, int] = (0, 1),
) -> Error:
    """Return the largest error of `function` (float32 to float32) against `reference` (float64 to float64)."""
    worst, where = np.zeros(2), np.zeros(2)
    for x in patterns(one_in, part):
        inputs = torch.from_numpy(x)
        y, r = function(inputs), reference(inputs.double())
        r = r.numpy()
        _worst(x, y.numpy(), r, r.view(np.int64), _PER_ULP, worst, where)
    return Error(float(worst[0]), float(where[0]), float(worst[1]), float(where[1]))


def _silu(x):
    return torch.where(x == -torch.inf, -0.0, x / (1 + torch.exp(-x)))


def _gelu(x):
    from scipy.special import ndtr

    phi = torch.from_numpy(ndtr(x.numpy()))
    # ndtr is 0 where the product still matters nowhere in float32; -inf * 0 is the limit -0.
    return torch.where(x < -40, -0.0, x * phi)


def _gelu_tanh(x):
    u = 2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x * x * x)
    return torch.where(x < -40, -0.0, x / (1 + torch.exp(-u)))


def _cdf(x):
    from scipy.special import ndtr

    return torch.from_numpy(ndtr(x.numpy()))


def _erfc(x):
    from scipy.special import erfc

    return torch.from_numpy(erfc(x.numpy()))


#: Device function's name -> (float64 reference, bound in ulp).
REFERENCES = {
    "exp": (torch.exp, 1.0),
    "exp2": (torch.exp2, 1.0),
    "expm1": (torch.expm1, 1.0),
    "log": (torch.log, 1.0),
    "log1p": (torch.log1p, 1.0),
    "tanh": (torch.tanh, 1.0),
    "sigmoid": (lambda x: 1 / (1 + torch.exp(-x)), 2.0),
    "erf": (torch.erf, 2.0),
    "softplus": (lambda x: torch.relu(x) + torch.log1p(torch.exp(-x.abs())), 2.0),
    "silu": (_silu, 2.0),
    "gelu": (_gelu, 2.0),
    "gelu_tanh": (_gelu_tanh, 2.0),
    "normal_cdf": (_cdf, 2.0),
    "erfc": (_erfc, 2.0),
}
