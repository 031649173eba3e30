"""The Optuna record: what it holds, who may do a trial, and that it changes no outcome."""

import json

import pytest

from steepest.lab import outcome, run_all, write
from steepest.lab.search import due
from steepest.lab.study import open_record, study_name
from steepest.lab.table import REPRODUCIBLE, cells
from steepest.lab.trial import folder_of
from tests.lab.small import small_comparison
from tests.lab.test_comparison import rules

optuna = pytest.importorskip("optuna", reason="the storage is Optuna's: pip install 'steepest[lab]'")


def finish(root, comparison, trial, loss):
    folder_of(root, trial).mkdir(parents=True)
    result = {"digest": comparison.digest, "status": "finished" if loss is not None else "diverged", "loss": loss}
    (folder_of(root, trial) / "result.json").write_text(json.dumps(result))


def studies(url, comparison):
    names = [study_name(comparison, method.name) for method in comparison.methods]
    return [optuna.load_study(study_name=name, storage=url) for name in names]


def test_the_record_is_an_ordinary_study_with_the_points_of_the_search(tmp_path):
    comparison = rules()
    record = open_record(tmp_path, comparison)
    trials = due(comparison, {})
    for trial in trials:
        finish(tmp_path, comparison, trial, None if trial.number == 4 else 2.0 + trial.number)
    record.sync()
    record.sync()  # a second time adds nothing
    adamw, muon = studies(f"sqlite:///{tmp_path}/search.db", comparison)
    assert [len(adamw.trials), len(muon.trials)] == [5, 5]
    assert muon.best_params == trials[5].values
    assert muon.best_value == 2.0
    assert [t.state.name for t in muon.trials] == ["COMPLETE"] * 4 + ["FAIL"]


def test_two_that_make_the_storage_at_once_both_get_it(tmp_path, monkeypatch):
    comparison = rules()
    manager = optuna.storages._rdb.storage._VersionManager
    last_step, quicker = manager._set_alembic_revision, []

    def overtaken(self, revision):
        monkeypatch.undo()
        quicker.append(open_record(tmp_path, comparison))
        last_step(self, revision)  # the row is there by now

    monkeypatch.setattr(manager, "_set_alembic_revision", overtaken)
    record = open_record(tmp_path, comparison)
    assert record._ids == quicker[0]._ids


def test_one_claim_at_a_time_and_dead_ones_of_the_folder_end(tmp_path):
    comparison = rules()
    url = f"sqlite:///{tmp_path}/shared.db"
    here, there = (open_record(tmp_path / name, comparison, url) for name in ("here", "there"))
    trial = due(comparison, {})[0]
    with here.claimed(trial) as first, there.claimed(trial) as second:
        assert (first, second) == (True, False)
    # It left without a result, as a killed one does: another may.
    with there.claimed(trial) as second:
        assert second
        finish(tmp_path / "there", comparison, trial, 2.5)
    with here.claimed(trial) as first:
        assert not first
    here.sync()
    assert json.loads((folder_of(tmp_path / "here", trial) / "result.json").read_text())["loss"] == 2.5
    later = due(comparison, {})[1]
    dead = here._add(later, None)
    with there.claimed(later) as ours:
        assert not ours  # it may live
    with here.claimed(later) as ours:
        assert ours  # this folder's lock was free
        assert here.storage.get_trial(dead).state.name == "FAIL"


def test_machines_that_share_a_storage_alone_make_one_comparison(tmp_path):
    comparison = small_comparison(tmp_path, methods=("adamw",), extra_trials=0)
    url = f"sqlite:///{tmp_path}/shared.db"
    for name in ("alone", "first", "second"):
        write(comparison, tmp_path / name)
    run_all(tmp_path / "alone", comparison, workers=0)
    trials = due(comparison, {})
    record = open_record(tmp_path / "first", comparison, url)
    from steepest.lab.runner import do

    for trial in trials[::2]:
        do(tmp_path / "first", comparison, trial, record)
    run_all(tmp_path / "second", comparison, workers=0, storage=url)
    tables = [cells(outcome(tmp_path / name, comparison)) for name in ("alone", "second")]
    assert [row[:REPRODUCIBLE] for row in tables[0]] == [row[:REPRODUCIBLE] for row in tables[1]]
    assert not (folder_of(tmp_path / "second", trials[0]) / "metrics.jsonl").exists()
    assert sum(len(study.trials) for study in studies(url, comparison)) == len(
        outcome(tmp_path / "second", comparison).trials
    )
