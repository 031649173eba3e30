import json

import pytest
import torch

from steepest.geometry import polar_rates
from steepest.geometry.polar import polar_factor
from steepest.geometry.polar_rates import Rates, cache_file, current_rates, fixed_rates

SOME = Rates(*[(1e-5, 4e-4, 1e-2)] * 7)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(polar_rates, "_memory", {})
    calls = []
    monkeypatch.setattr(polar_rates, "measure_rates", lambda: calls.append(1) or SOME)
    return calls


def test_measured_once_kept_in_the_file_and_measured_again_without_it(fresh, monkeypatch):
    assert current_rates() == SOME
    assert current_rates() == SOME
    assert len(fresh) == 1
    monkeypatch.setattr(polar_rates, "_memory", {})
    assert current_rates() == SOME
    assert len(fresh) == 1
    cache_file().unlink()
    monkeypatch.setattr(polar_rates, "_memory", {})
    current_rates()
    assert len(fresh) == 2


def test_each_number_of_threads_has_its_entry(fresh):
    current_rates()
    torch.set_num_threads(2)
    current_rates()
    assert len(fresh) == len(json.loads(cache_file().read_text())) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_broken_file_is_replaced(fresh, content):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content)
    assert current_rates() == SOME
    assert len(fresh) == 1


def test_a_read_only_home_is_no_error(fresh, tmp_path):
    (tmp_path / "steepest").write_text("a file in the way")
    assert current_rates() == SOME


def test_fixed_rates_measure_nothing(fresh):
    with fixed_rates(SOME):
        polar_factor(torch.randn(4, 5), tol=0.25)
    assert not fresh
    assert not cache_file().exists()


def test_explicit_methods_measure_nothing(fresh):
    polar_factor(torch.randn(4, 5), method="muon")
    polar_factor(torch.randn(4, 5), method="eigh")
    polar_factor(torch.randn(1, 5))
    assert not fresh


def test_interpolation_is_exact_at_the_sizes_and_cubic_beyond():
    assert SOME.seconds("svd", 256) == pytest.approx(4e-4)
    assert SOME.seconds("svd", 1536) == pytest.approx(8e-2)
    assert 1e-5 < SOME.seconds("svd", 100) < 4e-4


@pytest.mark.slow
def test_real_measurements_are_positive():
    found = polar_rates.measure_rates()
    assert all(time > 0 for name in Rates.__dataclass_fields__ for time in getattr(found, name))
