"""What `steepest compare` and `steepest tune` refuse, in a word that helps, before anything runs."""

import pytest
from typer.testing import CliRunner

from steepest.cli import build_app
from steepest.lab import read, write
from tests.lab.test_comparison import rules

TASK = """
import torch
def make(seed):
    data = (torch.randn(8, 2), torch.zeros(8, dtype=torch.long))
    return torch.nn.Linear(2, 2), (data, data), lambda net, x, y: torch.nn.functional.cross_entropy(net(x), y)
"""


def run(*words):
    return CliRunner().invoke(build_app(), [str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["compare"], "expected optimizers to compare"),
        (["compare", "adamv"], "adamw"),
        (["compare", "adamw", "--workers", -1], "--workers"),
        (["compare", "adamw", "--task", "digit"], "there are text, digits"),
        (["compare", "adamw", "--task", "nowhere:f"], "nowhere"),
        (["compare", "adamw", "--task", "digits", "--steps", 0], "steps"),
        (["compare", "adamw", "--task", "digits", "--trials", 0], "at least 2 trials"),
        (["compare", "adamw", "--task", "digits", "--seeds", 0], "at least two"),
        (["compare", "adamw", "--task", "digits", "--prune", 0], "percentile"),
        (["compare", "adamw", "--model", "huge"], "huge"),
        (["tune", "muom"], "muon"),
        (["tune", "--task", "digits", "--width", 0], "--width"),
        (["tune", "--task", "digits", "--trials", 0], "at least 3 trials"),
        (["report", "--every", 0, "runs"], "--every"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(tmp_path, monkeypatch, words, says):
    pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert isinstance(done.exception, ValueError)
    assert says in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_rules_are_not_ignored_when_a_comparison_goes_on(tmp_path):
    write(rules(), tmp_path)
    done = run("compare", "--out", tmp_path, "--trials", 9, "--set", "train.batch=4")
    assert isinstance(done.exception, ValueError)
    assert str(done.exception).startswith("--trials, --set: the rules of")
    assert run("compare", "--out", tmp_path, "--freeze").exit_code == 0


def test_a_task_of_the_current_folder_is_found_and_zero_extra_trials_are_none(tmp_path, monkeypatch):
    (tmp_path / "mine_here.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    done = run("compare", "adamw", "--task", "mine_here:make", "--extra", 0, "--prune", 25, "--freeze")
    assert done.exit_code == 0, done.exception
    comparison = read(tmp_path / "comparison")
    assert (comparison.extra_trials, comparison.steps(comparison.methods[0])) == (0, 200)
    assert comparison.pruning is not None
    assert comparison.pruning.percentile == 25
