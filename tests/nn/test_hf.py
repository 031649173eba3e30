# SPDX-License-Identifier: Apache-2.0
"""Patched models against the models as transformers has them, in float64."""

import copy
import io
import subprocess
import sys

import pytest
import torch
import transformers
from torch import nn

from steepest.nn import patch, patched, unpatch
from steepest.nn.hf_modules import Patched

_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 61,
}
_GROUPED = {**_DECODER, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 61, "n_positions": 32, "resid_pdrop": 0.0,
         "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_VIT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 8,
        "patch_size": 4}  # fmt: skip
#: Class to the class of its configuration and the sizes.
MODELS = {
    "LlamaForCausalLM": ("LlamaConfig", _GROUPED),
    "MistralForCausalLM": ("MistralConfig", {**_GROUPED, "sliding_window": 5}),
    "Qwen2ForCausalLM": ("Qwen2Config", _GROUPED),
    "Qwen3ForCausalLM": ("Qwen3Config", _GROUPED),
    "GemmaForCausalLM": ("GemmaConfig", _GROUPED),
    "Gemma2ForCausalLM": ("Gemma2Config", {**_GROUPED, "final_logit_softcapping": 0.5, "attn_logit_softcapping": 0.1}),
    "Gemma3ForCausalLM": ("Gemma3TextConfig", _GROUPED),
    "GPT2LMHeadModel": ("GPT2Config", _GPT2),
    "BertForMaskedLM": ("BertConfig", {**_DECODER, **_NO_DROPOUT}),
    "BertForSequenceClassification": ("BertConfig", {**_DECODER, **_NO_DROPOUT}),
    "ViTForImageClassification": ("ViTConfig", {**_VIT, **_NO_DROPOUT}),
}
CAUSAL = [name for name in MODELS if "CausalLM" in name or "LMHead" in name]


