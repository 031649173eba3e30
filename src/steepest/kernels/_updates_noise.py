# SPDX-License-Identifier: Apache-2.0
"""Counter-based random bits in torch: 16 bits an element, a function of (seed, offset, tensor, element) alone.

The kernels make the same bits in vector registers, so a result depends neither on the route nor on the threads.
"""

from typing import NamedTuple

import torch
from torch import Tensor

#: An odd number near 2^32 divided by the golden ratio: the distance between the counters of two neighbours.
STEP = 0x9E3779B9
#: Multipliers of a 32-bit finalizer with low bias (Wellons, 2018, "lowbias32").
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
_M32, _M64 = (1 << 32) - 1, (1 << 64) - 1


class Noise(NamedTuple):
    """Where the random bits of one call come from; two calls with the same pair use the same bits.

    Attributes:
        seed: Any integer; its low 64 bits count.
        offset: Any integer, different for each call: the number of the step, for example.
    """

    seed: int
    offset: int


def _finalize(z: int) -> int:
    # The output function of splitmix64 (Steele, Lea and Flood, 2014).
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _M64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _M64
    return z ^ (z >> 31)


def noise_key(noise: Noise | None, tensor: int, stream: int) -> int:
    """Return the 64-bit key of a tensor's random bits.

    Args:
        noise: Seed and offset; None gives 0, which nobody uses.
        tensor: Position in the list.
        stream: 0 for the states, 1 for the parameter and the largest second moment.

    Returns:
        A number in [0, 2^64).
    """
    if noise is None:
        return 0
    z = _finalize((noise.seed + 0x9E3779B97F4A7C15) & _M64)
    z = _finalize((z + noise.offset * 0xD1B54A32D192ED03) & _M64)
    return _finalize((z + (2 * tensor + stream + 1) * 0x9E3779B97F4A7C15) & _M64)


def noise_bits(key: int, like: Tensor) -> Tensor:
    """Return 32 random bits for each element, counted in row-major order.

    Args:
        key: From `noise_key`.
        like: Gives shape and device.

    Returns:
        int64 in [0, 2^32), shape of `like`.
    """
    low, high = key & _M32, key >> 32
    x = torch.arange(like.numel(), dtype=torch.int64, device=like.device).mul_(STEP).add_(low).bitwise_and_(_M32)
    x ^= x >> 16
    x.mul_(MULTIPLIERS[0]).bitwise_and_(_M32)
    x ^= (x >> 15) ^ high
    x.mul_(MULTIPLIERS[1]).bitwise_and_(_M32)
    x ^= x >> 16
    return x.view(like.shape)
