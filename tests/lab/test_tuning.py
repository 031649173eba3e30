"""Range test, optimum and its sureness, and what a rate becomes at another width."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from steepest.lab import Budget, base_config, method_of, optimum, range_test, scaling_of, transferred, tune
from steepest.lab.range_test import around, stepper
from steepest.optim import Muon
from tests.lab.small import small_comparison


def quadratic(curvature):
    w = [1.0]

    def step(lr):
        loss, w[0] = curvature * w[0] ** 2 / 2, (1 - lr * curvature) * w[0]
        return loss

    return step


@pytest.mark.parametrize("curvature", [0.1, 1.0, 30.0])
def test_the_loss_turns_where_descent_becomes_unstable(curvature):
    found = range_test(quadratic(curvature), low=1e-4 / curvature, high=1e4 / curvature, steps=160, memory=0.0)
    assert found.stopped
    # Descent on a quadratic is stable below 2 / curvature.
    assert 0.5 / curvature < found.turning < 2.5 / curvature
    low, high = around(found)
    assert high / low == pytest.approx(64, rel=0.02)


def test_a_range_that_ends_too_low_says_that_nothing_stopped_it():
    found = range_test(quadratic(1.0), low=1e-6, high=1e-3)
    assert not found.stopped
    assert found.turning == found.lrs[-1]
    with pytest.raises(ValueError, match="low < high"):
        range_test(quadratic(1.0), low=1.0, high=0.1)
    with pytest.raises(ValueError, match="not finite"):
        range_test(lambda lr: math.nan, low=0.1, high=1.0)


def test_a_parabola_is_found_to_rounding():
    found = optimum([(2.0**k, 3 + 0.2 * (k - 0.3) ** 2) for k in range(-4, 4)], noise=0.0)
    assert found.lr == pytest.approx(2**0.3, rel=1e-12)
    assert found.loss == pytest.approx(3.0, rel=1e-12)
    assert found.curvature == pytest.approx(0.4, rel=1e-9)
    assert found.interval == pytest.approx((found.lr, found.lr))


def test_the_interval_holds_the_optimum_as_often_as_it_says():
    rng, hits = np.random.default_rng(3), 0
    for seed in range(40):
        true = rng.uniform(-1, 1)
        points = [(2.0**k, 0.05 * (k - true) ** 2 + 0.03 * rng.standard_normal()) for k in range(-4, 5)]
        found = optimum(points, noise=0.03, seed=seed)
        if found.interval:
            hits += found.interval[0] <= 2**true <= found.interval[1]
    assert hits >= 0.8 * 40


def test_noise_edges_and_flat_losses_make_it_unsure():
    curve = [(2.0**k, 0.05 * k**2) for k in range(-3, 4)]
    assert optimum(curve, noise=0.001).verdict == "sure"
    assert optimum(curve, noise=0.5).factor > optimum(curve, noise=0.01).factor
    edge = optimum([(2.0**k, float(-k)) for k in range(5)], noise=0.01)
    assert (edge.at_edge, edge.verdict) == (True, "not sure")
    assert "smallest or largest" in edge.explained
    # The largest finite rate is no edge if the next one diverged.
    assert not optimum([(1.0, 3.0), (2.0, 2.0), (4.0, 1.0), (8.0, math.inf)], noise=0.01).at_edge
    with pytest.raises(ValueError, match="at least three"):
        optimum([(1.0, 1.0), (2.0, math.inf), (4.0, 1.0)], noise=0.1)


def test_rates_of_the_wider_model_are_those_of_its_optimizer(tmp_path):
    run = base_config("nano", 10)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, vocab_size=64))
    method = method_of("muon")
    scale = transferred(run, method, 0.04, 256)
    scaling = scaling_of(run.model)
    model = scaling.build(256)
    adam_lr = 0.04 * method.adam_lr_ratio
    groups = scaling.param_groups(model, Muon([torch.nn.Parameter(torch.ones(2, 2))]).rule, others_lr=adam_lr)
    optimizer = Muon(groups, lr=0.04)
    theirs = {
        (group["role"], float(f"{group['lr'] * group.get('lr_factor', 1.0):.4g}")) for group in optimizer.param_groups
    }
    assert {(row.role, row.lr) for row in scale.rows} == theirs
    assert sum(row.count for row in scale.rows) == len(list(model.parameters()))
    head = next(row for row in scale.rows if row.role == "head")
    assert (head.lr_factor, head.init_factor) == (0.25, 0.25)
    with pytest.raises(ValueError, match="multiple of the size of a head"):
        transferred(run, method, 0.04, 65)


def test_a_rate_for_a_small_model_on_text(tmp_path):
    run = small_comparison(tmp_path).run
    method, budget = method_of("adamw"), Budget(trials=3, extra_trials=0, seeds=2, workers=0)
    found = tune(tmp_path / "t", method, run, budget=budget, width=32)
    written = json.loads((tmp_path / "t" / "recommendation.json").read_text())
    assert written["optimum"]["lr"] == found.optimum.lr
    assert found.transfer is not None
    assert found.transfer.width == 32
    ends = json.loads((tmp_path / "t" / "range_test.json").read_text())["range"]
    assert ends[0] * 0.99 <= found.optimum.lr <= ends[1] * 1.01
    # Called again, nothing runs and the answer is the same.
    assert tune(tmp_path / "t", method, run, budget=budget, width=32) == found
    # The stepper of the range test starts where the run starts.
    first = json.loads((tmp_path / "t" / "runs" / "adamw-search-00" / "metrics.jsonl").read_text().split("\n")[0])
    assert stepper(run)(1e-3) == pytest.approx(first["loss"], rel=1e-5)
