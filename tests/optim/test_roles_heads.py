"""Heads, ties and use: the cases that a split by `ndim` and by the name "head" gets wrong."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steepest.optim.roles import Role, parameter_roles
from tests.optim.role_table import table

IDS = torch.zeros(1, 3, dtype=torch.long)


class Decoder(nn.Module):
    """A model in the manner of nanoGPT; `width` rows of positions make the shapes of table and matrices coincide."""

    def __init__(self, vocab=50, width=8, positions=8, head_first=False, ties=False):
        super().__init__()
        if head_first:
            self.unembed = nn.Linear(width, vocab, bias=False)
        self.wte = nn.Embedding(vocab, width)
        self.wpe = nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width), "fc": nn.Linear(width, 4 * width),
                 "fc_out": nn.Linear(4 * width, width)}
            )
            for _ in range(2)
        )  # fmt: skip
        if not head_first:
            self.unembed = nn.Linear(width, vocab, bias=False)
        if ties:
            self.unembed.weight = self.wte.weight

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            query, key, value = block["qkv"](x).chunk(3, -1)
            x = x + block["proj"](F.scaled_dot_product_attention(query, key, value))
            x = x + block["fc_out"](F.gelu(block["fc"](x)))
        return {"logits": self.unembed(x), "loss": None}


BLOCK = {
    "qkv.weight": "hidden 8+8+8",
    "qkv.bias": "bias",
    "proj.weight": "hidden",
    "proj.bias": "bias",
    "fc.weight": "hidden",
    "fc.bias": "bias",
    "fc_out.weight": "hidden",
    "fc_out.bias": "bias",
}
BLOCKS = {f"blocks.{i}.{name}": role for i in range(2) for name, role in BLOCK.items()}


@pytest.mark.parametrize("inputs", [None, IDS], ids=["order", "use"])
@pytest.mark.parametrize("positions", [5, 8, 32], ids=["few", "as-wide", "as-the-feed-forward"])
@pytest.mark.parametrize("head_first", [False, True])
def test_head_of_another_name_wherever_it_is_registered(inputs, positions, head_first):
    model = Decoder(positions=positions, head_first=head_first)
    expected = {"wte.weight": "embedding T", "wpe.weight": "embedding T", "unembed.weight": "head", **BLOCKS}
    assert table(model, example_inputs=inputs) == expected


@pytest.mark.parametrize("inputs", [None, IDS], ids=["order", "use"])
@pytest.mark.parametrize("head_first", [False, True])
def test_ties_are_seen_whichever_name_comes_first(inputs, head_first):
    model = Decoder(head_first=head_first, ties=True)
    first, alias = ("unembed.weight", "wte.weight") if head_first else ("wte.weight", "unembed.weight")
    assert table(model, example_inputs=inputs) == {first: "tied", "wpe.weight": "embedding T", **BLOCKS}
    tied = next(entry for entry in parameter_roles(model) if entry.role is Role.TIED)
    assert tied.aliases == (alias,)
    assert tied.matrix_shape == (50, 8)


class TiedByFunction(nn.Module):
    """The head exists only as a call, so only use can show the tie."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.mix = nn.Linear(4, 4, bias=False)

    def forward(self, ids):
        return F.linear(torch.relu(self.mix(self.embed(ids))), self.embed.weight)


def test_a_tie_by_function_is_seen_in_use():
    assert table(TiedByFunction(), example_inputs=IDS) == {"embed.weight": "tied", "mix.weight": "hidden"}