def build(name: str, attention: str = "sdpa") -> nn.Module:
    config, sizes = MODELS[name]
    attention = "eager" if name.startswith("Gemma2") else attention
    torch.manual_seed(0)
    model = getattr(transformers, name)(getattr(transformers, config)(**sizes, attn_implementation=attention))
    with torch.no_grad():
        for parameter in model.parameters():  # norms off their ones and zeros, logits that matter
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def batch(name: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    if name.startswith("ViT"):
        pixels = torch.randn(3, 3, 8, 8, generator=generator, dtype=torch.float64)
        return {"pixel_values": pixels.to(dtype), "labels": torch.tensor([0, 1, 0])}
    ids = torch.randint(1, 61, (3, 11), generator=generator)
    labels = torch.tensor([0, 1, 0]) if "Sequence" in name else ids.masked_fill(ids % 5 == 0, -100)
    return {"input_ids": ids, "labels": labels}


def gradients(model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss, and the gradients of all parameters in one vector."""
    model.zero_grad(set_to_none=True)
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach().double(), torch.cat(
        [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_errors_are_at_most_twice_the_plain_ones(name: str, attention: str):
    model = build(name, attention)
    exact = gradients(copy.deepcopy(model).double(), batch(name, torch.float64))
    plain = gradients(model, batch(name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    patch(model)
    ours = gradients(model, batch(name))
    for found, usual, right in zip(ours, plain, exact, strict=True):
        # The floor is one unit in the last place of the result: the plain loss may be right by luck.
        floor = torch.finfo(torch.float32).eps * right.abs().max()
        assert (found - right).norm() <= 2 * (usual - right).norm() + floor
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_restoring(name: str):
    model = build(name).eval()
    inputs = batch(name)
    plain = model(**inputs)
    classes = [type(module) for module in model.modules()]
    report = patch(model)
    assert sum(report.changed.values()) == sum(isinstance(module, Patched) for module in model.modules())
    ours = model(**inputs)
    torch.testing.assert_close(ours.logits, plain.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.loss, plain.loss)
    assert unpatch(model) == sum(report.changed.values())
    assert [type(module) for module in model.modules()] == classes
    again = model(**inputs)
    assert torch.equal(again.logits, plain.logits)
    assert torch.equal(again.loss, plain.loss)


def test_what_is_changed():
    report = patch(build("LlamaForCausalLM"))
    assert report.changed == {"language_model_head": 1, "rotary_attention": 2, "gated_mlp": 2, "rms_norm": 5}
    assert not report.kept
    assert "rms_norm" in str(report)
    assert patch(build("ViTForImageClassification")).changed == {"layer_norm": 5, "attention": 2, "gelu": 2}
    assert patch(build("GPT2LMHeadModel")).changed == {
        "language_model_head": 1, "layer_norm": 5, "attention": 2, "gelu_tanh": 2
    }  # fmt: skip


@pytest.mark.parametrize("name", CAUSAL)
def test_a_training_step_holds_no_logits_unless_asked(name: str):
    model = build(name)
    patch(model)
    assert model(**batch(name)).logits is None
    assert model(input_ids=batch(name)["input_ids"]).logits.shape == (3, 11, 61)
    unpatch(model)
    with patched(model, keep_logits=True):
        kept = model(**batch(name))
    plain = model(**batch(name))
    torch.testing.assert_close(kept.logits, plain.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kept.loss, plain.loss)


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "GPT2LMHeadModel"])
def test_generates_the_same(name: str):
    model = build(name).eval()
    ids = batch(name)["input_ids"]
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(ids, **options)
    patch(model)
    assert torch.equal(model.generate(ids, **options), plain)


def test_padding_is_masked():
    model = build("LlamaForCausalLM")
    inputs = batch("LlamaForCausalLM")
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][0, :4] = 0
    _, plain = gradients(model, inputs)
    patch(model)
    torch.testing.assert_close(gradients(model, inputs)[1], plain, rtol=1e-4, atol=1e-5)


def test_accumulated_batches_count_their_tokens():
    model = build("LlamaForCausalLM")
    inputs = batch("LlamaForCausalLM")
    plain = model(**inputs, num_items_in_batch=torch.tensor(40)).loss
    patch(model)
    torch.testing.assert_close(model(**inputs, num_items_in_batch=torch.tensor(40)).loss, plain)


@pytest.mark.filterwarnings("ignore:.*activation_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant: bool):
    model = build("LlamaForCausalLM")
    _, plain = gradients(model, batch("LlamaForCausalLM"))
    patch(model)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    torch.testing.assert_close(gradients(model, batch("LlamaForCausalLM"))[1], plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_autocast(name: str):
    model = build(name)
    exact = gradients(copy.deepcopy(model).double(), batch(name, torch.float64))[1]
    with torch.autocast("cpu", torch.bfloat16):
        plain = gradients(model, batch(name))[1]
        patch(model)
        ours = gradients(model, batch(name))[1]
    assert (ours - exact).norm() <= 2 * (plain - exact).norm()


def test_copies_and_pickles_stay_patched():
    model = build("LlamaForCausalLM")
    patch(model)
    inputs = batch("LlamaForCausalLM")
    loss = model(**inputs).loss
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    for other in (copy.deepcopy(model), torch.load(stored, weights_only=False)):
        assert torch.equal(other(**inputs).loss, loss)
        assert other.model.layers[0].self_attn.config.base is other.config
        assert unpatch(other) == 10
    assert model(**inputs).logits is None


def test_save_pretrained(tmp_path):
    model = build("LlamaForCausalLM")
    logits = model.eval()(batch("LlamaForCausalLM")["input_ids"]).logits
    patch(model)
    model.save_pretrained(tmp_path)
    loaded = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert not any(isinstance(module, Patched) for module in loaded.modules())
    assert torch.equal(loaded(batch("LlamaForCausalLM")["input_ids"]).logits, logits)


def test_refusals():
    with pytest.raises(TypeError, match=r"families llama, .*got torch.nn.modules.linear.Linear"):
        patch(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="T5Model"):
        patch(
            transformers.T5Model(
                transformers.T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, vocab_size=9)
            )
        )

    class Own(transformers.LlamaForCausalLM):
        pass

    with pytest.raises(TypeError, match="Own"):
        patch(Own(transformers.LlamaConfig(**_DECODER)))
    model = build("LlamaForCausalLM")
    patch(model)
    with pytest.raises(ValueError, match="patched already"):
        patch(model)
    with pytest.raises(ValueError, match="patched already"), patched(model):
        pass
    assert unpatch(model) == 10
    assert unpatch(model) == 0


def test_unknown_activations_are_kept_and_reported():
    config = transformers.LlamaConfig(**_DECODER, hidden_act="tanh")
    model = transformers.LlamaForCausalLM(config).train()
    inputs = batch("LlamaForCausalLM")
    plain = model(**inputs).loss
    report = patch(model)
    assert "no gated kernel for Tanh" in report.kept["model.layers.0.mlp"]
    torch.testing.assert_close(model(**inputs).loss, plain)


def test_hooks_of_the_classifier_are_called():
    model = build("LlamaForCausalLM")
    patch(model)
    seen = []
    model.lm_head.register_forward_hook(lambda *_: seen.append(1))
    output = model(**batch("LlamaForCausalLM"))
    assert seen == [1]
    assert output.logits is not None


def test_tuples_and_odd_tokens():
    model = build("LlamaForCausalLM")
    inputs = batch("LlamaForCausalLM")
    plain = model(**inputs, return_dict=False)
    patch(model)
    torch.testing.assert_close(model(**inputs, return_dict=False)[0], plain[0])
    with pytest.raises(IndexError):
        model(torch.tensor([[61]]))


def test_importing_steepest_imports_no_transformers():
    code = "import steepest, steepest.nn, sys; steepest.patch; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
