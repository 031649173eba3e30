import dataclasses
import math
from typing import get_args

import pytest

from steepest.train.offload.cost import DiskRates, StepCost, Way, efficiency, intensities, step_seconds

STEP = StepCost(forward=1, backward=2, update=0.5, read=8e9, write=12e9, gradients=4e9, pieces=1000, checked=1e10)
DISK = DiskRates(read=2e9, write=1e9, both=2e9)
INFINITE = DiskRates(read=math.inf, write=math.inf)


def test_the_published_efficiencies():
    """The two worked examples of the paper, which fix the constants."""
    ait = intensities(tokens=1024, width=8192)
    assert efficiency(ait["weights and gradients"], 70e9, 70e12) == pytest.approx(0.506, abs=5e-4)
    two = intensities(tokens=2 * 1024, width=8192)
    assert efficiency(two["optimizer states"], 1.5e12, 70e12) == pytest.approx(0.916, abs=5e-4)


@pytest.mark.parametrize("way", get_args(Way))
def test_a_disk_without_end_costs_nothing_but_what_cannot_overlap(way):
    step = dataclasses.replace(STEP, checked=math.inf)
    expected = {"overlapped": 1 + 2}.get(way, 1 + 2 + 0.5)
    assert step_seconds(way, step, INFINITE) == pytest.approx(expected)


def test_a_slow_disk_alone_decides():
    times = {way: step_seconds(way, STEP, DISK) for way in get_args(Way)}
    # 12 s of writing, 4 s of reading, 10 s for both at once at 2 GB/s.
    assert times["serial"] == pytest.approx(3.5 + 16 + 2)
    assert times["pipelined"] == pytest.approx(3 + 12 + 0.016)
    assert times["overlapped"] == pytest.approx(1 + 12 + 0.016)
    assert times["gradients on disk"] == pytest.approx(1 + 4 + 12 + 0.016)


def test_no_way_beats_memory_by_more_than_the_update_and_overlap_never_loses():
    for rate in (1e8, 1e9, 1e10, 1e11):
        disk = DiskRates(read=rate, write=rate, both=1.5 * rate)
        times = {way: step_seconds(way, STEP, disk) for way in get_args(Way)}
        assert times["overlapped"] <= times["pipelined"] <= times["serial"]
        assert times["overlapped"] >= times["memory"] - STEP.update


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="read"):
        DiskRates(read=0, write=1)
    with pytest.raises(ValueError, match="peak"):
        efficiency(1, 1, 0)
