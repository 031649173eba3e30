import math

import pytest
import torch
from torch import nn

from steepest.nn import Llama, preset
from steepest.optim.roles import ParameterRole, Role, frozen_parameters, parameter_roles
from tests.optim.role_table import table


def by_name(model, **options) -> dict[str, ParameterRole]:
    return {entry.name: entry for entry in parameter_roles(model, **options)}


BLOCK = {
    "self_attn.q_proj.weight": "hidden",
    "self_attn.k_proj.weight": "hidden",
    "self_attn.v_proj.weight": "hidden",
    "self_attn.o_proj.weight": "hidden",
    "mlp.gate_proj.weight": "hidden",
    "mlp.up_proj.weight": "hidden",
    "mlp.down_proj.weight": "hidden",
    "input_layernorm.weight": "gain",
    "post_attention_layernorm.weight": "gain",
}


@pytest.mark.parametrize("inputs", [None, torch.zeros(1, 4, dtype=torch.long)], ids=["order", "use"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_our_llama_untied(inputs, device):
    model = Llama(preset("nano", layers=2)).to(device)
    assert table(model, example_inputs=inputs) == {
        "model.embed_tokens.weight": "embedding T",
        **{f"model.layers.{i}.{name}": role for i in range(2) for name, role in BLOCK.items()},
        "model.norm.weight": "gain",
        "lm_head.weight": "head",
    }


@pytest.mark.parametrize("inputs", [None, torch.zeros(1, 4, dtype=torch.long)], ids=["order", "use"])
def test_our_llama_tied(inputs):
    model = Llama(preset("nano", layers=1, tie_embeddings=True))
    assert table(model, example_inputs=inputs) == {
        "model.embed_tokens.weight": "tied",
        **{f"model.layers.0.{name}": role for name, role in BLOCK.items()},
        "model.norm.weight": "gain",
    }
    assert by_name(model)["model.embed_tokens.weight"].aliases == ("lm_head.weight",)


def test_llama_body_has_no_head():
    assert "head" not in table(Llama(preset("nano")).model).values()


class ConvNet(nn.Module):
    """The parts of image models: a stem on one channel, depthwise, grouped, transposed, 1-D and 3-D convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 8, 3, groups=4, bias=False)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2, bias=False)
        self.norm = nn.GroupNorm(2, 12)
        self.up = nn.ConvTranspose2d(12, 6, 2, bias=False)
        self.up_grouped = nn.ConvTranspose2d(6, 4, 2, groups=2, bias=False)
        self.act = nn.PReLU()
        self.fc = nn.Linear(4, 10)

    def forward(self, x):
        x = self.norm(self.grouped(self.depthwise(self.bn(self.stem(x)))))
        return self.fc(self.act(self.up_grouped(self.up(x))).mean((2, 3)))


@pytest.mark.parametrize("inputs", [None, torch.zeros(1, 1, 12, 12)], ids=["order", "use"])
def test_convolutional_network(inputs):
    assert table(ConvNet(), example_inputs=inputs) == {
        "stem.weight": "conv",
        "stem.bias": "bias",
        "bn.weight": "gain",
        "bn.bias": "bias",
        "depthwise.weight": "depthwise_conv",
        "grouped.weight": "grouped_conv",
        "norm.weight": "gain",
        "norm.bias": "bias",
        "up.weight": "conv T",
        "up_grouped.weight": "grouped_conv T",
        "act.weight": "vector",
        "fc.weight": "head",
        "fc.bias": "bias",
    }


def test_shapes_of_convolutions_as_matrices():
    roles = by_name(ConvNet())
    assert roles["stem.weight"].matrix_shape == (4, 9)
    assert (roles["depthwise.weight"].matrix_shape, roles["depthwise.weight"].stack) == ((2, 9), 4)
    assert (roles["grouped.weight"].matrix_shape, roles["grouped.weight"].stack) == ((6, 4 * 9), 2)
    assert (roles["up.weight"].matrix_shape, roles["up.weight"].stack) == ((6, 12 * 4), 1)
    assert (roles["up_grouped.weight"].matrix_shape, roles["up_grouped.weight"].stack) == ((2, 3 * 4), 2)
    assert (roles["fc.weight"].fan_in, roles["fc.weight"].fan_out) == (4, 10)
    assert (roles["fc.bias"].fan_in, roles["fc.bias"].fan_out) == (1, 10)
    assert roles["bn.weight"].matrix_shape == (4, 1)


def test_matrices_hold_every_entry_of_every_parameter():
    models = [ConvNet(), nn.LSTM(3, 4), nn.MultiheadAttention(8, 2), nn.Bilinear(2, 3, 4), nn.Embedding(5, 3)]
    for entry in (entry for model in models for entry in parameter_roles(model)):
        assert entry.stack * sum(m * n for m, n in entry.matrix_shapes) == math.prod(entry.shape), entry


def test_convolutions_of_other_dimensions():
    model = nn.ModuleList([nn.Conv1d(6, 6, 3, groups=6), nn.Conv3d(2, 4, 3), nn.ConvTranspose1d(4, 4, 2, groups=4)])
    roles = [(str(r.role), r.matrix_shape, r.transposed) for r in parameter_roles(model) if len(r.shape) > 1]
    assert roles == [
        ("depthwise_conv", (1, 3), False),
        ("conv", (4, 54), False),
        ("depthwise_conv", (1, 2), True),
    ]


LAYER = {
    "self_attn.in_proj_weight": "hidden 8+8+8",
    "self_attn.in_proj_bias": "bias",
    "self_attn.out_proj.weight": "hidden",
    "self_attn.out_proj.bias": "bias",
    "linear1.weight": "hidden",
    "linear1.bias": "bias",
    "linear2.weight": "hidden",
    "linear2.bias": "bias",
    "norm1.weight": "gain",
    "norm1.bias": "bias",
    "norm2.weight": "gain",
    "norm2.bias": "bias",
}


@pytest.mark.parametrize("inputs", [None, (torch.zeros(1, 3, 8), torch.zeros(1, 2, 8))], ids=["order", "use"])
def test_torch_transformer(inputs):
    model = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)
    cross = {name.replace("self_", "multihead_"): role for name, role in LAYER.items() if name.startswith("self_")}
    expected = {f"encoder.layers.0.{name}": role for name, role in LAYER.items()}
    expected |= {"encoder.norm.weight": "gain", "encoder.norm.bias": "bias"}
    expected |= {f"decoder.layers.0.{name}": role for name, role in (LAYER | cross).items()}
    expected |= {"decoder.layers.0.norm3.weight": "gain", "decoder.layers.0.norm3.bias": "bias"}
    expected |= {"decoder.norm.weight": "gain", "decoder.norm.bias": "bias"}
    assert table(model, example_inputs=inputs) == expected


def test_attention_with_keys_of_another_width():
    model = nn.MultiheadAttention(8, 2, kdim=4, vdim=6, add_bias_kv=True)
    assert table(model) == {
        "q_proj_weight": "hidden",
        "k_proj_weight": "hidden",
        "v_proj_weight": "hidden",
        "in_proj_bias": "bias",
        "bias_k": "vector",
        "bias_v": "vector",
        "out_proj.weight": "hidden",
        "out_proj.bias": "bias",
    }


class Tagger(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embed = nn.EmbeddingBag(20, 3)
        self.rnn = kind(3, 5, **options)
        self.out = nn.Linear(5, 4)

    def forward(self, ids):
        return self.out(self.rnn(self.embed(ids)[None])[0])


@pytest.mark.parametrize("inputs", [None, torch.zeros(2, 6, dtype=torch.long)], ids=["order", "use"])
@pytest.mark.parametrize(
    ("kind", "blocks"), [(nn.LSTM, " 5+5+5+5"), (nn.GRU, " 5+5+5"), (nn.RNN, "")], ids=["lstm", "gru", "rnn"]
)
def test_recurrent_networks(kind, blocks, inputs):
    assert table(Tagger(kind), example_inputs=inputs) == {
        "embed.weight": "embedding T",
        "rnn.weight_ih_l0": f"hidden{blocks}",
        "rnn.weight_hh_l0": f"hidden{blocks}",
        "rnn.bias_ih_l0": "bias",
        "rnn.bias_hh_l0": "bias",
        "out.weight": "head",
        "out.bias": "bias",
    }


def test_projected_lstm_and_cells():
    assert table(nn.LSTM(3, 5, proj_size=2, bias=False, bidirectional=True)) == {
        f"weight_{kind}_l0{way}": role
        for way in ("", "_reverse")
        for kind, role in (("ih", "hidden 5+5+5+5"), ("hh", "hidden 5+5+5+5"), ("hr", "hidden"))
    }
    assert table(nn.GRUCell(3, 5)) == {
        "weight_ih": "hidden 5+5+5",
        "weight_hh": "hidden 5+5+5",
        "bias_ih": "bias",
        "bias_hh": "bias",
    }


def test_nested_sequential():
    model = nn.Sequential(
        nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Sequential(nn.LayerNorm(8), nn.Sequential(nn.Linear(8, 3)))
    )
    assert table(model) == {
        "0.0.weight": "hidden",
        "0.0.bias": "bias",
        "1.0.weight": "gain",
        "1.0.bias": "bias",
        "1.1.0.weight": "head",
        "1.1.0.bias": "bias",
    }


def test_bilinear_is_a_stack_and_what_feeds_a_norm_is_hidden():
    assert table(nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4))) == {
        "0.weight": "hidden",
        "0.bias": "bias",
        "1.weight": "gain",
    }
    entries = by_name(nn.Bilinear(2, 3, 4))
    assert (entries["weight"].role, entries["weight"].matrix_shape, entries["weight"].stack) == (
        Role.EXPERTS,
        (2, 3),
        4,
    )


def test_weight_normalization_and_spectral_norm():
    by_torch = torch.nn.utils.parametrizations
    model = nn.Sequential(
        by_torch.weight_norm(nn.Linear(3, 4)),
        by_torch.spectral_norm(nn.Conv2d(4, 4, 1)),
        by_torch.orthogonal(nn.Linear(4, 4)),
    )
    assert table(model) == {
        "0.bias": "bias",
        "0.parametrizations.weight.original0": "gain",
        "0.parametrizations.weight.original1": "hidden",
        "1.bias": "bias",
        "1.parametrizations.weight.original": "conv",
        "2.bias": "bias",
        "2.parametrizations.weight.original": "head",
    }
    assert by_name(model)["0.parametrizations.weight.original1"].module_type == "Linear"


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_weight_normalization_of_the_older_kind():
    model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(3, 4)), nn.Linear(4, 2))
    assert table(model) == {
        "0.bias": "bias",
        "0.weight_g": "gain",
        "0.weight_v": "hidden",
        "1.weight": "head",
        "1.bias": "bias",
    }


def test_frozen_parameters_are_listed_apart():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    model[0].weight.requires_grad_(False)
    assert table(model) == {"0.bias": "bias", "1.weight": "head", "1.bias": "bias"}
    (frozen,) = frozen_parameters(model)
    assert (frozen.name, frozen.role, frozen.trainable) == ("0.weight", Role.HIDDEN, False)


class LoraLinear(nn.Module):
    """The layout of peft: the frozen layer inside, its factors in dictionaries of adapters."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})


class LoraModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.lora_embedding_A = nn.ParameterDict({"default": nn.Parameter(torch.zeros(2, 20))})
        self.lora_embedding_B = nn.ParameterDict({"default": nn.Parameter(torch.zeros(8, 2))})
        self.qkv_proj = LoraLinear(nn.Linear(8, 24, bias=False), 2)
        self.out = LoraLinear(nn.Linear(24, 8, bias=False), 2)
        self.lora_a = nn.Parameter(torch.zeros(24, 3))
        self.lora_b = nn.Parameter(torch.zeros(3, 8))


def test_low_rank_factors():
    model = LoraModel()
    model.embed.requires_grad_(False)
    assert table(model) == {
        "lora_a": "lora_a T",
        "lora_b": "lora_b T",
        "lora_embedding_A.default": "lora_a",
        "lora_embedding_B.default": "lora_b",
        "qkv_proj.lora_A.default.weight": "lora_a",
        "qkv_proj.lora_B.default.weight": "lora_b",
        "out.lora_A.default.weight": "lora_a",
        "out.lora_B.default.weight": "lora_b",
    }
    frozen = {entry.name: (str(entry.role), entry.blocks) for entry in frozen_parameters(model)}
    assert frozen == {
        "embed.weight": ("embedding", ()),
        "qkv_proj.base_layer.weight": ("hidden", (8, 8, 8)),
        "out.base_layer.weight": ("head", ()),
    }
    assert by_name(model)["lora_a"].matrix_shape == (3, 24)
