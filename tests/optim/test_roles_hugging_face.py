"""Tiny Hugging Face models with random weights; the tables are written from their architectures."""

import warnings

import pytest
import torch

from steepest.optim.roles import parameter_roles
from tests.optim.role_table import table

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

DEVICES = pytest.mark.parametrize("device", ["cpu", "meta"])
USES = pytest.mark.parametrize(
    "inputs", [None, {"input_ids": torch.zeros(1, 3, dtype=torch.long)}], ids=["order", "use"]
)
DECODER = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def build(name: str, device: str = "cpu", **config):
    kind = name
    for ending in ("ForCausalLM", "LMHeadModel", "Model", "ForSequenceClassification", "ForMaskedLM",
                   "ForImageClassification", "ForConditionalGeneration"):  # fmt: skip
        kind = kind.removesuffix(ending)
    model_class, config_class = getattr(transformers, name), getattr(transformers, f"{kind}Config")
    with torch.device(device):
        return model_class(config_class(**config))


def under(prefix: str, rows: dict[str, str]) -> dict[str, str]:
    return {prefix + name: role for name, role in rows.items()}


def with_biases(rows: dict[str, str], names: str) -> dict[str, str]:
    """The rows, and a bias for each weight of the modules named."""
    return rows | {f"{name}.bias": "bias" for name in names.split()}


SEPARATE_ATTENTION = {f"self_attn.{p}_proj.weight": "hidden" for p in "qkvo"}
TWO_NORMS = {"input_layernorm.weight": "gain", "post_attention_layernorm.weight": "gain"}
GATED = {f"mlp.{p}_proj.weight": "hidden" for p in ("gate", "up", "down")}
ENDS = {"model.embed_tokens.weight": "embedding T", "model.norm.weight": "gain", "lm_head.weight": "head"}


@DEVICES
@USES
def test_llama(device, inputs):
    expected = ENDS | under("model.layers.0.", SEPARATE_ATTENTION | GATED | TWO_NORMS)
    assert table(build("LlamaForCausalLM", device, **DECODER), example_inputs=inputs) == expected


@DEVICES
@USES
def test_tied_llama(device, inputs):
    model = build("LlamaForCausalLM", device, **DECODER, tie_word_embeddings=True)
    expected = {"model.embed_tokens.weight": "tied", "model.norm.weight": "gain"}
    assert table(model, example_inputs=inputs) == expected | under(
        "model.layers.0.", SEPARATE_ATTENTION | GATED | TWO_NORMS
    )
    assert parameter_roles(model)[0].aliases == ("lm_head.weight",)


def test_llama_body_has_no_head():
    expected = under("layers.0.", SEPARATE_ATTENTION | GATED | TWO_NORMS)
    model = build("LlamaModel", **DECODER)
    assert table(model) == expected | {"embed_tokens.weight": "embedding T", "norm.weight": "gain"}


@DEVICES
@USES
def test_qwen3(device, inputs):
    model = build("Qwen3ForCausalLM", device, **DECODER, head_dim=8)
    norms = TWO_NORMS | {"self_attn.q_norm.weight": "gain", "self_attn.k_norm.weight": "gain"}
    expected = ENDS | under("model.layers.0.", SEPARATE_ATTENTION | GATED | norms)
    assert table(model, example_inputs=inputs) == expected


EXPERTS = {"mlp.experts.gate_up_proj": "experts 24+24", "mlp.experts.down_proj": "experts"}


@DEVICES
@USES
def test_mixtral(device, inputs):
    model = build("MixtralForCausalLM", device, **DECODER, num_local_experts=3)
    rows = SEPARATE_ATTENTION | TWO_NORMS | EXPERTS | {"mlp.gate.weight": "hidden"}
    assert table(model, example_inputs=inputs if device == "cpu" else None) == ENDS | under("model.layers.0.", rows)
    experts = {e.name: e for e in parameter_roles(model) if e.role == "experts"}
    up, down = (experts[f"model.layers.0.mlp.experts.{name}"] for name in ("gate_up_proj", "down_proj"))
    assert (up.matrix_shapes, up.stack) == (((24, 16), (24, 16)), 3)
    assert (down.matrix_shapes, down.stack) == (((16, 24),), 3)


