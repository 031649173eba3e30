from typing import get_args

from steepest.optim.schedules import Kind
from steepest.train.config import SCHEDULES, TrainConfig
from steepest.train.schedule import schedule_of


def test_every_setting_of_a_run_reaches_its_schedule():
    config = TrainConfig(steps=100, warmup=10, schedule="wsd", decay_fraction=0.4, final_lr=0.1)
    factors = [schedule_of(config)(step) for step in range(100)]
    assert factors[4] == 0.5
    assert all(factor == 1 for factor in factors[10:61])
    assert abs(factors[80] - (0.1 + 0.9 * 0.5)) < 1e-12


def test_the_configuration_knows_all_schedules():
    assert get_args(Kind) == SCHEDULES
