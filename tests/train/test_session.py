"""Whole runs on a small text: resuming, stopping, records."""

import json

import pytest
import torch
from safetensors.torch import load_file

from steepest.nn import load_llama
from steepest.train.report.metrics import read_metrics
from steepest.train.session import resume, start
from tests.train.runs import configured, newest, rows


def test_a_run_learns_and_leaves_its_records(settings, tmp_path):
    outcome = start(
        configured(settings, "train.sample_tokens=20", "train.baselines=true"), out=tmp_path / "run", quiet=True
    )
    assert (outcome.status, outcome.exit_status) == ("finished", 0)
    run = outcome.path
    summary = json.loads((run / "summary.json").read_text())
    # Letters drawn evenly cost 8 bits; knowing which are frequent, 4.2. Forty steps are on the way there.
    assert summary["bits_per_byte"] < 5.5
    assert summary["baselines"].keys() >= {"xz -9", "order-5 n-gram"}
    assert summary["steps"] == 40
    assert summary["tokens"] == 40 * 4 * 32
    kinds = [row["kind"] for row in rows(run)]
    assert (kinds.count("train"), kinds.count("eval")) == (40, 4)
    names = {"config.json", "environment.json", "loss.png", "report.html", "sample.txt", "tokenizer", "checkpoints"}
    assert names <= {path.name for path in run.iterdir()}
    assert not list(run.rglob(".incomplete-*"))


def test_layers_are_recorded_when_asked_for(settings, tmp_path):
    run = start(configured(settings, "train.diagnose_every=20"), out=tmp_path / "run", quiet=True).path
    layers = [row for row in rows(run) if row["kind"] == "layers"]
    assert [row["step"] for row in layers] == [20, 40]
    names = {name for name in layers[0]["layers"] if ".layers.0." in name}
    assert any("q_proj" in name for name in names)
    for row in layers[0]["layers"].values():
        assert row["update_to_weight"] > 0
        assert row["effective_rank"] >= 1 - 1e-6
    assert len(read_metrics(run).train["step"]) == 40


def test_the_last_and_the_best_checkpoints_are_kept(settings, tmp_path):
    start(configured(settings, "train.keep_last=1", "optim.lr=0.3"), out=tmp_path / "run", quiet=True)
    evaluations = {row["step"]: row["bits_per_byte"] for row in rows(tmp_path / "run") if row["kind"] == "eval"}
    best = min(evaluations, key=evaluations.get)  # pyright: ignore[reportArgumentType, reportCallIssue]
    kept = sorted(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == sorted({best, 40})


def test_resume_can_lengthen_a_run_but_not_change_what_it_trains(settings, tmp_path):
    start(configured(settings, "train.schedule=constant"), out=tmp_path / "run", quiet=True)
    with pytest.raises(ValueError, match="keeps its optim"):
        resume(tmp_path / "run", overrides=["optim.lr=1"], quiet=True)
    with pytest.raises(ValueError, match=r"keeps train\.batch"):
        resume(tmp_path / "run", overrides=["train.batch=8"], quiet=True)
    resume(tmp_path / "run", overrides=["train.steps=50"], quiet=True)
    start(configured(settings, "train.schedule=constant", "train.steps=50"), out=tmp_path / "whole", quiet=True)
    assert torch.equal(
        load_file(newest(tmp_path / "run") / "model.safetensors")["lm_head.weight"],
        load_file(newest(tmp_path / "whole") / "model.safetensors")["lm_head.weight"],
    )


def test_changed_text_is_refused_on_resume(settings, text, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text(text.read_text())
    settings = [f'data.paths=["{own}"]', *settings[1:]]
    start(configured(settings), out=tmp_path / "run", quiet=True)
    own.write_text(text.read_text()[::-1])
    with pytest.raises(ValueError, match="has changed"):
        resume(tmp_path / "run", quiet=True)


def test_a_run_of_another_version_is_one_clear_line(settings, tmp_path):
    start(configured(settings), out=tmp_path / "run", quiet=True)
    path = tmp_path / "run" / "environment.json"
    path.write_text(path.read_text().replace('"run_format": 1', '"run_format": 99'))
    with pytest.raises(ValueError, match="reads format 1"):
        resume(tmp_path / "run", quiet=True)


def test_a_used_folder_is_not_overwritten(settings, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        start(configured(settings), out=tmp_path / "run", quiet=True)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious.txt"]


def test_diverging_names_the_tensor_the_step_and_the_checkpoint(settings, tmp_path, monkeypatch):
    from steepest.nn import GatedFeedForward

    calls = 0
    original = GatedFeedForward.forward

    def poisoned(self, x):
        nonlocal calls
        calls += 1
        return original(self, x) * (float("inf") if calls > 2 * 25 else 1.0)

    monkeypatch.setattr(GatedFeedForward, "forward", poisoned)
    settings = [*settings, "train.eval_every=0"]
    with pytest.raises(ValueError, match="not finite at step 26") as caught:
        start(configured(settings), out=tmp_path / "run", quiet=True)
    assert "output of model.layers.0.mlp" in str(caught.value)
    assert "last good checkpoint: step 20" in str(caught.value)


def test_an_ungated_model_learns_and_its_checkpoint_says_what_it_is(settings, tmp_path):
    outcome = start(configured(settings, "model.feed_forward=polynorm"), out=tmp_path / "run", quiet=True)
    lines = [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["bits_per_byte"] for line in lines if line["kind"] == "eval"]
    assert losses[-1] < losses[0]
    model = load_llama(sorted((outcome.path / "checkpoints").iterdir())[-1])
    assert model.config.feed_forward == "polynorm"
    start_of = torch.tensor([0, 1 / 3, 1 / 3, 1 / 3])
    assert not torch.allclose(model.model.layers[0].mlp.activation.coefficients, start_of, atol=1e-3)


def test_wild_learning_rate_is_stopped_by_the_first_bad_parameter(settings, tmp_path):
    with pytest.raises(ValueError, match=r"not finite at step \d+"):
        start(
            configured(settings, "optim.name=adamw", "optim.lr=1e38", "train.warmup=0", "train.clip=0"),
            out=tmp_path / "run",
            quiet=True,
        )


def test_tensorboard_has_the_metrics(settings, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    start(configured(settings, "train.tensorboard=true"), out=tmp_path / "run", quiet=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    written = {e.step: e.value for e in events.Scalars("train/loss")}
    expected = {row["step"]: row["loss"] for row in rows(tmp_path / "run") if row["kind"] == "train"}
    assert written == pytest.approx(expected, rel=1e-6)
