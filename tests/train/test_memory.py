import sys

import psutil
import pytest
import torch

from steepest.train.memory import keep_freed_memory, memory_kept


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_memory_stays_while_kept_and_goes_afterwards():
    size = 256 << 20

    def resident() -> int:
        return psutil.Process().memory_info().rss

    before = resident()
    with memory_kept():
        block = torch.ones(size, dtype=torch.uint8)
        del block
        assert resident() > before + size // 2
    assert resident() < before + size // 2


def test_results_do_not_depend_on_it():
    x = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    expected = x @ x
    keep_freed_memory()
    assert torch.equal(x @ x, expected)
    keep_freed_memory(False)
    assert torch.equal(x @ x, expected)
