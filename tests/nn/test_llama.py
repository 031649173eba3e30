import math

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM
from transformers import LlamaConfig as HuggingFaceConfig

from steepest.nn import PRESETS, Llama, LlamaConfig, gated_width, load_llama, preset, save_llama
from steepest.nn.feed_forward import GATED, UNGATED

SHAPES = {
    "plain": LlamaConfig(vocab_size=97, width=64, layers=2, heads=4, context=48, init="normal"),
    "grouped, tied": LlamaConfig(
        vocab_size=64, width=48, layers=3, heads=6, kv_heads=2, context=32, tie_embeddings=True, init="normal"
    ),
    "one key/value head": LlamaConfig(vocab_size=31, width=32, layers=1, heads=4, kv_heads=1, init="normal"),
}


@pytest.fixture(params=SHAPES, ids=SHAPES.get)
def model(request) -> Llama:
    return Llama(SHAPES[request.param], generator=torch.Generator().manual_seed(3)).requires_grad_(False)


def twin(model: Llama) -> LlamaForCausalLM:
    other = LlamaForCausalLM(HuggingFaceConfig(**model.config.to_hugging_face()))
    other.load_state_dict(model.state_dict())
    return other.eval().requires_grad_(False)


def test_logits_equal_hugging_faces_in_float64(model):
    ids = torch.randint(model.config.vocab_size, (2, 29), generator=torch.Generator().manual_seed(1))
    other = twin(model)
    expected, ours = other.double()(ids).logits, model.double()(ids)
    # Both compute the rotary table in float32, by different formulas: that leaves 1e-6 of an angle.
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_error_in_float32_is_no_worse_than_hugging_faces(model):
    ids = torch.randint(model.config.vocab_size, (2, 29), generator=torch.Generator().manual_seed(1))
    other = twin(model)
    in_float32, ours = other(ids).logits, model(ids)
    exact = other.double()(ids).logits
    assert (ours - exact).abs().max() <= 2 * (in_float32 - exact).abs().max() + 1e-6


def test_folder_loads_in_hugging_face_and_back(model, tmp_path):
    save_llama(model, tmp_path / "ours")
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    again = load_llama(tmp_path / "theirs")
    for (name, before), (_, after) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(before, after), name


def test_each_position_sees_only_the_past(model):
    ids = torch.randint(model.config.vocab_size, (1, 20), generator=torch.Generator().manual_seed(2))
    changed = ids.clone()
    changed[0, 12] = (ids[0, 12] + 1) % model.config.vocab_size
    before, after = model(ids), model(changed)
    assert torch.equal(before[:, :12], after[:, :12])
    assert not torch.equal(before[:, 12:], after[:, 12:])


def test_parameter_parity_of_the_gate():
    for width in (64, 192, 768, 4096):
        gated, ungated = 3 * width * gated_width(width), 2 * width * 4 * width
        assert 1 <= gated / ungated < 1 + 3 * 32 / (8 * width)


def test_presets_reach_from_a_tenth_of_a_million_to_billions():
    with torch.device("meta"):
        sizes = [Llama(config).parameter_count(blocks_only=True) for config in PRESETS.values()]
    assert sizes == sorted(sizes)
    assert 0.09e6 < sizes[0] < 0.12e6
    assert sizes[-1] > 1e9


def test_mup_initialization_gives_unit_outputs_at_every_width():
    for width in (64, 256, 1024):
        model = Llama(LlamaConfig(width=width, heads=2, layers=1), generator=torch.Generator().manual_seed(0))
        x = torch.randn(256, width, generator=torch.Generator().manual_seed(1))
        assert model.model.layers[0].mlp.gate_proj(x).std().item() == pytest.approx(1, rel=0.05)
        assert not model.lm_head.weight.any()
        ids = torch.zeros(1, 4, dtype=torch.long)
        assert model(ids, targets=ids).mean().item() == pytest.approx(math.log(256))


