import importlib.util
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import mpmath
import numpy as np
import pytest

from steepest.discover import Options, Program, Settings, Target, discover
from steepest.discover.baselines import fronts, known_exp2, minimax_polynomial, minimax_rational, pade, taylor
from steepest.discover.certify import certify
from steepest.discover.found import Found, prove
from steepest.discover.polish import exact_errors, polish
from steepest.discover.search import ProgramProblem

SMALL = Settings(population=40, children=60, generations=12, seed=0)
OPTIONS = Options(max_cost=6.0, starts=6)


def answer(state):
    return [(m.genome, m.objectives) for m in state.front]


def largest(program, target, count=300):
    return float(max(abs(e) for e in exact_errors(program, target, target.points(count))))


@pytest.fixture(scope="module")
def undisturbed():
    return discover(Target("exp2"), OPTIONS, SMALL)


def gain_over_polynomials(front):
    """How many times smaller the error is than that of the minimax polynomial of no higher cost, at best."""
    target = Target("exp2")
    polynomial = {degree: largest(minimax_polynomial(target, degree), target) for degree in (1, 2, 3)}
    return max(polynomial[int(m.objectives[1]) // 2] / largest(m.genome, target) for m in front if m.objectives[1] >= 2)


def test_beats_polynomials_of_the_same_cost_by_far():
    """A few small generations from nothing suffice, for most seeds: the middle one of three is asked for 10 times."""
    longer = replace(SMALL, generations=40)
    gains = [gain_over_polynomials(discover(Target("exp2"), OPTIONS, replace(longer, seed=s)).front) for s in (0, 1, 2)]
    assert sorted(gains)[1] > 10


def test_every_program_of_the_front_is_a_number_at_zero_and_at_the_ends(undisturbed):
    for member in undisturbed.front:
        assert np.isfinite(member.genome(np.array([-0.5, 0.0, 0.5]))).all()


def test_reported_errors_are_true(undisturbed):
    for member in undisturbed.front:
        assert largest(member.genome, Target("exp2")) == pytest.approx(10 ** member.objectives[0], rel=0.03)


def test_two_workers_give_the_same_front(undisturbed):
    assert answer(discover(Target("exp2"), OPTIONS, SMALL, workers=2)) == answer(undisturbed)


def test_killed_and_resumed_gives_the_same_front(tmp_path, undisturbed):
    path = tmp_path / "checkpoint.json"
    code = (
        "import os, signal, pathlib\n"
        "from steepest.discover import *\n"
        "def report(state):\n"
        "    if state.generation == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"discover(Target('exp2'), Options(max_cost=6.0, starts=6), Settings(40, 60, 7, seed=0),"
        f" checkpoint=pathlib.Path({str(path)!r}))\n"
        f"discover(Target('exp2'), Options(max_cost=6.0, starts=6), Settings(40, 60, 12, seed=0),"
        f" checkpoint=pathlib.Path({str(path)!r}), report=lambda state: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=300, env=dict(os.environ))
    assert done.returncode == -signal.SIGKILL
    assert answer(discover(Target("exp2"), OPTIONS, SMALL, checkpoint=path)) == answer(undisturbed)


@pytest.mark.parametrize(("name", "degree"), [("exp2", 3), ("erf", 4)])
def test_minimax_polynomials_alternate(name, degree):
    """The largest error is reached degree + 2 times with alternating signs (Chebyshev)."""
    target = Target(name)
    program = minimax_polynomial(target, degree)
    x = np.linspace(*target.ends, 2001)
    e = np.array([float(v) for v in exact_errors(program, target, x)])
    top = np.abs(e).max()
    signs = np.sign(e[np.abs(e) > 0.98 * top])
    assert 1 + (np.diff(signs) != 0).sum() >= degree + 2


def test_taylor_and_pade_match_their_definition():
    target = Target("exp", (-0.1, 0.1))
    x = mpmath.mpf("0.05")
    want = sum(x**k / mpmath.factorial(k) for k in range(4))
    assert float(taylor(target, 3)(np.float64(x))) == pytest.approx(float(want), rel=1e-15)
    quotient = (1 + x / 2 + x**2 / 12) / (1 - x / 2 + x**2 / 12)
    assert float(pade(target, 2, 2)(np.float64(x))) == pytest.approx(float(quotient), rel=1e-15)


def test_polish_reaches_what_is_known_of_the_published_program():
    target = Target("exp2")
    assert largest(known_exp2(), target) == pytest.approx(3.5e-16, rel=0.1)
    assert largest(polish(known_exp2(), target), target) < 5e-17


def test_continued_fractions_are_the_rationals():
    found = fronts(Target("exp2"), 6)
    six = next(p for p in found["minimax continued fraction"] if len(p.instructions) == 6)
    eight = minimax_rational(Target("exp2"), 2, 2)
    assert largest(six, Target("exp2")) == pytest.approx(largest(eight, Target("exp2")), rel=1e-3)


@pytest.mark.skipif(importlib.util.find_spec("flint") is None, reason="python-flint is an extra")
class TestCertificates:
    @pytest.mark.parametrize("name", ["exp2", "exp", "log2", "erf", "tanh", "sigmoid", "tan"])
    def test_bound_is_above_every_sample_and_close(self, name):
        target = Target(name)
        program = minimax_polynomial(target, 3)
        proof = certify(program, target)
        assert proof.reached <= proof.bound <= 1.02 * proof.reached
        assert largest(program, target, 2000) <= proof.bound

    def test_a_program_that_passes_through_infinity(self):
        proof = certify(polish(known_exp2(), Target("exp2")), Target("exp2"))
        assert 1e-17 < proof.bound < 4e-17

    def test_a_hidden_pole_has_no_bound(self):
        """1 + 1e-9 / (x - 0.3) is near 1 at every point one would try."""
        program = Program((("sub", (0, 1)), ("div", (2, 4)), ("add", (3, 5))), ((0.3, 0.0), (1e-9, 0.0), (1.0, 0.0)))
        with pytest.raises(ValueError, match=r"near 0\.3"):
            certify(program, Target("exp2", (0.0, 1.0)))
        assert prove(program, Target("exp2", (0.0, 1.0)), polished=True).certificate is None

    def test_zero_divided_by_zero_is_no_proof(self):
        """x / x is 1 in the reals but for one point, and no number there in any processor."""
        program = Program((("div", (0, 0)), ("add", (1, 2))), ((0.0, 0.0),))
        item = prove(program, Target("exp2", (-0.1, 0.1)), polished=True)
        assert item.error == math.inf
        assert item.certificate is None

    def test_unknown_functions_have_none(self):
        with pytest.raises(ValueError, match="no rigorous form"):
            certify(Program((("square", (0,)),)), Target("mine", function=mpmath.cos))

    def test_json(self):
        item = prove(minimax_polynomial(Target("exp2"), 2), Target("exp2"))
        assert Found.from_json(item.to_json()) == item


@pytest.mark.skipif(importlib.util.find_spec("cmaes") is None, reason="cmaes is an extra")
def test_cma_es_finds_the_constants_too():
    problem = ProgramProblem(Target("exp2"), Options(constants="cma", iterations=120))
    line = Program((("mul", (1, 0)), ("add", (2, 3))), ((0.5, 0.0), (1.5, 0.0)))
    member = problem.evaluate(line, np.random.default_rng(0))
    assert 10 ** member.objectives[0] == pytest.approx(
        largest(minimax_polynomial(Target("exp2"), 1), Target("exp2")), rel=0.02
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Target("cosine"), "choose from exp2"),
        (lambda: Target("log2", (-1.0, 1.0)), "not a finite real number"),
        (lambda: Target("tan", (0.0, 3.0)), "has a pole near 1.57"),
        (lambda: Target("mine", (0.0, 1.0), function=lambda x: 1 / (x - mpmath.mpf("0.3"))), "pole near 0.3"),
        (lambda: Target("tanh", (-1.0, 1.0), "relative"), "use the absolute error"),
        (lambda: Target("exp2", (1.0, 0.0)), "low < high"),
        (lambda: Target("exp2", (0.0, float("inf"))), "both finite"),
        (lambda: Target("exp2", measure="ulp"), "'relative' or 'absolute'"),
        (lambda: Options(operations=("add", "cos")), "no operation"),
        (lambda: Options(operations=()), "at least one"),
        (lambda: Options(max_cost=0.0), "budget"),
        (lambda: Options(costs={"add": 1.0}), "cost of sub"),
        (lambda: Options(constants="guess"), "'fit' or 'cma'"),
        (lambda: Options(starts=0), "at least 1"),
        (lambda: Options(identity_rate=1.0), "identity_rate"),
        (lambda: discover(Target("exp2"), OPTIONS, replace(SMALL, generations=0)), "budget"),
        (lambda: discover(Target("exp2"), OPTIONS, SMALL, workers=0), "at least 1"),
    ],
)
def test_bad_input_is_explained(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_textbooks_have_gaps_where_highest_coefficients_vanish():
    """sigmoid is odd about 1 / 2: its Padé approximants of low degrees have lower ones, or do not exist."""
    target = Target("sigmoid")
    line = pade(target, 1, 1)
    assert [name for name, _ in line.instructions] == ["mul", "add"]
    assert float(line(np.float64(0.1))) == pytest.approx(0.525, abs=1e-15)
    found = fronts(target, 6)
    assert all(len(program.instructions) <= 6 for programs in found.values() for program in programs)
    assert found["Taylor"]
    assert found["minimax polynomial"]
