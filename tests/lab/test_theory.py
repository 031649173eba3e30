import itertools
import json
import math

import numpy as np
import pytest

from steepest.lab.theory import factors_of, last_iterate_bound, optimal_lr_for, refine_schedule, refined
from steepest.optim import Schedule

STEPS = (60, 400, 10_000)
#: Lowest bound in units of D G / sqrt(T), worked out from the theorem independently of this code.
TABLE = {
    "constant": (2.380, 2.751, 3.284),
    "1/sqrt": (2.182, 2.445, 2.872),
    "linear": (2.051, 2.013, 2.001),
    "cosine": (2.112, 2.068, 2.060),
    "wsd": (2.254, 2.187, 2.161),
    "1-sqrt": (2.062, 2.025, 2.015),
}


def factors(kind, steps):
    t = np.arange(steps)
    if kind == "1/sqrt":
        return 1 / np.sqrt(t + 1)
    if kind == "1-sqrt":
        return 1 - np.sqrt(t / steps)
    return factors_of(Schedule(kind=kind, steps=steps), steps)


def naive(f, g, distance, lr):
    eta = [lr * x for x in f]
    total = sum(eta)
    first = (distance**2 + sum((e * n) ** 2 for e, n in zip(eta, g, strict=True))) / (2 * total)
    rest = 0.0
    for k in range(len(eta) - 1):
        squares = sum((eta[t] * g[t]) ** 2 for t in range(k, len(eta)))
        rest += eta[k] / sum(eta[k + 1 :]) * squares / sum(eta[k:])
    return first + rest / 2


@pytest.mark.parametrize("kind", TABLE)
def test_lowest_bounds_to_three_digits(kind):
    found = [last_iterate_bound(factors(kind, steps)).lowest * math.sqrt(steps) for steps in STEPS]
    assert found == pytest.approx(TABLE[kind], abs=6e-4)


def test_the_bound_is_the_double_sum_for_any_norms():
    rng = np.random.default_rng(0)
    f, g = rng.random(40), rng.random(40) + 0.1
    bound = last_iterate_bound(f, distance=1.7, gradient_norms=g)
    for lr in (0.01, bound.lr, 3.0):
        assert bound.at(lr) == pytest.approx(naive(f, g, 1.7, lr), rel=1e-12)
    assert bound.at(bound.lr) == pytest.approx(bound.lowest, rel=1e-12)
    assert min(bound.at(0.9 * bound.lr), bound.at(1.1 * bound.lr)) > bound.lowest


def test_a_constant_schedule_has_its_closed_form():
    steps = 50
    harmonic = sum(1 / k for k in range(1, steps))
    bound = last_iterate_bound(np.ones(steps))
    assert bound.gradients == pytest.approx(0.5 * (1 + harmonic), rel=1e-12)
    assert bound.distance == pytest.approx(1 / (2 * steps), rel=1e-12)


def test_the_best_rate_scales_with_distance_and_gradients():
    f = factors("cosine", 100)
    assert optimal_lr_for(f, distance=6.0, gradient_norms=2.0) == pytest.approx(3 * optimal_lr_for(f), rel=1e-12)


def test_steps_of_size_zero_at_the_end_change_nothing():
    assert last_iterate_bound([1.0, 0.5, 0.0, 0.0]) == last_iterate_bound([1.0, 0.5])


@pytest.mark.parametrize("wrong", [[], [0.0], [-1.0, 1.0], [math.inf]])
def test_what_is_no_schedule_is_refused(wrong):
    with pytest.raises(ValueError, match="factors"):
        last_iterate_bound(wrong)


def test_equal_norms_give_linear_decay_and_falling_ones_a_warm_up():
    assert refined(np.full(11, 3.0)) == pytest.approx(np.linspace(1, 0, 11))
    t = np.arange(200.0)
    shape = refined(1 + 9 * np.exp(-t / 20))
    assert shape[0] < 0.2
    assert shape.max() == 1.0
    assert 20 < shape.argmax() < 100
    assert shape[-1] == 0.0


def test_refinement_lowers_the_bound_for_the_norms_it_came_from():
    g = 1 + 9 * np.exp(-np.arange(500.0) / 30)
    better = last_iterate_bound(refined(g, window=1), gradient_norms=g).lowest
    assert better < last_iterate_bound(factors("linear", 500), gradient_norms=g).lowest


def test_one_outlier_does_not_move_it():
    g = np.full(101, 2.0)
    g[50] = 1e6
    assert refined(g, window=5) == pytest.approx(np.linspace(1, 0, 101))


def test_a_schedule_from_a_run_folder(tmp_path):
    rows = [
        {"kind": "train", "step": s, "tokens": s, "seconds": s, "bits_per_byte": 1.0, "grad_norm": 2.0}
        for s in range(5, 101, 5)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    schedule = refine_schedule(tmp_path)
    assert schedule.steps == 100
    assert (schedule(0), schedule(99)) == (1.0, 0.0)
    assert schedule(52) == pytest.approx(0.495, abs=0.02)


@pytest.mark.slow
def test_the_order_of_schedules_on_hinge_loss():
    pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    from steepest.studies._hinge import ORDER, last_losses, ordered

    losses = {kind: last_losses(kind, steps=20_000, seeds=40) for kind in ORDER}
    assert not [kind for kind, found in losses.items() if found.at_edge]
    for first, second in itertools.pairwise(ORDER):
        difference, error = ordered(losses[first], losses[second])
        # linear and cosine are close: about 2.5 standard errors apart; the others are further from one another.
        assert difference > (2 if first == "linear" else 4) * error, (first, second, difference, error)