def test_same_generator_same_weights():
    one, two = (Llama(preset("nano"), generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 65}, "even multiple"),
        ({"heads": 5}, "even multiple"),
        ({"kv_heads": 3}, "must divide"),
        ({"layers": 0}, "at least 1"),
        ({"norm_eps": 0.0}, "above 0"),
        ({"init": "xavier"}, "'mup' or 'normal'"),
        ({"hidden": 3}, "no field"),
    ],
)
def test_bad_shapes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        preset("nano", **changes)


def test_unknown_preset_names_the_known_ones():
    with pytest.raises(ValueError, match="nano"):
        preset("huge")


def test_hugging_face_config_we_cannot_run_is_refused():
    config = {**SHAPES["plain"].to_hugging_face(), "attention_bias": True}
    with pytest.raises(ValueError, match="attention_bias"):
        LlamaConfig.from_hugging_face(config)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_llama(Llama(preset("nano")), tmp_path)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"intermediate_size": 192', '"intermediate_size": 96'))
    with pytest.raises(ValueError, match="does not fit"):
        load_llama(tmp_path)


def per_kind(**changes):
    return {kind: LlamaConfig(width=64, heads=2, layers=2, feed_forward=kind, **changes) for kind in (*GATED, *UNGATED)}


def test_every_feed_forward_has_as_many_parameters():
    with torch.device("meta"):
        counts = {kind: Llama(config).parameter_count() for kind, config in per_kind().items()}
    own = {"swish": 1, "polyrelu": 4, "polynorm": 4}  # an activation's coefficients, in each layer
    assert {kind: count - 2 * own.get(kind, 0) for kind, count in counts.items()} == dict.fromkeys(
        counts, counts["relu"]
    )


@pytest.mark.parametrize("kind", GATED)
def test_any_gate_is_hugging_faces_llama_with_that_activation(kind, tmp_path):
    config = per_kind(vocab_size=50, init="normal")[kind]
    model = Llama(config, generator=torch.Generator().manual_seed(3)).requires_grad_(False)
    ids = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model.double()(ids), twin(model).double()(ids).logits, rtol=1e-5, atol=1e-6)
    save_llama(model.float(), tmp_path)
    assert load_llama(tmp_path).config.feed_forward == kind


@pytest.mark.parametrize("kind", UNGATED)
def test_an_ungated_model_is_saved_and_refused_elsewhere(kind, tmp_path):
    model = Llama(per_kind(vocab_size=50, init="normal")[kind]).requires_grad_(False)
    save_llama(model, tmp_path)
    again = load_llama(tmp_path)
    ids = torch.randint(50, (2, 9))
    assert torch.equal(again(ids), model(ids))
    assert again.config.feed_forward == kind
    with pytest.raises(ValueError, match="steepest_llama"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_activations_start_where_they_should_whatever_the_model_draws():
    for kind, start in (("polynorm", [0, 1 / 3, 1 / 3, 1 / 3]), ("polyrelu", [0, 1 / 3, 1 / 3, 1 / 3])):
        with torch.device("meta"):
            model = Llama(per_kind()[kind])
        model = model.to_empty(device="cpu")
        model.reset_parameters()
        for block in model.model.layers:
            torch.testing.assert_close(block.mlp.activation.coefficients.detach(), torch.tensor(start))


def test_the_default_draws_the_weights_it_always_drew():
    # Printed by these two lines at commit f4880e1, when the feed-forward had one kind.
    model = Llama(preset("nano"), generator=torch.Generator().manual_seed(5))
    sums = [
        model.state_dict()[f"model.layers.1.mlp.{name}_proj.weight"].double().sum().item()
        for name in ("gate", "up", "down")
    ]
    assert sums == pytest.approx([-1.0172116405047404, -5.402233583684392, 3.4921245644909504], abs=1e-9)


def test_unknown_feed_forward_names_the_near_ones():
    with pytest.raises(ValueError, match=r"model.feed_forward: .* did you mean swiglu"):
        preset("nano", feed_forward="swigul")
