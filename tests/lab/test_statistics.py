import numpy as np
import pytest
from scipy import stats

from steepest.lab import Comparison
from steepest.lab.statistics import bootstrap_interval, holm, paired_p


def test_the_paired_test_is_scipys():
    rng = np.random.default_rng(1)
    for n in (2, 3, 5, 20):
        a, b = rng.normal(size=n), rng.normal(size=n)
        assert paired_p(a, b) == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-10)


def test_a_difference_without_spread():
    assert paired_p([1.0, 2.0], [1.0, 2.0]) == 1.0
    assert paired_p([1.5, 2.5], [1.0, 2.0]) == 0.0


def test_holm_by_hand():
    # m = 4: .005 * 4, .01 * 3, .03 * 2, then .04 * 1 raised to the one before.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_holm_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest", reason="statsmodels is not installed")
    p = np.random.default_rng(3).random(9) ** 3
    mine = holm({str(i): float(x) for i, x in enumerate(p)})
    assert list(mine.values()) == pytest.approx(multitest.multipletests(p, method="holm")[1].tolist(), rel=1e-12)


def test_the_interval_is_scipys_and_covers():
    x = np.random.default_rng(4).normal(size=30)
    theirs = stats.bootstrap((x,), np.mean, method="percentile", n_resamples=10_000, rng=0).confidence_interval
    assert bootstrap_interval(x) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    covered = 0
    for seed in range(200):
        low, high = bootstrap_interval(np.random.default_rng(seed).normal(size=25))
        covered += low <= 0 <= high
    assert 176 <= covered <= 196  # 95 % of 200 is 190; the percentile interval of 25 values is slightly narrow


def simulated(rng, methods, seeds, effect=0.0):
    """Losses by method and seed: a part shared by the seed, and a method's own noise."""
    shared = 0.02 * rng.normal(size=seeds)
    losses = {str(m): 1.8 + shared + 0.01 * rng.normal(size=seeds) for m in range(methods)}
    losses["1"] = losses["1"] + effect
    return losses


def called_different(losses, alpha=Comparison.alpha):
    p = holm({name: paired_p(values, losses["0"]) for name, values in losses.items() if name != "0"})
    return any(value <= alpha for value in p.values())


@pytest.mark.parametrize(("methods", "seeds"), [(2, 3), (2, 5), (6, 3)])
def test_a_method_against_itself_is_called_different_in_at_most_five_percent(methods, seeds):
    # At a level of 5 % more than 10 of 200 would be wrong four times in ten; at the default of 2 % once in 400.
    rng = np.random.default_rng(2026)
    assert sum(called_different(simulated(rng, methods, seeds)) for _ in range(200)) <= 10
    wrong = sum(called_different(simulated(rng, methods, seeds), alpha=0.05) for _ in range(2000))
    assert wrong / 2000 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


def test_a_real_difference_is_found():
    rng = np.random.default_rng(5)
    found = sum(called_different(simulated(rng, 3, 5, effect=0.05)) for _ in range(200))
    assert found >= 180


@pytest.mark.parametrize("wrong", [[1.0], [1.0, float("nan")], []])
def test_what_cannot_be_tested_is_refused(wrong):
    with pytest.raises(ValueError, match="at least two"):
        bootstrap_interval(wrong)
