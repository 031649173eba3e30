import json
import math
import os
import pathlib
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.geometry.polar import label
from steepest.geometry import polar_rates
from steepest.geometry.polar import choose_method, polar_factor
from steepest.geometry.polar_rates import (
    Rates,
    cache_file,
    calibrate,
    current_rates,
    fast_dtype,
    fixed_rates,
    nominal_rates,
)

SOME = Rates(*[(1e-5, 4e-4, 1e-2)] * 7)


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(polar_rates, "_memory", {})
    calls = []
    monkeypatch.setattr(polar_rates, "measure_rates", lambda: calls.append(1) or SOME)
    return calls


def test_nothing_is_measured_until_asked_and_then_kept_for_other_processes(fresh, monkeypatch):
    assert current_rates() == nominal_rates()
    polar_factor(torch.randn(4, 5), tol=0.25)
    assert not fresh
    assert not cache_file().exists()
    assert calibrate() == SOME
    assert current_rates() == SOME
    assert len(fresh) == 1
    monkeypatch.setattr(polar_rates, "_memory", {})  # as in a new process
    assert current_rates() == SOME
    assert len(fresh) == 1
    cache_file().unlink()
    monkeypatch.setattr(polar_rates, "_memory", {})
    assert current_rates() == nominal_rates()


def test_each_number_of_threads_has_its_entry(fresh):
    calibrate()
    torch.set_num_threads(2)
    assert current_rates() == nominal_rates(2)
    calibrate()
    assert len(fresh) == len(json.loads(cache_file().read_text())) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"x": 1}'])
def test_a_broken_file_is_replaced(fresh, content):
    cache_file().parent.mkdir(parents=True)
    cache_file().write_text(content)
    assert current_rates() == nominal_rates()
    assert calibrate() == SOME
    assert len(json.loads(cache_file().read_text())) in (1, 2)


def test_a_read_only_home_is_no_error(fresh, tmp_path):
    (tmp_path / "steepest").write_text("a file in the way")
    assert current_rates() == nominal_rates()
    assert calibrate() == current_rates() == SOME


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_taken_only_where_the_processor_has_it(fresh, monkeypatch, native):
    monkeypatch.setattr(polar_rates, "_has_bfloat16", lambda: native)
    assert fast_dtype() == (torch.bfloat16 if native else torch.float32)
    for threads in (1, 2, 8, 64):
        for m, n in ((256, 256), (512, 2048), (768, 768), (3072, 3072)):
            for tol in (0.065, 0.25, 0.33):
                chosen = choose_method(m, n, tol=tol, rates=nominal_rates(threads))
                found = getattr(chosen, "dtype", None)  # an exact method has none
                assert found != torch.bfloat16 or native
                assert found == torch.bfloat16 or not native or m != n


def test_an_infinite_rate_survives_the_file(fresh, monkeypatch):
    some = replace(SOME, bfloat16=(math.inf,) * 3)
    monkeypatch.setattr(polar_rates, "measure_rates", lambda: some)
    calibrate()
    monkeypatch.setattr(polar_rates, "_memory", {})
    assert current_rates() == some
    assert some.seconds("bfloat16", 100) == some.seconds("bfloat16", 5000) == math.inf


RESULTS = sorted((pathlib.Path(__file__).parents[2] / "benchmarks/results").glob("polar_*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_the_tables_choose_within_a_tenth_of_the_best_recorded(path, monkeypatch):
    record = json.loads(path.read_text())
    monkeypatch.setattr(polar_rates, "has_tiles", lambda: "amx" in path.stem)
    monkeypatch.setattr(polar_rates, "_has_bfloat16", lambda: "avx512bf16" in path.stem or "amx" in path.stem)
    missed = []
    for key in (key for key in record if key.startswith("time")):
        for shape, entry in record[key].items():
            times = {name: found["median"] for name, found in entry["milliseconds"].items()}
            for tol, members in entry["groups"].items():
                rates = nominal_rates(int(key.split()[1]))
                chosen = choose_method(
                    *map(int, shape.split("x")), tol=None if tol == "None" else float(tol), rates=rates
                )
                best = min(times[name] for name in members if name in times)
                if times.get(label(chosen), math.inf) > 1.1 * best:
                    missed.append((key, shape, tol, label(chosen), best))
    assert not missed


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


def test_interpolation_is_exact_at_the_sizes_and_a_power_beyond():
    assert SOME.seconds("svd", 256) == pytest.approx(4e-4)
    for operation, power in (("float32", 3), ("eigh", 3), ("svd", 3.6)):
        assert SOME.seconds(operation, 1536) == pytest.approx(SOME.seconds(operation, 768) * 2**power)
    assert 1e-5 < SOME.seconds("svd", 100) < 4e-4


def test_two_processes_choose_alike_and_return_the_same_bits(tmp_path):
    code = (
        "import hashlib, torch; from steepest.geometry import polar_factor; torch.set_num_threads(1);"
        "x = torch.randn(3, 96, 128, generator=torch.Generator().manual_seed(0));"
        "print([hashlib.sha256(polar_factor(x, tol=t).numpy().tobytes()).hexdigest() for t in (None, 0.065, 0.25)])"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    outputs = {subprocess.check_output([sys.executable, "-c", code], env=environment, text=True) for _ in range(2)}
    assert len(outputs) == 1
    assert not list(tmp_path.iterdir())  # nothing was measured


@pytest.mark.slow
def test_real_measurements_are_positive():
    found = polar_rates.measure_rates()
    assert all(time > 0 for name in Rates.__dataclass_fields__ for time in getattr(found, name))
