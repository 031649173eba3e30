import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steepest.nn import MLP, CheckPlan, Llama, LlamaConfig, WidthScaling, coord_check, draw_checks, spectral_report
from steepest.optim import SGD, SOAP, AdamW, Muon
from steepest.optim.adam_rule import AdamRule
from steepest.optim.muon import MuonRule
from steepest.optim.roles import Role, RoleOverride
from steepest.optim.sgd import SGDRule
from steepest.optim.soap import SOAPRule
from tests.nn.prototypes import prototypes


def mlp(width: int) -> MLP:
    return MLP((64, width, width, 10))


def llama(width: int, **more) -> Llama:
    return Llama(LlamaConfig(vocab_size=50, width=width, layers=1, heads=2, ffn_width=3 * width, context=8, **more))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> dict[str, torch.Tensor]:
    x, y = prototypes(32)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


PAIRS = [(name, method) for name in ("mup", "spectral") for method in ("adam", "sgd", "muon")]


@pytest.mark.parametrize(("parametrization", "method"), [*PAIRS, ("ntk", "adam"), ("ntk", "sgd")])
def test_at_the_base_width_nothing_changes_bit_for_bit(parametrization, method):
    rule = {"adam": AdamRule(), "sgd": SGDRule(), "muon": MuonRule()}[method]
    make = {"adam": AdamW, "sgd": SGD, "muon": Muon}[method]
    torch.manual_seed(3)
    plain = mlp(32)
    torch.manual_seed(3)
    scaling = WidthScaling(mlp, 32, parametrization=parametrization)
    scaled = scaling.build(32)
    after = train(plain, make(plain, lr=0.01, weight_decay=0.0))
    ours = train(scaled, make(scaling.param_groups(scaled, rule), lr=0.01, weight_decay=0.0))
    for name, value in after.items():
        assert torch.equal(value, ours[name]), name


def test_factors_of_a_perceptron():
    scaling = WidthScaling(mlp, 32)
    found = {}
    for role in scaling.roles(128):
        adam, sgd = scaling.lr_factor(role, AdamRule()), scaling.lr_factor(role, SGDRule())
        found[role.name] = (role.kind, scaling.init_factor(role), adam, sgd)
    assert found == {
        "layers.0.weight": ("input", 1.0, 1.0, 4.0),
        "layers.0.bias": ("input", 1.0, 1.0, 4.0),
        "layers.1.weight": ("hidden", 1.0, 0.25, 1.0),
        "layers.1.bias": ("input", 2.0, 1.0, 4.0),
        "layers.2.weight": ("output", 0.5, 0.25, 0.25),
        "layers.2.bias": ("fixed", 2.0, 1.0, 1.0),
    }
    assert "layers.1.weight" in scaling.table(128)


def test_factors_of_a_llama_whose_every_matrix_starts_at_one_size():
    scaling = WidthScaling(lambda width: llama(width, init="normal"), 16)
    found = {role.name: role for role in scaling.roles(64)}
    kinds = {name.removeprefix("model.").removeprefix("layers.0."): role.kind for name, role in found.items()}
    assert kinds["embed_tokens.weight"] == kinds["norm.weight"] == "input"
    assert kinds["mlp.down_proj.weight"] == kinds["self_attn.q_proj.weight"] == "hidden"
    assert kinds["lm_head.weight"] == "output"
    sizes = {role.kind: scaling.init_factor(role) for role in found.values()}
    assert sizes == {"input": 1.0, "hidden": 0.5, "output": 0.25}


def test_muon_gets_the_spectral_factor_and_its_own_scale_is_not_counted_twice():
    scaling = WidthScaling(mlp, 32)
    wanted = {"layers.0.weight": 2.0, "layers.1.weight": 1.0}
    fans = {"layers.0.weight": ((128, 64), (32, 64)), "layers.1.weight": ((128, 128), (32, 32))}
    for role in scaling.roles(128):
        if role.name in wanted:
            rows, base = fans[role.name]
            own = (max(1, rows[0] / rows[1]) / max(1, base[0] / base[1])) ** 0.5
            assert scaling.lr_factor(role, MuonRule()) * own == pytest.approx(wanted[role.name])


def test_queries_whose_heads_grow_make_scores_go_by_one_over_the_head_size():
    scaling = WidthScaling(llama, 16, queries=("q_proj",))
    plain = WidthScaling(llama, 16)
    for ours, other in zip(scaling.roles(64), plain.roles(64), strict=True):
        times = 0.5 if "q_proj" in ours.name else 1.0
        assert scaling.init_factor(ours) == times * plain.init_factor(other)
        assert scaling.lr_factor(ours, AdamRule()) == times * plain.lr_factor(other, AdamRule())
        assert scaling.lr_factor(ours, SGDRule()) == times**2 * plain.lr_factor(other, SGDRule())


