"""Whole runs of a model of another family: settings, spheres, resuming, sampling."""

import pytest
import torch

from steepest.nn import NGPT, load_decoder
from steepest.train.config import RunConfig, apply_overrides, from_dict, read_config, to_dict, to_toml
from steepest.train.session import resume, start
from tests.train.runs import assert_same_run, configured, newest

NGPT_SETTINGS = ["model.family=ngpt", "optim.name=adamw", "optim.lr=1e-2", "train.warmup=0"]


def test_a_family_is_a_setting(tmp_path):
    config = apply_overrides(RunConfig(), ["model.family=ngpt", "model.alpha_init=0.1", "model.layers=3"])
    assert (config.model.family, config.model.layers, config.model.alpha_init) == ("ngpt", 3, 0.1)
    assert config.model.width == RunConfig().model.width
    assert from_dict(to_dict(config)) == config
    (tmp_path / "run.toml").write_text(to_toml(config))
    assert read_config(tmp_path / "run.toml") == config
    assert from_dict({"model": "ngpt-nano"}).model.width == 64


def test_settings_without_a_family_are_a_llamas():
    values = to_dict(RunConfig())
    del values["model"]["family"]
    assert from_dict(values) == RunConfig()


def test_what_another_family_has_is_refused():
    with pytest.raises(ValueError, match="norm_eps"):
        apply_overrides(RunConfig(), ["model.family=ngpt", "model.norm_eps=1e-5"])
    with pytest.raises(ValueError, match=r"model\.family"):
        apply_overrides(RunConfig(), ["model.family=gpt7"])


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_ngpt_trains_on_its_spheres_and_resumes_bit_for_bit(settings, tmp_path, optimizer):
    settings = [*settings, *NGPT_SETTINGS, f"optim.name={optimizer}", "train.schedule=constant"]
    whole = start(configured(settings), out=tmp_path / "whole", quiet=True).path
    half = start(configured(settings, "train.steps=20"), out=tmp_path / "half", quiet=True).path
    resume(half, overrides=["train.steps=40"], quiet=True)
    for run in (whole, half):
        model = load_decoder(newest(run))
        assert isinstance(model, NGPT)
        for weight, manifold in model.manifolds():
            torch.testing.assert_close(manifold.project(weight.detach()), weight.detach(), atol=1e-6, rtol=0)
    # The shorter run evaluates at its own end, so the records differ there; the weights do not.
    one, two = (load_decoder(newest(run)).state_dict() for run in (whole, half))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_an_ngpt_learns_and_writes(settings, tmp_path):
    run = start(configured(settings, *NGPT_SETTINGS, "train.sample_tokens=20"), out=tmp_path / "run", quiet=True)
    again = start(configured(settings, *NGPT_SETTINGS, "train.sample_tokens=20"), out=tmp_path / "again", quiet=True)
    assert run.status == "finished"
    assert_same_run(run.path, again.path)
    assert (run.path / "sample.txt").stat().st_size > 20
