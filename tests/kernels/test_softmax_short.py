# SPDX-License-Identifier: Apache-2.0
"""Short rows, of which softmax and log-softmax compute four at once: each row is what it would be alone."""

import math
import os
import subprocess
import sys

import pytest
import torch

from steepest.functional import log_softmax, softmax, softmax_

INF, NAN = math.inf, math.nan
LENGTHS = [*range(1, 36), 47, 48, 49, 63, 64, 65, 100, 255, 256, 257, 511, 512, 513]
#: Where a row of 11 has what makes it no ordinary one.
SPECIALS = {0: [NAN], 2: [INF], 3: [-INF], 6: [1e30, -1e30], 7: [-3e38], 9: [7e4], 10: [-7e4]}


def rows(n: int, dtype: torch.dtype, *, special: bool) -> torch.Tensor:
    x = torch.randn(23, n, generator=torch.Generator().manual_seed(n)) * 4
    if special:
        for row, values in SPECIALS.items():
            for i, value in enumerate(values):
                x[row, (row + i) % n] = value
        x[4] = -INF
        x[5, : n // 2] = -INF
        x[11] = NAN
        x[12] += 60_000
        x[13] -= 60_000
    return x.to(dtype)


def bits(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.isnan(), -1.0, x.float())


@pytest.mark.parametrize("n", LENGTHS)
def test_error(n):
    x = rows(n, torch.float32, special=False)
    exact = torch.softmax(x.double(), -1)
    assert ((softmax(x).double() - exact).abs() / exact).max() <= 3e-7
    exact = torch.log_softmax(x.double(), -1)
    assert ((log_softmax(x).double() - exact).abs() / (exact.abs() + 1)).max() <= 1.5e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("n", LENGTHS)
def test_a_row_does_not_depend_on_the_others(n, dtype):
    mask = torch.linspace(-1, 1, n)
    for special in (False, True):
        x = rows(n, dtype, special=special)
        for settings in ({}, {"masked_rows": "zero"}, {"mask": mask}, {"temperature": 0.7}):
            together = softmax(x, algorithm="three_pass_reload", **settings)
            alone = torch.cat([softmax(row, algorithm="three_pass_reload", **settings) for row in x.split(1)])
            assert torch.equal(bits(together), bits(alone))
            together = log_softmax(x, **settings)
            alone = torch.cat([log_softmax(row, **settings) for row in x.split(1)])
            assert torch.equal(bits(together), bits(alone))
        torch.testing.assert_close(
            softmax(x).float(), torch.softmax(x.double(), -1).float(), rtol=1e-2, atol=1e-4, equal_nan=True
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", [3, 16, 33, 512])
def test_in_place(n, dtype):
    x = rows(n, dtype, special=True)
    expected = softmax(x, algorithm="three_pass_reload")
    assert torch.equal(bits(softmax_(x)), bits(expected))


def test_nothing_is_written_outside_of_the_rows():
    for n in (1, 5, 15, 16, 17, 31, 100):
        room = torch.full((4 * n + 64,), 7.0)
        x = room[32 : 32 + 4 * n].view(4, n)
        softmax_(x)
        assert (room[:32] == 7).all()
        assert (room[32 + 4 * n :] == 7).all()
        torch.testing.assert_close(x.sum(1), torch.ones(4))


PROGRAM = """
import torch
from steepest.functional import cross_entropy, log_softmax, softmax
torch.set_num_threads(1)
for n in (1, 7, 15, 16, 17, 31, 32, 33, 48, 100, 512, 1024, 2048):
    x = torch.randn(9, n, generator=torch.Generator().manual_seed(n)) * 4
    exact = torch.softmax(x.double(), -1)
    assert ((softmax(x) - exact).abs() / exact).max() <= 3e-7, n
    assert ((log_softmax(x) - exact.log()).abs() / (exact.log().abs() + 1)).max() <= 1.5e-7, n
    leaf, wide, target = x.requires_grad_(), x.detach().double().requires_grad_(), torch.arange(9) % n
    loss, expected = cross_entropy(leaf, target), torch.nn.functional.cross_entropy(wide, target)
    loss.backward()
    expected.backward()
    assert (loss - expected).abs() <= 3e-7 * expected + 1e-12, n
    assert ((leaf.grad - wide.grad).abs() <= 4e-7 * wide.grad.abs() + 1e-12).all(), n
"""


def test_the_same_on_registers_of_256_bits():
    """In a process of its own, whose kernels are compiled for a processor without AVX-512."""
    features = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+avx,+avx2,+fma,+f16c"
    settings = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": features}
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env={**os.environ, **settings}, timeout=300)
