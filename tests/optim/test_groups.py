import pytest
import torch
from torch import nn

from steepest.nn.llama import Llama
from steepest.nn.llama_config import LlamaConfig
from steepest.optim import AdamW, Muon, SinkGD, param_groups
from steepest.optim.adam_rule import AdamRule
from tests.optim.gradients import give_gradients


def rules(optimizer) -> dict[str, str]:
    return {name: group["rule"].partition("(")[0] for group in optimizer.param_groups for name in group["param_names"]}


def tiny_llama(**settings) -> Llama:
    config = LlamaConfig(vocab_size=50, width=16, ffn_width=24, layers=2, heads=4, kv_heads=2, context=8, **settings)
    return Llama(config)


def test_each_parameter_once_and_matrices_alone_to_the_matrix_method():
    model = tiny_llama(tie_embeddings=False)
    chosen = rules(Muon(model))
    assert sorted(chosen) == sorted(name for name, _ in model.named_parameters())
    for name, rule in chosen.items():
        hidden = ".layers." in name and "norm" not in name
        assert rule == ("muon" if hidden else "adam"), name


def test_tied_weights_go_to_adam_once():
    model = tiny_llama(tie_embeddings=True)
    optimizer = Muon(model)
    tied = [g for g in optimizer.param_groups if g["role"] == "tied"]
    assert len(tied) == 1
    assert tied[0]["rule"] == "adam"
    assert len(tied[0]["params"]) == 1


def test_vectors_do_not_decay_and_entrywise_methods_take_everything():
    optimizer = AdamW(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)), weight_decay=0.1)
    decay = {group["role"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {"hidden": 0.1, "head": 0.1, "bias": 0.0, "gain": 0.0}
    assert set(rules(optimizer).values()) == {"adam"}


def test_others_overrides_and_learning_rates():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = param_groups(
        model, others=AdamRule(betas=(0.8, 0.9)), others_lr=7e-4, overrides={"2.weight": "head", "4.weight": "hidden"}
    )
    optimizer = Muon(groups, lr=0.5)
    assert rules(optimizer)["2.weight"] == "adam"
    assert rules(optimizer)["4.weight"] == "muon"
    by_name = {name: group for group in optimizer.param_groups for name in group["param_names"]}
    assert by_name["2.weight"]["lr"] == 7e-4
    assert by_name["2.weight"]["betas"] == (0.8, 0.9)
    assert by_name["4.weight"]["lr"] == 0.5


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ValueError, match="wieght"):
        param_groups(nn.Linear(3, 2), overrides={"wieght": "head"})


def test_nothing_to_train_is_refused():
    model = nn.Linear(3, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="no trainable"):
        Muon(model)


def test_fused_projections_are_stepped_block_by_block():
    """in_proj_weight holds three matrices: its step is that of each of them alone."""
    layer = nn.MultiheadAttention(8, 2, bias=False).double()
    with torch.no_grad():
        parts = [nn.Parameter(part.clone()) for part in layer.in_proj_weight.split(8)]
    optimizer = Muon(layer, lr=0.1)
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    give_gradients(list(layer.parameters()), 0)
    alone = Muon(parts, lr=0.1)
    for part, grad in zip(parts, layer.in_proj_weight.grad.split(8), strict=True):
        part.grad = grad.clone()
    optimizer.step()
    alone.step()
    assert "in_proj_weight" in names
    torch.testing.assert_close(layer.in_proj_weight, torch.cat(parts))


def test_convolutions_are_stepped_as_flattened_matrices_and_transposed_ones_by_outputs():
    for layer, flatten in (
        (nn.Conv2d(4, 6, 3, bias=False), lambda w: w.flatten(1)),
        (nn.ConvTranspose1d(4, 6, 3, bias=False), lambda w: w.transpose(0, 1).flatten(1)),
    ):
        layer = layer.double()
        matrix = nn.Parameter(flatten(layer.weight.detach()).clone())
        optimizer = Muon(nn.Sequential(layer, nn.Flatten(), nn.Linear(2, 2).double()), lr=0.1)
        give_gradients([layer.weight], 0)
        matrix.grad = flatten(layer.weight.grad).clone()
        optimizer.step()
        Muon([matrix], lr=0.1).step()
        torch.testing.assert_close(flatten(layer.weight.detach()), matrix.detach())


def test_sinkgd_keeps_no_state_on_matrices():
    model = tiny_llama(tie_embeddings=False)
    optimizer = SinkGD(model)
    give_gradients(list(model.parameters()), 0)
    optimizer.step()
    for group in optimizer.param_groups:
        for p in group["params"]:
            keys = set(optimizer.state[p]) - {"step"}
            assert keys == (set() if group["role"] == "hidden" else {"exp_avg", "exp_avg_sq"})