def test_a_tied_head_divides_its_input():
    scaling = WidthScaling(lambda width: llama(width, tie_embeddings=True), 16)
    torch.manual_seed(0)
    plain = llama(64, tie_embeddings=True)
    scaled = copy.deepcopy(plain)
    scaling.scale_init_(scaled)
    ids = torch.arange(6).view(1, 6)
    assert not torch.allclose(scaled(ids), plain(ids))
    torch.testing.assert_close(4 * copy.deepcopy(scaled)(ids), plain(ids))


@pytest.mark.parametrize(("with_lr", "kept"), [(False, 1 - 0.1 * 0.5), (True, 1 - 0.1 * 0.25 * 0.5)])
def test_weight_decay_by_both_conventions(with_lr, kept):
    scaling = WidthScaling(lambda width: MLP((64, width, width, 10), bias=False), 32)
    model = scaling.build(128)
    before = model.layers[1].weight.detach().clone()
    optimizer = AdamW(scaling.param_groups(model, weight_decay=0.5, decay_with_lr=with_lr), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.layers[1].weight.detach(), before * kept)


def test_sizes_stay_under_mup_and_the_spectral_condition_and_not_under_sp(tmp_path):
    checks = {}
    for name in ("sp", "mup", "spectral"):
        checks[name] = coord_check(mlp, (64, 256), prototypes(), parametrization=name, plan=CheckPlan(lr=0.02))
    assert checks["mup"].holds(), checks["mup"].ratios()
    assert checks["spectral"].holds(), checks["spectral"].ratios()
    assert max(checks["sp"].ratios().values()) > 2, checks["sp"].ratios()
    assert not checks["sp"].holds()
    draw_checks(list(checks.values()), tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 10_000


@pytest.mark.parametrize(("rule", "make", "lr"), [(AdamRule(), AdamW, 1e-3), (SGDRule(), SGD, 0.1)])
def test_updates_meet_the_spectral_condition_at_every_width(rule, make, lr):
    sizes = []
    for width in (64, 256):
        scaling = WidthScaling(mlp, 64)
        torch.manual_seed(0)
        model = scaling.build(width)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        train(model, make(scaling.param_groups(model, rule), lr=lr), steps=2)
        sizes.append({line.name: line.update for line in spectral_report(model, before)})
    for name, narrow in sizes[0].items():
        assert 0.7 < sizes[1][name] / narrow < 1.4, (name, sizes)


def test_spectral_report_equals_the_definition():
    model = mlp(32)
    lines = {line.name: line for line in spectral_report(model)}
    weight = model.layers[2].weight.detach()
    expected = torch.linalg.matrix_norm(weight, ord=2).item() / (10 / 32) ** 0.5
    assert lines["layers.2.weight"].weight == pytest.approx(expected, rel=1e-5)
    assert set(lines) == {"layers.0.weight", "layers.1.weight", "layers.2.weight"}
    assert "layers.2.weight" in str(lines["layers.2.weight"])
    with pytest.raises(ValueError, match="before"):
        spectral_report(model, {})


class Positions(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.thing = nn.Parameter(torch.randn(5, 3, width))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(x + self.thing)


def odd_start(width: int) -> nn.Module:
    model = mlp(width)
    with torch.no_grad():
        model.layers[1].weight.mul_(width**0.25)
    return model


def test_what_cannot_be_scaled_is_refused():
    with pytest.raises(ValueError, match="same shapes"):
        WidthScaling(lambda width: mlp(8), 32)
    with pytest.raises(ValueError, match="depth"):
        WidthScaling(lambda width: MLP([64, *[width] * (width // 32), 10]), 32)
    with pytest.raises(ValueError, match="half power"):
        WidthScaling(odd_start, 32)
    with pytest.raises(ValueError, match="mean-field"):
        WidthScaling(mlp, 32, parametrization="mean_field")
    with pytest.raises(ValueError, match="queries"):
        WidthScaling(mlp, 32, queries=("q_proj",))
    with pytest.raises(ValueError, match="overrides"):
        WidthScaling(Positions, 32)
    positions = {"thing": RoleOverride(Role.EMBEDDING, transposed=True)}
    assert WidthScaling(Positions, 32, overrides=positions).roles(64)[0].kind == "input"
    scaling = WidthScaling(mlp, 32)
    with pytest.raises(ValueError, match="member of the family"):
        scaling.param_groups(llama(16))
    with pytest.raises(ValueError, match="update="):
        scaling.param_groups(scaling.build(64), SOAPRule())
    assert SOAP(scaling.param_groups(scaling.build(64), SOAPRule(), update="entrywise")).param_groups
    with pytest.raises(ValueError, match="decay_with_lr"):
        scaling.param_groups(scaling.build(64), decay_with_lr=True)
    with pytest.raises(ValueError, match="two"):
        coord_check(mlp, (64,), prototypes())
    with pytest.raises(ValueError, match="optimizer"):
        CheckPlan(optimizer="muon")
