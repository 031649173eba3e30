import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest

from steepest.lab import (
    Comparison,
    Range,
    base_config,
    method_of,
    methods_of,
    outcome,
    read,
    run_all,
    same_rules,
    write,
)
from steepest.lab.search import due
from steepest.lab.table import COLUMNS, REPRODUCIBLE, cells
from steepest.lab.trial import config_of
from tests.lab.small import small_comparison


def rules(**changes) -> Comparison:
    settings = {"run": base_config("nano", 100), "methods": methods_of(["adamw", "muon"]), "baseline": "adamw"}
    return Comparison(**(settings | {"trials": 5, "extra_trials": 2} | changes))


def losses_by(trials, loss):
    return {trial.name: loss(trial) for trial in trials}


def test_the_file_comes_back_and_cannot_be_changed(tmp_path):
    first = rules(target=1.5)
    write(first, tmp_path / "a")
    assert read(tmp_path / "a") == first
    write(first, tmp_path / "a")
    with pytest.raises(ValueError, match=r"other rules \(different seeds\)"):
        write(dataclasses.replace(first, seeds=(1, 2)), tmp_path / "a")
    write(dataclasses.replace(first, trials=9), tmp_path / "b")
    with pytest.raises(ValueError, match="different trials"):
        same_rules([tmp_path / "a", tmp_path / "b"])
    path = tmp_path / "a" / "comparison.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"alpha": 0.2}))
    with pytest.raises(ValueError, match="was changed"):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"baseline": "sgd"}, "baseline"),
        ({"seeds": (0, 1)}, "search's 0"),
        ({"seeds": (1,)}, "at least two"),
        ({"trials": 1}, "at least 2 trials"),
        ({"methods": methods_of(["adamw"]) * 2}, "different names"),
    ],
)
def test_unfair_rules_are_refused(change, says):
    with pytest.raises(ValueError, match=says):
        rules(**change)


def test_every_method_gets_the_same_number_of_runs_and_the_same_width():
    trials = due(rules(), {})
    assert [sum(t.method == name for t in trials) for name in ("adamw", "muon")] == [5, 5]
    widths = [m.space["lr"].high / m.space["lr"].low for m in methods_of(["adamw", "muon", "sinkgd", "soap", "scion"])]
    assert widths == pytest.approx([64] * 5)


def test_an_optimum_at_an_edge_widens_once_and_equally():
    comparison = rules()
    search = due(comparison, {})
    top = max(t.values["lr"] for t in search if t.method == "muon")
    # adamw's best is inside, muon's is its largest rate
    done = losses_by(search, lambda t: abs(math.log(t.values["lr"] / (top if t.method == "muon" else 3e-3))))
    extra = [t for t in due(comparison, done) if t.stage == "extra"]
    assert [sum(t.method == name for t in extra) for name in ("adamw", "muon")] == [2, 2]
    assert all(t.values["lr"] > top for t in extra if t.method == "muon")
    assert all(1e-3 < t.values["lr"] < 9e-3 for t in extra if t.method == "adamw")
    done |= losses_by(extra, lambda t: 9.0)
    final = [t for t in due(comparison, done) if t.stage == "final"]
    assert [t.seed for t in final] == [1, 2, 3] * 2
    assert {t.values["lr"] for t in final if t.method == "muon"} == {top}


def test_inside_optima_go_straight_to_the_seeds_and_diverged_methods_get_none():
    comparison = rules()
    search = due(comparison, {})
    done = losses_by(search, lambda t: abs(math.log(t.values["lr"] / (0.02 if t.method == "muon" else 3e-3))))
    assert {t.stage for t in due(comparison, done)} == {"search", "final"}
    everything_failed = losses_by(search, lambda t: math.inf if t.method == "muon" else done[t.name])
    extra = [t for t in due(comparison, everything_failed) if t.stage == "extra" and t.method == "muon"]
    assert all(t.values["lr"] < 0.02 / 8 for t in extra)


def test_several_settings_are_quasi_random_and_depend_on_the_file_alone():
    space = {"momentum": Range(0.8, 0.98)}
    comparison = rules(methods=(method_of("adamw"), method_of("muon", space=space)))
    trials = [t for t in due(comparison, {}) if t.method == "muon"]
    assert len({(t.values["lr"], t.values["momentum"]) for t in trials}) == 5
    assert all(0.8 <= t.values["momentum"] <= 0.98 for t in trials)
    assert trials == [t for t in due(comparison, {}) if t.method == "muon"]
    config = config_of(comparison, trials[0])
    assert config.optim.name == f"muon momentum={trials[0].values['momentum']:g}"
    assert config.optim.lr == trials[0].values["lr"]


def test_a_share_shortens_the_run_and_its_schedule():
    comparison = rules(methods=methods_of(["adamw", "muon"], shares=["muon=0.5"]))
    trial = next(t for t in due(comparison, {}) if t.method == "muon")
    assert (config_of(comparison, trial).train.steps, config_of(comparison, trial).train.warmup) == (50, 5)


@pytest.mark.parametrize("text", ["muon", "muon: lr", "muon: lr=2..1", "muon: nothing=1..2"])
def test_a_space_that_cannot_be_read_is_refused(text):
    with pytest.raises(ValueError, match=r"expected|no setting"):
        methods_of(["adamw", "muon"], [text])


@pytest.mark.slow
def test_killed_workers_and_any_number_of_them_give_the_same_table(tmp_path):
    comparison = small_comparison(tmp_path)
    for name in ("one", "killed"):
        write(comparison, tmp_path / name)
    run_all(tmp_path / "one", comparison, workers=0)
    code = (
        "import sys, pathlib; from steepest.lab import *; p = pathlib.Path(sys.argv[1]); run_all(p, read(p), workers=2)"
    )
    for seconds in (6, 9):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")], start_new_session=True)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    run_all(tmp_path / "killed", comparison, workers=2)
    tables = [cells(outcome(tmp_path / name, comparison)) for name in ("one", "killed")]
    assert [row[:REPRODUCIBLE] for row in tables[0]] == [row[:REPRODUCIBLE] for row in tables[1]]
    assert len(tables[0][0]) == len(COLUMNS)


def test_a_whole_comparison_and_runs_of_other_rules(tmp_path):
    comparison = small_comparison(tmp_path, methods=("adamw", "adamw"), trials=2, extra_trials=0)
    write(comparison, tmp_path / "c")
    run_all(tmp_path / "c", comparison, workers=0)
    result = outcome(tmp_path / "c", comparison)
    assert result.finished
    # A method against itself: the same trials, the same losses, no difference.
    first, second = result.rows
    assert first.losses == second.losses
    assert {first.name: first.p, second.name: second.p}["adamw 2"] == 1.0
    assert first.tokens == pytest.approx(12 * 64)
    assert first.state_bytes == pytest.approx(8.0)
    with pytest.raises(ValueError, match="other rules"):
        outcome(tmp_path / "c", dataclasses.replace(comparison, seeds=(1, 2, 3)))
