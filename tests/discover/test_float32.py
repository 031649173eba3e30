import math

import numba
import numpy as np
import pytest

from steepest.discover import Options, Program, Settings, Target
from steepest.discover.baselines import known_exp2
from steepest.discover.float32 import Float32Problem, exhaustive, largest_error, tune, ulp
from steepest.discover.kernel import compare_speed, compiled, exp_loop, house_exp, relative_time
from steepest.discover.program import PORT
from steepest.evolve import Serial, evolve
from steepest.kernels import _coefficients

EXP = Target("exp")
X = np.linspace(*EXP.ends, 4001, dtype=np.float32)


def horner_in_exact_steps(x):
    """Return the kernels' polynomial in float64 steps, each rounded to float32."""
    value = np.full_like(x, _coefficients.EXP.coefficients[-1])
    for c in reversed(_coefficients.EXP.coefficients[:-1]):
        value = (value.astype(np.float64) * x.astype(np.float64) + np.float64(c)).astype(np.float32)
    return value


def test_ulp_is_the_distance_of_neighbours():
    assert ulp(np.array([1.5, 1e30])).tolist() == np.spacing(np.array([1.5, 1e30], np.float32)).tolist()
    assert ulp(np.array([3e-39, 1e-45])).tolist() == [2.0**-149] * 2


def test_house_program_is_the_house_polynomial():
    want = horner_in_exact_steps(X)
    exact = np.exp(X.astype(np.float64))
    assert largest_error(house_exp(), EXP, X) == pytest.approx((np.abs(want - exact) / ulp(exact)).max(), rel=1e-6)


def test_compiled_program_rounds_as_the_interpreter():
    program = known_exp2()
    f = compiled(program)
    loop = numba.njit(lambda x: f(x))
    want = program.with_constants(program.floats.astype(np.float32))
    for x in X[::400]:
        assert float(loop(x)) == float(want(x))


def test_the_whole_exponential_is_within_one_ulp():
    x = np.linspace(-87, 88, 50001, dtype=np.float32)
    out = np.empty_like(x)
    exp_loop(house_exp())(x, out)
    want = np.exp(x.astype(np.float64))
    assert (np.abs(out - want) / ulp(want)).max() < 0.9


def test_tuning_mends_spoilt_bits():
    house = house_exp()
    spoilt = house.with_constants(house.floats * (1 + 3e-6))
    before, after = (largest_error(p, EXP, X) for p in (spoilt, tune(spoilt, EXP, tries=1500, points=500)))
    assert before > 10
    assert after < 1.0


def test_exhaustive_counts_every_number():
    line = Program((("fma", (0, 2, 1)),), ((1.0, 0.0), (1.0, 0.0)))
    low, high = 2.0**-12, 2.0**-11
    found = exhaustive(line, Target("exp", (low, high)))
    assert found.tested == 2**23 + 1
    x = np.float32(found.at)
    error = abs(float(np.float32(1) + x) - math.exp(float(x))) / 2.0**-23
    assert found.ulp == pytest.approx(error)
    both = exhaustive(line, Target("exp", (-high, high)), smallest=low)
    assert both.tested == 2 * found.tested
    with pytest.raises(ValueError, match="smallest"):
        exhaustive(line, EXP, smallest=-1.0)


def test_search_in_float32_keeps_or_betters_what_it_was_given():
    options = Options(("fma", "mul", "add"), PORT, 7.0, starts=2, initial=(house_exp(),))
    state = evolve(Float32Problem(EXP, options, tries=50), Settings(10, 10, 2), workers=Serial())
    best = min(state.front, key=lambda m: m.objectives[0])
    assert best.objectives[0] <= largest_error(house_exp(), EXP, X) + 0.02
    assert best.objectives[0] == pytest.approx(largest_error(best.genome, EXP, X), abs=0.05)


def test_speeds_are_positive_and_budgets_checked():
    loops = {"house": exp_loop(house_exp())}
    fastest, median = compare_speed(loops, count=64, rounds=3)["house"]
    assert 0 < fastest <= median
    with pytest.raises(ValueError, match="at least 1"):
        compare_speed(loops, rounds=0)
