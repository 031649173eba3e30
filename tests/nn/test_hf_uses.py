# SPDX-License-Identifier: Apache-2.0
"""What users of transformers do with a patched model: options of the loss, recorded outputs, padded generation."""

import inspect

import pytest
import torch
import transformers

from steepest.nn import patch, patched, unpatch

_SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_DECODER = {**_SHAPE, "vocab_size": 97, "num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97, "n_positions": 64, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip


def build(family: str, attention: str = "sdpa", **options) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    options = {"attn_implementation": attention, "pad_token_id": 0, **options}
    if family == "GPT2":
        return transformers.GPT2LMHeadModel(transformers.GPT2Config(**_GPT2, **options))
    if family == "Bert":
        return transformers.BertForMaskedLM(transformers.BertConfig(**_SHAPE, vocab_size=97, **options))
    config = getattr(transformers, f"{family}Config")(**_DECODER, **options)
    return getattr(transformers, f"{family}ForCausalLM")(config)


def tokens() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 97, (2, 17), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[0, 3:9] = -100
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["Mistral", "Qwen3", "Gemma", "GPT2"])
def test_generates_the_same_after_padding(family: str, attention: str):
    model, ids = build(family, attention).eval(), tokens()["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    plain = model.generate(ids, **options)
    patch(model)
    assert torch.equal(model.generate(ids, **options), plain)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Bert"])
def test_signatures_are_kept(family: str):
    model = build(family)
    before = {name: inspect.signature(module.forward) for name, module in model.named_modules()}
    patch(model)
    assert {name: inspect.signature(module.forward) for name, module in model.named_modules()} == before


@pytest.mark.parametrize("training", [True, False])
def test_options_of_the_loss(training: bool):
    model, given = build("Llama").train(training), tokens()
    ids = given["input_ids"]
    for options in (
        {"num_items_in_batch": 7},
        {"num_items_in_batch": torch.tensor(7)},
        {"shift_labels": ids.roll(3, 1)},
        {"ignore_index": 5},
        {"labels": torch.full_like(ids, -100)},
        {"attention_mask": torch.ones_like(ids).triu(1)},
    ):
        if "ignore_index" in options:
            options = {**options, "labels": given["labels"].clamp(min=0)}
        inputs = {**given, **options}
        plain = model(**inputs).loss
        with patched(model):
            torch.testing.assert_close(model(**inputs).loss, plain, equal_nan=True)
            torch.testing.assert_close(model(inputs.pop("input_ids"), **inputs).loss, plain, equal_nan=True)


def test_a_loss_of_the_users_own_is_called():
    model = build("Llama").train()
    model.loss_function = lambda logits, labels, **_: 0 * logits.sum() + labels.shape[1]
    patch(model)
    output = model(**tokens())
    assert output.loss == 17
    assert output.logits.shape == (2, 17, 97)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Bert"])
def test_recorded_outputs_are_the_plain_ones(family: str):
    model, inputs = build(family, "eager").eval(), tokens()
    recorded = {"output_attentions": True, "output_hidden_states": True}
    plain = model(**inputs, **recorded)
    patch(model)
    ours = model(**inputs, **recorded)
    for name in ("attentions", "hidden_states"):
        assert len(ours[name]) == len(plain[name]) >= 2
        for mine, theirs in zip(ours[name], plain[name], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_the_attention_is_the_configurations_at_each_call():
    model, inputs = build("Llama", "eager").eval(), tokens()
    patch(model)
    eager = model(**inputs, output_attentions=True)
    assert eager.attentions[0].shape == (2, 4, 17, 17)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(model(**inputs).logits, eager.logits, rtol=1e-4, atol=1e-5)
    unpatch(model)
    torch.testing.assert_close(model(**inputs).logits, eager.logits, rtol=1e-4, atol=1e-5)


def test_the_cache_holds_what_the_plain_one_does():
    model, ids = build("Llama").train(), tokens()["input_ids"]
    plain = model(ids, use_cache=True).cache
    patch(model)
    ours = model(ids, use_cache=True).cache
    for mine, theirs in zip(ours.layers, plain.layers, strict=True):
        torch.testing.assert_close(mine.keys, theirs.keys)
        torch.testing.assert_close(mine.values, theirs.values)


def test_a_failing_forward_leaves_the_classifier_as_it_was():
    model = build("Llama").train()
    patch(model)
    with pytest.raises(ValueError, match="exactly one"):
        model(labels=torch.zeros(1, 2, dtype=torch.long))
    assert "forward" not in model.lm_head.__dict__
    assert model(tokens()["input_ids"]).logits.shape == (2, 17, 97)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_other_dtypes(dtype: torch.dtype):
    model, inputs = build("Llama").to(dtype).train(), tokens()
    plain = model(**inputs).loss
    patch(model)
    ours = model(**inputs).loss
    ours.backward()
    assert all(p.grad is not None and p.grad.dtype == dtype for p in model.parameters())
    torch.testing.assert_close(ours.double(), plain.double(), rtol=1e-5 if dtype == torch.float64 else 2e-2, atol=1e-5)
