import math

import pytest

from steepest.train.config import TrainConfig
from steepest.train.schedule import lr_factor


def course(**settings) -> list[float]:
    config = TrainConfig(**settings)
    return [lr_factor(step, config) for step in range(config.steps)]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd", "constant"])
def test_warm_up_rises_to_one_and_nothing_leaves_the_unit_interval(schedule):
    factors = course(steps=200, warmup=20, schedule=schedule, final_lr=0.1)
    assert factors[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert factors[20] == 1
    assert all(0 < f <= 1 for f in factors)
    assert sorted(factors[20:], reverse=True) == factors[20:]


def test_linear_and_cosine_against_their_formulas():
    linear = course(steps=110, warmup=10, schedule="linear", final_lr=0.2)
    assert linear[60] == pytest.approx(0.6)
    cosine = course(steps=110, warmup=10, schedule="cosine", final_lr=0.2)
    assert cosine[35] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)


def test_wsd_stays_and_then_falls_over_the_last_part():
    factors = course(steps=100, warmup=10, schedule="wsd", decay_fraction=0.2)
    assert all(f == 1 for f in factors[10:81])
    assert factors[90] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0.05)


def test_short_runs_and_no_warm_up():
    assert course(steps=1, warmup=50) == [1.0]
    assert course(steps=2, warmup=0, schedule="constant") == [1.0, 1.0]
