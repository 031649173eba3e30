"""The soak for a short while; `python -m benchmarks.soak --minutes 60` is the long one."""

import pytest

from benchmarks.soak import soak, verdict


@pytest.mark.slow
def test_memory_and_files_stay_as_they_are_and_the_result_is_that_of_an_undisturbed_run(tmp_path):
    found = soak(tmp_path, 120)
    assert found["same_bits"], found
    assert found["status"] == 143
    assert found["train"]["flat"], found
    assert found["report"]["flat"], found


def test_a_leak_is_seen():
    """Of memory and of files, and neither in a steady process."""
    steady = [(float(i), (200 << 20) + (i * 7919) % 65536, 20) for i in range(200)]
    assert verdict(steady)["flat"]
    assert not verdict([(t, memory + int(t) * 100_000, files) for t, memory, files in steady])["flat"]
    assert not verdict([(t, memory, files + int(t) // 20) for t, memory, files in steady])["flat"]
