import math

import pytest
import torch

from steepest.nn import ABC, FiniteLinear, InfiniteLinear, abc, regime
from steepest.nn.width_table import size_factors
from tests.nn.prototypes import prototypes

UPDATES = ("gradient", "entrywise", "spectral")


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("kind", ["input", "output"])
def test_mean_field_and_mup_are_one_for_one_hidden_layer(kind, update):
    ours = abc("mup", kind, update=update).without_multiplier(update=update)
    assert abc("mean_field", kind, update=update).without_multiplier(update=update) == ours


def test_tables_of_tensor_programs_v():
    def plain(kind, update):
        row = abc("mup", kind, update=update).without_multiplier(update=update)
        return row.b, row.c

    # Table 3: initial variance 1, 1/n, 1/n^2; SGD n, 1, 1/n; Adam 1, 1/n, 1/n.
    assert [plain(kind, "gradient") for kind in ("input", "hidden", "output")] == [(0, -1), (0.5, 0), (1, 1)]
    assert [plain(kind, "entrywise") for kind in ("input", "hidden", "output")] == [(0, 0), (0.5, 1), (1, 1)]


def test_regimes():
    assert regime("mup", hidden_layers=1) == regime("mup", hidden_layers=4) == "feature learning"
    assert regime("mean_field") == "feature learning"
    assert regime("ntk", hidden_layers=3) == "kernel"
    assert regime("sp") == "unstable"
    assert regime("sp", hidden_layers=3, lr_exponent=1.0) == "kernel"
    assert regime("mup", lr_exponent=-0.5) == "unstable"


@pytest.mark.parametrize("update", ["gradient", "entrywise"])
def test_a_shifted_parametrization_trains_to_the_same_function(update):
    n, x = 16, torch.randn(8, 3, dtype=torch.float64)
    y = x[:, 0].sign()
    table = {"hidden": abc("mup", "input", update=update), "head": abc("mup", "output", update=update)}
    start = {"hidden": torch.randn(n, 3, dtype=torch.float64), "head": torch.randn(n, dtype=torch.float64)}

    def train(table):
        w = {name: (n**-row.b * start[name]).requires_grad_() for name, row in table.items()}
        for _ in range(6):
            full = {name: n**-row.a * w[name] for name, row in table.items()}
            loss = ((x @ full["hidden"].T) @ full["head"] - y).square().mean()
            for name, grad in zip(w, torch.autograd.grad(loss, list(w.values())), strict=True):
                move = grad if update == "gradient" else grad / grad.norm()
                w[name] = (w[name] - 0.05 * n ** -table[name].c * move).detach().requires_grad_()
        return (x @ (n ** -table["hidden"].a * w["hidden"]).T) @ (n ** -table["head"].a * w["head"])

    other = {name: row.shifted(0.7 if name == "head" else -0.3, update=update) for name, row in table.items()}
    torch.testing.assert_close(train(table), train(other), rtol=1e-10, atol=1e-10)
    wrong = {name: ABC(row.a, row.b, row.c + 0.5) for name, row in table.items()}
    assert not torch.allclose(train(table), train(wrong), rtol=1e-3)


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize(
    ("kind", "fans", "base"),
    [("input", (1024, 64), (128, 64)), ("input", (1024, 1), (128, 1)), ("hidden", (1024, 1024), (128, 128)),
     ("hidden", (4096, 1024), (512, 128)), ("output", (10, 1024), (10, 128)), ("fixed", (10, 1), (10, 1))],
)  # fmt: skip
def test_the_spectral_route_gives_the_same_factors(kind, fans, base, update):
    expected = size_factors("mup", kind, fans, base, update=update)
    assert size_factors("spectral", kind, fans, base, update=update) == pytest.approx(expected, rel=1e-12)


def test_what_is_unknown_is_refused():
    with pytest.raises(ValueError, match="mean-field"):
        abc("mean_field", "hidden")
    with pytest.raises(ValueError, match="parametrization"):
        abc("muP", "hidden")
    with pytest.raises(ValueError, match="gradient and entrywise"):
        abc("ntk", "hidden", update="spectral")
    with pytest.raises(ValueError, match="hidden_layers"):
        regime("mup", hidden_layers=0)
    with pytest.raises(ValueError, match="inputs"):
        InfiniteLinear(0)


def finite_error(width: int, seed: int) -> float:
    """Root mean square distance on held-out data of a finite network from the limit, both trained."""
    data, labels = prototypes(64, inputs=16, classes=2)
    x, y, held = data[:32].double(), labels[:32] * 2.0 - 1, data[32:].double()
    limit = InfiniteLinear(16)
    net = FiniteLinear(16, width, generator=torch.Generator().manual_seed(seed)).double()
    for _ in range(20):
        limit.step(x, y, lr=0.1)
        loss = 0.5 * (net(x) - y).square().mean()
        grads = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for parameter, grad in zip(net.parameters(), grads, strict=True):
                parameter -= 0.1 * width * grad
    assert limit(held).abs().mean() > 0.2
    return (net(held) - limit(held)).square().mean().sqrt().item()


def test_finite_networks_approach_the_limit_as_one_over_the_root_of_the_width():
    scaled = []
    for width in (64, 256, 1024):
        mean_square = sum(finite_error(width, seed) ** 2 for seed in range(24)) / 24
        scaled.append(math.sqrt(mean_square * width))
    assert max(scaled) / min(scaled) < 1.5, scaled
