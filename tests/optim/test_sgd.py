import pytest
import torch
from torch import nn

from steepest.optim import SGD, Options
from tests.optim.gradients import MATRICES, VECTORS, assert_follows, give_gradients, parameters, run
from tests.reference.momentum import sgd_steps

SHAPES = (*MATRICES, *VECTORS)
CASES = [
    {},
    {"weight_decay": 0.3},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.3},
    {"momentum": 0.8, "dampening": 0.5},
    {"momentum": 0.8, "dampening": 1.0},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
]


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize("settings", CASES, ids=str)
def test_twenty_steps_equal_the_formula(settings, kind):
    params = parameters(SHAPES)
    optimizer = SGD(params, lr=0.05, **settings)
    assert_follows(optimizer, params, lambda w, g: sgd_steps(w, g, lr=0.05, **settings), kind=kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", CASES, ids=str)
def test_equals_torch(settings, dtype):
    one, two = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    run(SGD(one, lr=0.05, **settings), one, range(20))
    run(torch.optim.SGD(two, lr=0.05, foreach=False, **settings), two, range(20))
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_without_momentum_there_is_no_state():
    params = parameters(SHAPES)
    optimizer = SGD(params)
    run(optimizer, params, range(2))
    assert all(set(optimizer.state[p]) == {"step"} for p in params)


def test_momentum_that_appears_later_has_no_buffer_and_says_so():
    params = parameters([(2, 2)])
    optimizer = SGD(params)
    run(optimizer, params, range(1))
    optimizer.param_groups[0]["momentum"] = 0.9
    with pytest.raises(ValueError, match="start with it above 0"):
        run(optimizer, params, range(1, 2))


def test_steps_rotate_with_the_gradients():
    """The l2 norm has no preferred directions: rotate the problem, and the run is rotated."""
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    one = parameters([(6, 6)])
    two = [nn.Parameter((rotation @ one[0]).detach())]
    first, second = (SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1) for p in (one, two))
    for step in range(5):
        give_gradients(one, step)
        two[0].grad = rotation @ one[0].grad
        first.step()
        second.step()
    torch.testing.assert_close(two[0].detach(), rotation @ one[0].detach())


def test_clipping_limits_the_length_of_each_parameter():
    params = parameters([(3, 4), (5,)])
    start = [p.detach().clone() for p in params]
    give_gradients(params, 0)
    params[1].grad *= 1e-3 / params[1].grad.norm()
    SGD(params, lr=1.0, options=Options(clip=0.5)).step()
    assert (params[0] - start[0]).norm().item() == pytest.approx(0.5)
    assert (params[1] - start[1]).norm().item() == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"dampening": 1.5}, "dampening"),
        ({"nesterov": True}, "nesterov"),
        ({"nesterov": True, "momentum": 0.9, "dampening": 0.1}, "nesterov"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SGD(parameters([(2, 2)]), **settings)