class TwoTasks(nn.Module):
    """Two outputs, the first made before the second's hidden layer is registered, and an unused layer at the end."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Linear(6, 3)
        self.body = nn.Linear(4, 6)
        self.norm = nn.LayerNorm(6)
        self.boxes = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
        self.scale = nn.Parameter(torch.ones(()))
        self.unused = nn.Linear(6, 6)

    def forward(self, x):
        x = self.norm(self.body(x))
        return self.classes(x) * self.scale, [self.boxes(x)]


def test_use_finds_every_head_and_order_cannot():
    expected = {
        "scale": "vector",
        "classes.weight": "head",
        "classes.bias": "bias",
        "body.weight": "hidden",
        "body.bias": "bias",
        "norm.weight": "gain",
        "norm.bias": "bias",
        "boxes.0.weight": "hidden",
        "boxes.0.bias": "bias",
        "boxes.2.weight": "head",
        "boxes.2.bias": "bias",
        "unused.weight": "hidden",
        "unused.bias": "bias",
    }
    assert table(TwoTasks(), example_inputs=torch.zeros(2, 4)) == expected
    assert table(TwoTasks().to("meta"), example_inputs=torch.zeros(2, 4, device="meta")) == expected


class Unknown(nn.Module):
    """Parameters without telling names, each used in its way."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(7, 4))
        self.b = nn.Parameter(torch.randn(4, 6))
        self.c = nn.Parameter(torch.randn(5, 6))
        self.d = nn.Parameter(torch.randn(2, 5, 3))
        self.e = nn.Parameter(torch.randn(3, 2))
        self.weight = nn.Parameter(torch.randn(1, 6))
        self.proj = nn.Parameter(torch.randn(3, 6))
        self.last = nn.Parameter(torch.randn(2, 8))
        self.f = nn.Parameter(torch.randn(2, 5, 6))
        self.k = nn.Parameter(torch.randn(6, 1, 2))
        self.g = nn.Parameter(torch.randn(6, 6))
        self.w = nn.Parameter(torch.randn(6, 6))

    def forward(self, ids):
        x = self.a[ids] @ self.b  # a lookup by index, and a matrix stored (in, out)
        x = x + self.weight * self.proj[: ids.shape[1]]
        x = F.conv1d(x.mT, self.k, padding=1, groups=6).mT
        x = (self.g @ x.mT).mT + x @ torch.linalg.matrix_exp(self.w)  # from the left; by an operation not known here
        y = (x @ self.f.permute(0, -1, 1)).sum(0, keepdim=True)  # a stack stored (out, in)
        x = x @ self.c.T + y[:, :1]  # a matrix stored (out, in)
        x = torch.stack([x @ self.d[0], x @ self.d[1]]).mean(0)  # experts, stored (in, out)
        return (x @ self.e) @ self.last


def test_use_tells_what_names_do_not():
    assert table(Unknown(), example_inputs=IDS) == {
        "a": "embedding T",
        "b": "hidden T",
        "c": "hidden",
        "d": "experts T",
        "e": "hidden T",
        "weight": "vector",
        "proj": "other",
        "last": "head T",
        "f": "experts",
        "k": "depthwise_conv",
        "g": "hidden",
        "w": "hidden",
    }
    entries = {entry.name: entry for entry in parameter_roles(Unknown(), example_inputs=IDS)}
    assert entries["b"].matrix_shape == (6, 4)
    assert (entries["d"].matrix_shape, entries["d"].stack) == ((3, 5), 2)


class NeedsNumbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.first = nn.Linear(4, 4)
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.dropout(self.norm(x), 0.5, True)
        return self.out(self.first(x)) if x.sum() > -1e30 else x


def test_the_pass_changes_nothing():
    model = NeedsNumbers().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    expected_draw = torch.rand(2)
    torch.manual_seed(3)
    roles = table(model, example_inputs={"x": torch.randn(5, 4, generator=torch.Generator().manual_seed(0))})
    assert torch.equal(torch.rand(2), expected_draw)
    assert roles["out.weight"] == "head"
    assert roles["first.weight"] == "hidden"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert (model.training, model.first.training, model.norm.training) == (True, True, False)


def test_example_inputs_that_show_nothing_are_refused():
    with pytest.raises(ValueError, match="cannot run on the meta device"):
        parameter_roles(NeedsNumbers().to("meta"), example_inputs=torch.zeros(5, 4, device="meta"))
    with pytest.raises(ValueError, match="expected a tensor with a gradient"):
        parameter_roles(nn.Softmax(-1), example_inputs=torch.zeros(5, 4))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        parameter_roles(nn.Linear(3, 2), example_inputs=torch.zeros(5, 4))


def test_several_heads_at_the_end_and_a_value_head():
    """Codebooks with a head each; a value head after the language model's."""
    model = nn.ModuleDict({"embed": nn.Embedding(20, 4), "body": nn.Linear(4, 4)})
    model["heads"] = nn.ModuleList([nn.Linear(4, 20, bias=False), nn.Linear(4, 20, bias=False)])
    assert table(model) == {
        "embed.weight": "embedding T",
        "body.weight": "hidden",
        "body.bias": "bias",
        "heads.0.weight": "head",
        "heads.1.weight": "head",
    }
    decoder = Decoder(positions=5)
    decoder.value = nn.Linear(8, 1, bias=False)
    roles = table(decoder)
    assert (roles["unembed.weight"], roles["value.weight"]) == ("head", "head")
