# SPDX-License-Identifier: Apache-2.0
"""The loop of the checksum."""

import numpy as np
from numba import types

from steepest.kernels._llvm import _pointer_intrinsic
from steepest.kernels._registry import kernel

#: Words of a row: one row of 4096 bytes fits the first cache, beside what is read.
LANES = 512
#: Odd, so that multiplication modulo 2^64 is one-to-one: 2^64 over the golden ratio.
FACTOR = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)

u64_pointer = _pointer_intrinsic(types.uint64, "Return a pointer to 64-bit words at an address.")


@kernel("void(intp, intp, intp)")
def checksum_rows(source, rows, lanes):
    """Fold rows of words into the lanes."""
    words, folded = u64_pointer(source), u64_pointer(lanes)
    for row in range(rows):
        for i in range(LANES):
            mixed = (folded[i] ^ words[row * LANES + i]) * FACTOR
            folded[i] = mixed ^ (mixed >> _HALF)
