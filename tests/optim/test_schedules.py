import math
from typing import get_args

import numpy as np
import pytest
import torch

from steepest.optim import AdamW, Schedule
from steepest.optim.schedules import Kind
from tests.optim.gradients import parameters

KINDS = get_args(Kind)


def course(kind, steps, **settings) -> np.ndarray:
    return np.array([Schedule(kind=kind, steps=steps, **settings)(t) for t in range(steps)])


def last_iterate_bound(factors: np.ndarray) -> float:
    """Best bound of the last iterate of subgradient descent, in units of D G / sqrt T (Defazio et al., theorem 10)."""
    total, squares = factors.sum(), factors**2
    first = 1 / (2 * total)
    second = squares.sum() / (2 * total)
    behind = np.cumsum(factors[::-1])[::-1]
    behind_squares = np.cumsum(squares[::-1])[::-1]
    third = 0.5 * sum(
        factors[k] / behind[k + 1] * behind_squares[k] / behind[k] for k in range(len(factors) - 1) if behind[k + 1] > 0
    )
    return 2 * math.sqrt(first * (second + third)) * math.sqrt(len(factors))


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_to_one_and_nothing_leaves_the_unit_interval(kind):
    factors = course(kind, 200, warmup=20, final=0.1)
    assert factors[:20] == pytest.approx((np.arange(20) + 1) / 20)
    assert factors[20] == 1
    assert ((factors > 0) & (factors <= 1)).all()
    assert (np.diff(factors[20:]) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_is_the_final_fraction_and_stays(kind):
    schedule = Schedule(kind=kind, steps=50, warmup=5, final=0.25)
    end = 1.0 if kind == "constant" else 0.25
    assert [schedule(t) for t in (50, 51, 10**6)] == pytest.approx([end] * 3)


def test_each_kind_against_its_formula():
    assert course("linear", 110, warmup=10, final=0.2)[60] == pytest.approx(0.6)
    assert course("cosine", 110, warmup=10, final=0.2)[35] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    wsd = course("wsd", 100, warmup=10, decay_fraction=0.2)
    assert (wsd[10:81] == 1).all()
    assert wsd[[90, 99]] == pytest.approx([0.5, 0.05])
    fall = course("1-sqrt", 100, warmup=10, decay_fraction=0.2, final=0.1)
    assert (fall[10:81] == 1).all()
    assert fall[90] == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.5)))
    assert (course("constant", 30) == 1).all()


@pytest.mark.parametrize(
    ("kind", "settings", "bounds"),
    [
        ("linear", {}, (2.051, 2.013)),
        ("1-sqrt", {"decay_fraction": 1.0}, (2.062, 2.025)),
        ("cosine", {}, (2.112, 2.068)),
        ("wsd", {}, (2.254, 2.187)),
        ("constant", {}, (2.380, 2.751)),
    ],
)
def test_bounds_of_the_last_iterate_are_the_published_ones(kind, settings, bounds):
    """The theory orders the shapes: linear is best, and close to 2; constant grows with the logarithm of T."""
    found = [last_iterate_bound(course(kind, steps, **settings)) for steps in (60, 400)]
    assert found == pytest.approx(bounds, abs=2e-3)


def test_schedules_drive_torchs_scheduler_and_resume():
    params = parameters([(2, 2)])
    schedule = Schedule(kind="cosine", steps=10, warmup=3)
    optimizer = AdamW(params, lr=0.5)
    driver = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    seen = []
    for _ in range(10):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        driver.step()
    assert seen == pytest.approx(list(0.5 * course("cosine", 10, warmup=3)))
    other = torch.optim.lr_scheduler.LambdaLR(AdamW(params, lr=0.5), Schedule(kind="linear", steps=4))
    other.load_state_dict(driver.state_dict())
    assert other.lr_lambdas == [schedule]


def test_short_runs():
    assert course("linear", 1, warmup=50).tolist() == [1.0]
    assert course("constant", 2).tolist() == [1.0, 1.0]
    assert course("wsd", 2).tolist() == [1.0, 1.0]
    assert course("1-sqrt", 1).tolist() == [1.0]


@pytest.mark.parametrize(
    "settings",
    [{"kind": "lineer"}, {"steps": 0}, {"warmup": -1}, {"final": 1.5}, {"decay_fraction": 0.0}],
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Schedule(**{"steps": 10, **settings})
