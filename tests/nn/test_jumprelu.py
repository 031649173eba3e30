import pytest
import torch
from torch import nn

from steepest.nn import FeedForward, JumpReLU, Llama, choose_kappa, preset, retrofit_jumprelu


def network():
    shared = nn.ReLU()
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), shared, nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True)), shared)


def x():
    return torch.randn(32, 4, generator=torch.Generator().manual_seed(1))


def test_jump_is_strict_and_zero_is_relu():
    z = torch.tensor([-2.0, 0.0, 0.5, 0.50001, 3.0, torch.nan])
    torch.testing.assert_close(JumpReLU(0.5)(z), torch.tensor([0.0, 0.0, 0.0, 0.50001, 3.0, torch.nan]), equal_nan=True)
    assert torch.equal(JumpReLU(0.0)(z[:-1]), torch.relu(z[:-1]))


def test_gradient_is_the_step():
    z = torch.tensor([-2.0, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(JumpReLU(0.5)(z).sum(), z)[0].tolist() == [0, 0, 1]
    assert torch.autograd.gradcheck(JumpReLU(0.3), z)


def test_every_place_is_replaced_and_put_back():
    model = network()
    before, keys, modules = model(x()), list(model.state_dict()), list(model.modules())
    retrofit = retrofit_jumprelu(model, 0.3)
    assert retrofit.kappa == {"1": 0.3, "2.1": 0.3, "3": 0.3}
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
    assert list(model.state_dict()) == keys
    hidden = model[0](x())
    hidden = torch.where(hidden > 0.3, hidden, 0.0)
    hidden = model[2][0](hidden)
    torch.testing.assert_close(model(x()), torch.where(hidden > 0.3, hidden, 0.0))
    retrofit.undo()
    retrofit.undo()
    assert list(model.modules()) == modules
    assert torch.equal(model(x()), before)


def test_thresholds_by_name_and_changed_in_place():
    model = network().eval()
    with retrofit_jumprelu(model, {"1": 0.1, "2.1": 0.2, "3": 0.0}) as retrofit:
        assert model[2][1].kappa == 0.2
        assert not model[1].training
        retrofit.set_kappa({"1": 0.0, "2.1": 0.5, "3": 0.0})
        assert model[2][1].kappa == 0.5
        retrofit.set_kappa(1.5)
        assert set(retrofit.kappa.values()) == {1.5}
    assert isinstance(model[2][1], nn.ReLU)


def test_what_somebody_else_put_there_since_stays():
    model = network()
    retrofit = retrofit_jumprelu(model, 0.3)
    model[1] = nn.Identity()
    retrofit.undo()
    assert isinstance(model[1], nn.Identity)
    assert isinstance(model[3], nn.ReLU)


def test_our_own_feed_forwards_are_reached():
    layer = FeedForward("relu", 4, 8)
    with retrofit_jumprelu(layer, 0.2):
        inner = layer.up_proj(x())
        torch.testing.assert_close(layer(x()), layer.down_proj(torch.where(inner > 0.2, inner, 0.0)))
    model = Llama(preset("nano", feed_forward="relu"))
    assert len(retrofit_jumprelu(model, 0.1).kappa) == 2


def test_choice_is_the_largest_threshold_before_the_score_falls():
    model = nn.Sequential(nn.ReLU())
    scores = {0.0: 0.9, 0.1: 0.91, 0.2: 0.89, 0.3: 0.7, 0.4: 0.95}

    def score(m):
        return scores[m[0].kappa]

    choice = choose_kappa(model, [0.4, 0.3, 0.2, 0.1], score, slack=0.02)
    assert (choice.kappa, choice.scores) == (0.2, scores)  # what comes after a fall does not count
    assert choose_kappa(model, [0.1, 0.3], score).kappa == 0.1
    assert choose_kappa(model, [0.3], score).kappa == 0.0
    assert choose_kappa(model, [0.1], lambda m: float("nan"), slack=1.0).kappa == 0.0
    assert isinstance(model[0], nn.ReLU)


def test_the_model_is_put_back_when_the_score_fails():
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(ZeroDivisionError):
        choose_kappa(model, [0.1], lambda m: 1 / 0)
    assert isinstance(model[0], nn.ReLU)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: retrofit_jumprelu(nn.Sequential(nn.GELU()), 0.1), "no ReLU module"),
        (lambda: retrofit_jumprelu(nn.Sequential(nn.ReLU6()), 0.1), "no ReLU module"),
        (lambda: retrofit_jumprelu(network(), -0.1), "kappa"),
        (lambda: retrofit_jumprelu(network(), float("nan")), "kappa"),
        (lambda: retrofit_jumprelu(network(), {"1": 0.1}), "missing or unknown: 2.1"),
        (lambda: JumpReLU(float("inf")), "kappa"),
        (lambda: choose_kappa(network(), [0.1], lambda m: 1.0, slack=-1), "slack"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
