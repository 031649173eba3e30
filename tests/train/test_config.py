import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.train.config import (
    OptimConfig,
    RunConfig,
    TrainConfig,
    apply_overrides,
    from_dict,
    read_config,
    to_dict,
    to_toml,
)


def test_toml_and_json_round_trip(tmp_path):
    config = apply_overrides(
        RunConfig(),
        ["model.width=96", 'data.paths=["a \'b\' \\"c\\".txt"]', "optim.lr=1e-2", "train.sample_prompt=O, \u2028 say"],
    )
    (tmp_path / "c.toml").write_text(to_toml(config), encoding="utf-8")
    (tmp_path / "c.json").write_text(json.dumps(to_dict(config)), encoding="utf-8")
    assert read_config(tmp_path / "c.toml") == config
    assert read_config(tmp_path / "c.json") == config


@given(st.text(max_size=30), st.floats(1e-8, 10), st.integers(1, 10**9))
def test_any_values_survive_toml(tmp_path_factory, text, lr, steps):
    config = RunConfig(optim=OptimConfig(lr=lr), train=TrainConfig(steps=steps, sample_prompt=text))
    path = tmp_path_factory.mktemp("toml") / "c.toml"
    path.write_text(to_toml(config), encoding="utf-8")
    assert read_config(path) == config


def test_presets_by_name_and_their_fields():
    config = from_dict({"model": "nano"})
    assert config.model.width == 64
    assert apply_overrides(config, ["model.layers=7"]).model.layers == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", "did you mean train.steps"),
        ("trian.steps=3", "did you mean train"),
        ("train.lr=3", "no setting 'train.lr'"),
        ("train.steps", "section.key=value"),
        ("steps=3", "section.key=value"),
        ("train.steps=many", "whole number"),
        ("train.steps=1.5", "whole number"),
        ("train.steps=true", "whole number"),
        ("train.steps=0", "at least 1"),
        ("optim.lr=0", "above 0"),
        ("optim.lr=-1", "above 0"),
        ("optim.lr=nan", "above 0"),
        ("optim.betas=[0.9]", "optim.betas"),
        ("optim.name=mion", "muon"),
        ("train.schedule=cosin", "cosine"),
        ("train.precision=fp16", "bfloat16"),
        ("train.accumulation=3", "divide"),
        ("train.baselines=1", "true or false"),
        ("data.val_fraction=1.5", "val_fraction"),
    ],
)
def test_bad_overrides_name_the_setting(override, message):
    with pytest.raises(ValueError, match=message):
        apply_overrides(RunConfig(), [override])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.toml", "[train]\nsteps = ", "well-formed"),
        ("c.json", "[1, 2]", "expected tables"),
        ("c.json", '{"train": 3}', "expected a table"),
        ("c.json", "[" * 100000, "well-formed"),
        ("c.yaml", "", "toml or .json"),
        ("c.toml", "[train]\nstep = 3", "did you mean train.steps"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_config(path)
    assert name in str(caught.value)


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().train.steps = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_chooses_its_feed_forward():
    config = apply_overrides(RunConfig(), ["model.feed_forward=relu"])
    assert (config.model.feed_forward, config.model.hidden_ffn_width) == ("relu", 768)
    assert RunConfig().model.hidden_ffn_width == 512
    assert from_dict(to_dict(config)) == config
    with pytest.raises(ValueError, match="did you mean polynorm"):
        apply_overrides(RunConfig(), ["model.feed_forward=polynrom"])


@pytest.mark.parametrize(
    "content", [{"model": {"family": {}}}, {"model": {"init_std": 10**400}}, {"optim": {"lr": 10**400}}]
)
def test_values_that_python_alone_would_refuse_are_refused_in_words(content):
    with pytest.raises(ValueError, match="expected"):
        from_dict(content)