@DEVICES
def test_experts_that_are_stored_transposed_and_interleaved(device):
    model = build("GptOssForCausalLM", device, **DECODER, num_local_experts=3, head_dim=8)
    rows = with_biases(SEPARATE_ATTENTION, " ".join(f"self_attn.{p}_proj" for p in "qkvo")) | TWO_NORMS
    rows |= {
        "self_attn.sinks": "vector",
        "mlp.router.weight": "hidden",
        "mlp.router.bias": "bias",
        "mlp.experts.gate_up_proj": "experts T",
        "mlp.experts.gate_up_proj_bias": "bias",
        "mlp.experts.down_proj": "experts T",
        "mlp.experts.down_proj_bias": "bias",
    }
    assert table(model) == ENDS | under("model.layers.0.", rows)
    experts = {e.name.rpartition(".")[2]: e for e in parameter_roles(model) if ".experts." in e.name}
    assert (experts["gate_up_proj"].matrix_shape, experts["gate_up_proj"].stack) == ((48, 16), 3)
    assert (experts["gate_up_proj_bias"].fan_out, experts["gate_up_proj_bias"].fan_in) == (48, 1)


@DEVICES
@USES
def test_phi3_fuses_heads_of_unequal_number(device, inputs):
    model = build("Phi3ForCausalLM", device, **DECODER)
    rows = TWO_NORMS | {
        "self_attn.qkv_proj.weight": "hidden 16+8+8",
        "self_attn.o_proj.weight": "hidden",
        "mlp.gate_up_proj.weight": "hidden 24+24",
        "mlp.down_proj.weight": "hidden",
    }
    assert table(model, example_inputs=inputs) == ENDS | under("model.layers.0.", rows)


@DEVICES
@USES
def test_gpt2_is_tied_and_stores_its_matrices_transposed(device, inputs):
    model = build("GPT2LMHeadModel", device, vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=4)
    rows = {
        "ln_1.weight": "gain",
        "attn.c_attn.weight": "hidden 16+16+16 T",
        "attn.c_proj.weight": "hidden T",
        "ln_2.weight": "gain",
        "mlp.c_fc.weight": "hidden T",
        "mlp.c_proj.weight": "hidden T",
    }
    rows = with_biases(rows, "ln_1 attn.c_attn attn.c_proj ln_2 mlp.c_fc mlp.c_proj")
    ends = with_biases({"transformer.ln_f.weight": "gain"}, "transformer.ln_f")
    ends |= {"transformer.wte.weight": "tied", "transformer.wpe.weight": "embedding T"}
    assert table(model, example_inputs=inputs) == ends | under("transformer.h.0.", rows)
    fc = next(entry for entry in parameter_roles(model) if entry.name.endswith("c_fc.weight"))
    assert (fc.shape, fc.matrix_shape, fc.fan_in, fc.fan_out) == ((16, 64), (64, 16), 16, 64)


def test_gpt2_cross_attention_holds_two_blocks():
    config = {"vocab_size": 40, "n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 4}
    roles = table(build("GPT2LMHeadModel", **config, add_cross_attention=True))
    assert roles["transformer.h.0.crossattention.c_attn.weight"] == "hidden 16+16 T"
    assert roles["transformer.h.0.crossattention.q_attn.weight"] == "hidden T"


@DEVICES
def test_gpt_neox_interleaves_its_heads_and_stays_whole(device):
    config = {name: value for name, value in DECODER.items() if name != "num_key_value_heads"}
    model = build("GPTNeoXForCausalLM", device, **config)
    roles = {entry.name: entry for entry in parameter_roles(model)}
    fused = roles["gpt_neox.layers.0.attention.query_key_value.weight"]
    assert (fused.role, fused.blocks) == ("hidden", ())
    assert "interleaves" in fused.reason
    assert roles["gpt_neox.embed_in.weight"].role == "embedding"
    assert roles["lm_head.weight"].role == "head"


BERT = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4}
BERT_BODY = with_biases(
    {
        "embeddings.word_embeddings.weight": "embedding T",
        "embeddings.position_embeddings.weight": "embedding T",
        "embeddings.token_type_embeddings.weight": "embedding T",
        "embeddings.LayerNorm.weight": "gain",
        **{f"encoder.layer.0.attention.self.{p}.weight": "hidden" for p in ("query", "key", "value")},
        "encoder.layer.0.attention.output.dense.weight": "hidden",
        "encoder.layer.0.attention.output.LayerNorm.weight": "gain",
        "encoder.layer.0.intermediate.dense.weight": "hidden",
        "encoder.layer.0.output.dense.weight": "hidden",
        "encoder.layer.0.output.LayerNorm.weight": "gain",
    },
    "embeddings.LayerNorm encoder.layer.0.attention.self.query encoder.layer.0.attention.self.key "
    "encoder.layer.0.attention.self.value encoder.layer.0.attention.output.dense "
    "encoder.layer.0.attention.output.LayerNorm encoder.layer.0.intermediate.dense encoder.layer.0.output.dense "
    "encoder.layer.0.output.LayerNorm",
)
POOLER = {"pooler.dense.weight": "hidden", "pooler.dense.bias": "bias"}


