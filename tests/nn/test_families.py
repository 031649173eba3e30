# SPDX-License-Identifier: Apache-2.0
"""Families of decoders are found, named, written and read back."""

import pytest
import torch

from steepest.nn import DecoderConfig, families, family_preset, load_decoder, load_llama, preset, save_decoder
from steepest.nn.families import config_from_json, in_family


@pytest.mark.parametrize("family", sorted(families()))
def test_every_family_builds_saves_and_loads(family, tmp_path):
    config = in_family(preset("nano", kv_heads=1), family)
    model = config.build(torch.Generator().manual_seed(3))
    save_decoder(model, tmp_path)
    read = load_decoder(tmp_path)
    ids = torch.randint(256, (1, 9))
    assert type(read) is type(model)
    assert torch.equal(read(ids), model(ids))
    assert config_from_json(config.to_json()).to_json() == config.to_json()
    assert read.parameter_count() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("family", sorted(families()))
def test_same_seed_same_weights(family):
    config = in_family(preset("nano"), family)
    first, second = (config.build(torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_presets_by_family():
    assert family_preset("tiny") == preset("tiny")
    assert family_preset("llama-tiny") == preset("tiny")
    assert family_preset("ngpt-tiny").family == "ngpt"
    for name in ("tinny", "nope-tiny", "ngpt-tinny", "ngpt"):
        with pytest.raises(ValueError, match="no model preset"):
            family_preset(name)


def test_a_shape_keeps_its_numbers_in_another_family():
    other = in_family(preset("mini", context=77), "ngpt")
    assert (other.width, other.layers, other.heads, other.context) == (256, 6, 4, 77)
    with pytest.raises(ValueError, match=r"model\.family"):
        in_family(other, "gpt9")


def test_strange_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="model_type 'mamba'"):
        config_from_json({"model_type": "mamba"})
    with pytest.raises(ValueError, match="twirl"):
        config_from_json({"model_type": "ngpt", "twirl": 1})
    save_decoder(family_preset("ngpt-nano").build(), tmp_path)
    with pytest.raises(ValueError, match="NGPT"):
        load_llama(tmp_path)


def test_a_family_cannot_be_half_written():
    with pytest.raises(TypeError, match="abstract"):
        DecoderConfig()
