import itertools
import math

import numba
import numpy as np
import pytest

from steepest.discover import Options, Program, Settings, Target
from steepest.discover._float32 import forward32
from steepest.discover.baselines import known_exp2
from steepest.discover.float32 import Float32Problem, exhaustive, largest_error, polynomials, tune, ulp
from steepest.discover.kernel import VectorLoop, compare_speed, compiled, exp_loop, house_exp, relative_time
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


def test_the_timed_loop_computes_what_the_interpreter_computes():
    """Same bits for every operation, for lengths that do and do not fill vectors."""
    program = Program(
        (
            ("square", (0,)),
            ("fma", (3, 1, 0)),
            ("sub", (4, 2)),
            ("div", (5, 4)),
            ("double", (6,)),
            ("half", (7,)),
            ("quadruple", (8,)),
            ("quarter", (9,)),
            ("mul", (10, 5)),
            ("add", (11, 4)),
            ("square", (12,)),
            ("sqrt", (13,)),
        ),
        ((0.3, 0.0), (7.1, 0.0)),
    )
    constants = program.floats.astype(np.float32)
    for count in (1, 7, 64, 1001):
        x = np.linspace(0.1, 3.0, count, dtype=np.float32)
        values = np.empty((1 + len(constants) + len(program.code), count), np.float32)
        forward32(program.code, constants, x, values)
        out = np.zeros_like(x)
        VectorLoop(program)(x, out, 2)
        assert out.tobytes() == values[-1].tobytes()


def test_relative_time_needs_a_budget():
    assert relative_time(house_exp(), EXP.ends, count=64, repeats=1, rounds=2) > 0
    with pytest.raises(ValueError, match="at least 1"):
        relative_time(house_exp(), EXP.ends, rounds=0)


def test_search_can_take_measured_time_as_its_cost():
    options = Options(("fma", "mul", "add"), PORT, 3.0, starts=2)
    problem = Float32Problem(EXP, options, tries=5, measured=True)
    front = evolve(problem, Settings(6, 8, 2)).front
    assert front
    assert all(0 < m.objectives[1] < math.inf for m in front)
    assert problem.describe()["measured"]
    assert problem.readable(front[0]).endswith(" ulp")


def test_polynomials_get_better_with_the_degree():
    errors = [largest_error(p, EXP, X) for p in polynomials(EXP, 4, tries=500)]
    assert all(after < before / 5 for before, after in itertools.pairwise(errors))


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
    assert after < 2.0


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
