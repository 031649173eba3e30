"""Low-rank adapters of PEFT: the factors are stepped as matrices, what is frozen stays."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from steepest.optim import Muon, explain
from tests.integrations.small import texts, tiny_llama, weights

# PEFT reads a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def test_lora_factors_move_and_the_base_stays(tmp_path):
    model = get_peft_model(
        tiny_llama(), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    optimizer = Muon(model, lr=0.02)
    rules = {plan.name: (plan.role, plan.rule.partition("(")[0]) for plan in explain(optimizer, model)}
    assert set(rules.values()) == {("lora_a", "muon"), ("lora_b", "muon")}
    assert len(rules) == 2 * 2 * 2  # factors, targets, layers
    start, losses = weights(model), []
    batch = {key: torch.stack([text[key] for text in texts()]) for key in ("input_ids", "labels")}
    for _ in range(6):
        loss = model(**batch).loss
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    for name, p in model.named_parameters():
        assert torch.equal(p, start[name]) == (not p.requires_grad), name
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tiny_llama(), tmp_path)
    assert torch.equal(again(**batch).logits, model.eval()(**batch).logits)
