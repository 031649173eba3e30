import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from steepest.nn import L1SAE, GatedSAE, JumpReLUSAE, SAEOptions, TopKSAE, load_sae, save_sae

#: Names and shapes in the files of SAELens 6.54.12, written by its own classes for d_in=5, d_sae=7.
LAYOUT = {
    "standard": {"W_enc": (5, 7), "b_enc": (7,), "W_dec": (7, 5), "b_dec": (5,)},
    "gated": {"W_enc": (5, 7), "b_gate": (7,), "r_mag": (7,), "b_mag": (7,), "W_dec": (7, 5), "b_dec": (5,)},
    "jumprelu": {"W_enc": (5, 7), "b_enc": (7,), "threshold": (7,), "W_dec": (7, 5), "b_dec": (5,)},
    "topk": {"W_enc": (5, 7), "b_enc": (7,), "W_dec": (7, 5), "b_dec": (5,)},
}
KINDS = {"standard": L1SAE, "gated": GatedSAE, "jumprelu": JumpReLUSAE, "topk": TopKSAE}


def make(architecture, **options):
    settings = {"k": 3} if architecture == "topk" else {"sparsity": 0.1}
    sae = KINDS[architecture](5, 7, options=SAEOptions(**options), **settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            noise = torch.rand(parameter.shape, generator=generator) * 0.4
            parameter.copy_(noise if name == "threshold" else parameter + noise - 0.2)
    return sae


@pytest.mark.parametrize("decoder", ["unit", "free"])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("architecture", KINDS)
def test_round_trip_computes_the_same(architecture, center, decoder, tmp_path):
    sae = make(architecture, center=center, decoder=decoder)
    before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    save_sae(sae, tmp_path / "sae", metadata={"hook_name": "blocks.0.hook_mlp_out"})
    again = load_sae(tmp_path / "sae")
    x = torch.randn(50, 5, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(again(x), sae(x))
    assert type(again) is type(sae)
    assert again.options.center == center
    assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())
    assert json.loads((tmp_path / "sae/cfg.json").read_text())["metadata"]["hook_name"] == "blocks.0.hook_mlp_out"


@pytest.mark.parametrize("architecture", KINDS)
def test_files_have_the_names_and_shapes_of_saelens(architecture, tmp_path):
    save_sae(make(architecture), tmp_path)
    weights = load_file(tmp_path / "sae_weights.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == LAYOUT[architecture]
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"]) == (architecture, 5, 7)
    assert (config["dtype"], config["apply_b_dec_to_input"]) == ("float32", True)
    assert config.get("k") == (3 if architecture == "topk" else None)


def test_other_dtypes_and_older_thresholds(tmp_path):
    save_sae(make("jumprelu").bfloat16(), tmp_path)
    assert load_sae(tmp_path).W_enc.dtype == torch.bfloat16
    weights = {name: tensor.float() for name, tensor in load_file(tmp_path / "sae_weights.safetensors").items()}
    threshold = weights.pop("threshold")
    save_file({**weights, "log_threshold": threshold.log()}, tmp_path / "sae_weights.safetensors")
    torch.testing.assert_close(load_sae(tmp_path).threshold.detach(), threshold)


def change(folder, **changes):
    path = folder / "cfg.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "temporal"}, "architecture: expected one of standard, gated"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations"),
        ({"reshape_activations": "hook_z"}, "reshape_activations"),
        ({"d_sae": 8}, "does not fit"),
        ({"architecture": "gated"}, "does not fit"),
    ],
)
def test_what_we_cannot_run_is_refused(changes, message, tmp_path):
    save_sae(make("standard"), tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_sae(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no cfg\.json"):
        load_sae(tmp_path)