@DEVICES
@USES
def test_bert_body_has_no_head_though_it_ends_with_a_linear(device, inputs):
    assert table(build("BertModel", device, **BERT), example_inputs=inputs) == BERT_BODY | POOLER


@DEVICES
@USES
def test_bert_classifier(device, inputs):
    expected = under("bert.", BERT_BODY | POOLER) | {"classifier.weight": "head", "classifier.bias": "bias"}
    assert table(build("BertForSequenceClassification", device, **BERT), example_inputs=inputs) == expected


@DEVICES
@USES
def test_bert_masked_language_model(device, inputs):
    model = build("BertForMaskedLM", device, **BERT)
    head = {
        "cls.predictions.bias": "bias",
        "cls.predictions.transform.dense.weight": "hidden",
        "cls.predictions.transform.dense.bias": "bias",
        "cls.predictions.transform.LayerNorm.weight": "gain",
        "cls.predictions.transform.LayerNorm.bias": "bias",
    }
    body = BERT_BODY | {"embeddings.word_embeddings.weight": "tied"}
    assert table(model, example_inputs=inputs) == under("bert.", body) | head
    tied = next(entry for entry in parameter_roles(model) if entry.role == "tied")
    assert tied.aliases == ("cls.predictions.decoder.weight",)


@DEVICES
@pytest.mark.parametrize("inputs", [None, {"pixel_values": torch.zeros(1, 3, 8, 8)}], ids=["order", "use"])
def test_vision_transformer(device, inputs):
    config = {name: value for name, value in BERT.items() if name != "vocab_size"}
    model = build("ViTForImageClassification", device, **config, image_size=8, patch_size=4, num_labels=5)
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    expected = dict.fromkeys(weights, "hidden") | {
        "vit.embeddings.cls_token": "vector",
        "vit.embeddings.position_embeddings": "embedding T",
        "vit.embeddings.patch_embeddings.projection.weight": "conv",
        "classifier.weight": "head",
    }
    for name, p in model.named_parameters():
        if p.ndim == 1:
            expected[name] = "gain" if "norm" in name and name.endswith("weight") else "bias"
    assert sum(role == "hidden" for role in expected.values()) == 6
    assert table(model, example_inputs=inputs) == expected
    entries = {entry.name: entry for entry in parameter_roles(model)}
    assert entries["vit.embeddings.patch_embeddings.projection.weight"].matrix_shape == (16, 3 * 4 * 4)


@DEVICES
def test_t5_shares_one_table_between_encoder_decoder_and_head(device):
    model = build(
        "T5ForConditionalGeneration", device, vocab_size=40, d_model=16, d_ff=24, d_kv=4, num_layers=1, num_heads=4
    )
    rows = table(model)
    assert rows["shared.weight"] == "tied"
    assert rows["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] == "embedding T"
    others = {
        name: role for name, role in rows.items() if not name.endswith(("shared.weight", "attention_bias.weight"))
    }
    assert others == {name: "gain" if "layer_norm" in name else "hidden" for name in others}
    assert {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"} <= {
        alias for entry in parameter_roles(model) for alias in entry.aliases
    }


def test_mamba_has_depthwise_filters_and_a_matrix_that_is_none():
    model = build("MambaForCausalLM", vocab_size=40, hidden_size=16, num_hidden_layers=1, state_size=4)
    rows = under(
        "backbone.layers.0.",
        {
            "norm.weight": "gain",
            "mixer.A_log": "other",
            "mixer.D": "vector",
            "mixer.conv1d.weight": "depthwise_conv",
            "mixer.conv1d.bias": "bias",
            "mixer.in_proj.weight": "hidden",
            "mixer.x_proj.weight": "hidden",
            "mixer.dt_proj.weight": "hidden",
            "mixer.dt_proj.bias": "bias",
            "mixer.out_proj.weight": "hidden",
        },
    )
    ends = {"backbone.embeddings.weight": "tied", "backbone.norm_f.weight": "gain"}
    assert table(model) == rows | ends
