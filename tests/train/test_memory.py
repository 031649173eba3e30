import subprocess
import sys

import pytest
import torch

from steepest.train.memory import keep_freed_memory

# In a process of its own: what earlier tests freed would be used again and hide the effect.
KEEP_AND_GIVE_BACK = """
import psutil, torch
from steepest.train.memory import memory_kept
size = 256 << 20
resident = lambda: psutil.Process().memory_info().rss
before = resident()
with memory_kept():
    block = torch.ones(size, dtype=torch.uint8)
    del block
    assert resident() > before + size // 2
assert resident() < before + size // 2
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_memory_stays_while_kept_and_goes_afterwards():
    subprocess.run([sys.executable, "-c", KEEP_AND_GIVE_BACK], check=True, timeout=120)


def test_results_do_not_depend_on_it():
    x = torch.randn(300, 300, generator=torch.Generator().manual_seed(0))
    expected = x @ x
    keep_freed_memory()
    assert torch.equal(x @ x, expected)
    keep_freed_memory(False)
    assert torch.equal(x @ x, expected)
