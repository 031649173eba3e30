"""Runs of a search that are stopped early: by which rule, equally, and the same whoever does them."""

import dataclasses
import json

import numpy as np
import pytest

from steepest.lab import Pruning, base_config, methods_of, outcome, read, run_all, write
from steepest.lab.page import write_page
from steepest.lab.pruning import Judge, judge_of
from steepest.lab.search import due
from steepest.lab.study import study_name
from steepest.lab.table import COLUMNS, REPRODUCIBLE, cells
from steepest.lab.trial import folder_of, run_trial
from tests.lab.small import small_comparison
from tests.lab.test_comparison import rules

optuna = pytest.importorskip("optuna", reason="the rule is Optuna's: pip install 'steepest[lab]'")


def test_it_stops_what_is_above_the_percentile_of_the_references_at_its_step():
    rng = np.random.default_rng(0)
    references = [
        {step: float(x) for step, x in zip(range(10, 60, 10), row, strict=True)} for row in rng.random((5, 5))
    ]
    for percentile in (25.0, 50.0):
        judge = Judge(Pruning(percentile, after=0.3), 100, references)
        for losses in rng.random((20, 5)):
            for n in range(1, 6):
                step = 10 * n
                curve = {10 * (i + 1): float(x) for i, x in enumerate(losses[:n])}
                edge = np.percentile([reference[step] for reference in references], percentile)
                assert judge.stops(curve) == (step >= 30 and losses[:n].min() > edge)


def test_references_run_first_and_every_method_has_as_many():
    comparison = rules(pruning=Pruning())
    first = due(comparison, {})
    assert [sum(t.method == name for t in first) for name in ("adamw", "muon")] == [3, 3]
    lrs = [t.values["lr"] for t in due(rules(), {}) if t.method == "muon"]
    assert [t.values["lr"] for t in first if t.method == "muon"] == lrs[::2]
    then = due(comparison, {t.name: 1.0 for t in first})
    assert [t.name for t in then] == [t.name for t in due(rules(), {})]
    assert all(judge_of(comparison, t, {}) is None for t in first)
    assert judge_of(comparison, next(t for t in then if t not in first), {}) is not None
    assert rules(trials=4).references == {0, 2, 3}


def test_the_rule_stands_in_the_file_and_files_without_it_stay_as_they_were(tmp_path):
    comparison = rules(pruning=Pruning(40.0))
    write(comparison, tmp_path)
    assert read(tmp_path) == comparison
    assert "pruning" not in rules().to_dict()
    with pytest.raises(ValueError, match="different pruning"):
        write(dataclasses.replace(comparison, pruning=None), tmp_path)
    with pytest.raises(ValueError, match="percentile"):
        Pruning(100.0)
    with pytest.raises(ValueError, match="left alone"):
        Pruning(after=1.0)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """Five rates a method, of which two may be stopped."""
    folder = tmp_path_factory.mktemp("pruned")
    run = base_config("nano", 40, ["train.batch=16"])
    comparison = rules(
        run=run, task="tests.lab.moons:moons", methods=methods_of(["adamw", "sgd"]), pruning=Pruning(), extra_trials=1
    )
    comparison = dataclasses.replace(comparison, seeds=(1, 2))
    write(comparison, folder)
    run_all(folder, comparison, workers=0)
    return folder, comparison


def test_a_stopped_run_counts_as_that_and_is_never_chosen(pruned):
    folder, comparison = pruned
    result = outcome(folder, comparison)
    assert result.finished
    assert result.pruned
    search = {t.name: t for t in result.trials if t.stage != "final"}
    for name, step in result.pruned.items():
        assert search[name].stage == "extra" or search[name].number % 2 == 1
        record = json.loads((folder / "runs" / name / "result.json").read_text())
        assert (record["status"], record["loss"], record["curve"][-1][0]) == ("pruned", None, step)
        assert 12 <= step < 40
        assert json.loads((folder / "runs" / name / "summary.json").read_text())["steps"] == step
    by_method = {row.name: row.pruned for row in result.rows}
    assert sum(by_method.values()) == len(result.pruned)
    assert all(row.diverged == 0 for row in result.rows)
    failed = COLUMNS.index("failed")
    for row, text in zip(result.rows, cells(result), strict=True):
        assert text[failed] == (f"0, {row.pruned} pruned" if row.pruned else "0")
    page = write_page(folder, comparison)[0].read_text()
    name, step = next(iter(result.pruned.items()))
    assert name in page
    assert f"pruned at step {step}" in page


def test_optuna_has_them_as_pruned_with_their_evaluations(pruned):
    folder, comparison = pruned
    result = outcome(folder, comparison)
    url = f"sqlite:///{folder}/search.db"
    for method in comparison.methods:
        study = optuna.load_study(study_name=study_name(comparison, method.name), storage=url)
        theirs = {t.user_attrs["name"]: t for t in study.trials if t.state.name == "PRUNED"}
        assert {name: max(t.intermediate_values) for name, t in theirs.items()} == {
            name: step for name, step in result.pruned.items() if name.startswith(method.name)
        }
        assert all(t.value == t.intermediate_values[max(t.intermediate_values)] for t in theirs.values())


def test_a_text_run_is_stopped_at_the_same_step_after_it_was_killed(tmp_path, monkeypatch):
    # Checkpoints at 5 and 10, evaluations at 4 and 8 of 12 steps; killed in its evaluation at step 8.
    comparison = small_comparison(tmp_path, methods=("adamw",), trials=3, extra_trials=0, pruning=Pruning(after=0.5))
    write(comparison, tmp_path)
    first = due(comparison, {})
    for trial in first:
        run_trial(tmp_path, comparison, trial)
        # Nothing can keep up with references that know the text by heart.
        path = folder_of(tmp_path, trial) / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"curve": [[4, 0.0], [8, 0.0]]}))
    (judged,) = [t for t in due(comparison, {t.name: 1.0 for t in first}) if t not in first]
    with monkeypatch.context() as patch:
        patch.setattr(Judge, "stops", lambda judge, curve: 8 in curve and killed())
        with pytest.raises(KeyboardInterrupt):
            run_trial(tmp_path, comparison, judged)
    stopped = run_trial(tmp_path, comparison, judged)
    assert (stopped["status"], [step for step, _ in stopped["curve"]]) == ("pruned", [4, 8])
    again = tmp_path / "again"
    write(comparison, again)
    for trial in first:
        folder_of(again, trial).mkdir(parents=True)
        (folder_of(again, trial) / "result.json").write_text((folder_of(tmp_path, trial) / "result.json").read_text())
    assert run_trial(again, comparison, judged) == stopped


def killed():
    raise KeyboardInterrupt


@pytest.mark.slow
def test_any_number_of_workers_stops_the_same_runs(pruned, tmp_path):
    folder, comparison = pruned
    write(comparison, tmp_path)
    run_all(tmp_path, comparison, workers=3)
    assert outcome(tmp_path, comparison).pruned == outcome(folder, comparison).pruned
    tables = [cells(outcome(root, comparison)) for root in (folder, tmp_path)]
    assert [row[:REPRODUCIBLE] for row in tables[0]] == [row[:REPRODUCIBLE] for row in tables[1]]
