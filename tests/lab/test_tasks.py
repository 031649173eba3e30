"""Every task from the command to the page, with tiny budgets."""

import json
import math

import pytest
from typer.testing import CliRunner

from steepest.cli import build_app
from steepest.lab import outcome, read
from steepest.lab.tasks import TASKS, problem_of

TASK_NAMES = (*TASKS, "tests.lab.moons:moons")


def run(*arguments):
    return CliRunner().invoke(build_app(), [*map(str, arguments)], catch_exceptions=False)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """No process a run: `run_all` with 0 workers."""
    from steepest.lab import runner, tuning

    inside = lambda root, rules, *, workers, **rest: runner_all(root, rules, workers=0, **rest)  # noqa: E731
    runner_all = runner.run_all
    monkeypatch.setattr(runner, "run_all", inside)
    monkeypatch.setattr(tuning, "run_all", inside)


@pytest.mark.parametrize("task", TASK_NAMES)
def test_a_comparison_learns_and_ends_with_a_page(task, tmp_path):
    if task in TASKS:
        pytest.importorskip("sklearn.datasets", reason="the data come with scikit-learn")
    out, methods = tmp_path / "c", ("adamw", "muon") if task == "digits" else ("muon",)
    done = run("compare", *methods, "--task", task, "--out", out, "--steps", 30, "--trials", 2, "--extra", 0,
               "--seeds", 2, "--set", "train.batch=32", "--set", "train.eval_every=10")  # fmt: skip
    assert done.exit_code == 0
    assert (out / "report.html").is_file()
    result = outcome(out, read(out))
    assert result.finished
    (folder,) = out.glob("runs/muon-final-00")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "eval"]
    assert losses[-1] < math.log(10 if task == "digits" else 2)  # better than guessing
    layers = [row["layers"] for row in rows if row["kind"] == "layers"]
    assert len(layers) == 5
    assert all("update_to_weight" in layer for layer in layers[0].values())


def test_the_same_seed_gives_the_same_weights_and_another_one_others():
    import torch

    one, same, other = (
        torch.cat([p.flatten() for p in problem_of(TASK_NAMES[-1], s).model.parameters()]) for s in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("task", "says"),
    [("pictures", "no task 'pictures'"), ("tests.lab.moons:suns", "suns"), ("tests.lab.moons:nothing", "got int")],
)
def test_a_task_that_is_none_is_refused(task, says):
    with pytest.raises(ValueError, match=says):
        problem_of(task, 0)


def test_a_rate_for_a_users_task(tmp_path):
    done = run("tune", "adamw", "--task", TASK_NAMES[-1], "--out", tmp_path / "t", "--steps", 30, "--trials", 5,
               "--seeds", 2, "--set", "train.batch=32")  # fmt: skip
    assert done.exit_code == 0
    found = json.loads((tmp_path / "t" / "recommendation.json").read_text())
    assert found["explained"].split(":")[0].lower() == found["verdict"]
    assert f"lr {found['optimum']['lr']:.3g}" in done.output
    assert found["optimum"]["loss"] < math.log(2)
