"""The programs that ship are judged anew: nothing is believed of their files."""

import importlib.util
import itertools
import json
from importlib.resources import files

import numpy as np
import pytest

from steepest.discover.baselines import minimax_polynomial
from steepest.discover.certify import certify
from steepest.discover.found import library, sampled_error
from steepest.discover.polish import exact_errors

NAMES = sorted(e.name[:-5] for e in (files("steepest.discover") / "library").iterdir() if e.name.endswith(".json"))


def test_there_is_a_library():
    assert "exp2" in NAMES


@pytest.mark.parametrize("name", NAMES)
class TestLibrary:
    def test_programs_are_numbers_everywhere(self, name):
        for item in library(name):
            x = np.append(np.linspace(*item.interval, 1001), 0.0 if item.interval[0] <= 0 else item.interval[0])
            assert np.isfinite(item.program(x)).all()

    def test_errors_are_below_the_certificates(self, name):
        for item in library(name):
            errors = exact_errors(item.program, item.target, item.target.points(60))
            assert max(abs(e) for e in errors) <= item.certificate.bound <= 1.01 * item.error

    def test_it_is_a_front(self, name):
        found = library(name)
        assert all(a.cost < b.cost and a.error > b.error for a, b in itertools.pairwise(found))
        assert all(item.cost == len(item.program.instructions) for item in found)

    def test_files_hold_where_they_come_from(self, name):
        item = library(name)[-1]
        assert item.about["search"]["function"] == item.function == name
        assert {"seed", "processor", "evaluations", "packages"} <= set(item.about)
        json.dumps(item.to_json())

    @pytest.mark.skipif(importlib.util.find_spec("flint") is None, reason="python-flint is an extra")
    def test_the_last_is_proven_again(self, name):
        item = library(name)[-1]
        assert certify(item.program, item.target).bound == pytest.approx(item.certificate.bound, rel=1e-9)


def test_exp2_beats_the_polynomials_a_thousand_times():
    """At equal operations, for some count from 5 to 10."""
    found = {item.cost: item.certificate.bound for item in library("exp2")}
    target = library("exp2")[0].target
    gains = [
        sampled_error(minimax_polynomial(target, int(cost) // 2), target) / bound
        for cost, bound in found.items()
        if 7 <= cost <= 8
    ]
    assert max(gains) > 1000
