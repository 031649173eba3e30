import dataclasses
from typing import ClassVar, final

import numpy as np
import pytest
import torch
from torch import nn

from steepest.geometry.polar import polar_factor
from steepest.optim import MFAC, AdamW, Muon, Optimistic
from steepest.optim.adam import AdamRule
from steepest.optim.dct_adamw import DCTAdamWRule
from steepest.optim.engine import Engine
from steepest.optim.mfac import MFACRule
from steepest.optim.muon import MuonRule
from steepest.optim.rule import Rule
from tests.optim.gradients import MATRICES, assert_follows, give_gradients, parameters, run


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradient(Rule):
    """The gradient itself."""

    lr: ClassVar[float] = 0.1

    def init(self, like):
        return {}

    def update(self, grad, state, step):
        return grad


def exact(x: torch.Tensor) -> torch.Tensor:
    return polar_factor(x, method="svd")


def test_equals_optimistic_mirror_descent_in_its_two_projection_form():
    """Without a constraint both projections are the identity."""

    def two_steps(w, gradients):
        secondary, prediction = w, 0 * w
        for g in gradients:
            secondary = secondary - 0.1 * g
            prediction = g
        return secondary - 0.1 * prediction

    params = parameters(MATRICES)
    assert_follows(Optimistic(params, Gradient(), lr=0.1), params, two_steps)


def test_the_points_played_are_those_of_optimistic_mirror_descent():
    """On a moving problem, where the gradient depends on the point: minimize |x - c_t|^2 / 2."""
    targets = np.random.default_rng(0).standard_normal((30, 4))
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    optimizer = Optimistic([p], Gradient(), lr=0.2)
    secondary, prediction = np.zeros(4), np.zeros(4)
    for c in targets:
        played = secondary - 0.2 * prediction
        np.testing.assert_allclose(p.detach().numpy(), played, rtol=0, atol=1e-13)
        p.grad = p.detach() - torch.from_numpy(c)
        optimizer.step()
        prediction = played - c
        secondary = secondary - 0.2 * prediction


def bilinear(make, steps: int) -> float:
    x, y = (nn.Parameter(torch.tensor([1.0, -0.5], dtype=torch.float64)) for _ in range(2))
    matrix = torch.tensor([[1.0, 0.3], [-0.2, 0.8]], dtype=torch.float64)
    optimizer = make([x, y])
    for _ in range(steps):
        x.grad, y.grad = matrix @ y.detach(), -matrix.T @ x.detach()
        optimizer.step()
    return float(torch.cat([x, y]).detach().norm())


def test_a_bilinear_game_converges_where_plain_descent_diverges():
    assert bilinear(lambda p: Engine(p, Gradient(), lr=0.2), 400) > 1e2
    assert bilinear(lambda p: Optimistic(p, Gradient(), lr=0.2), 800) < 1e-4


@pytest.mark.parametrize(
    ("inner", "plain"),
    [
        (AdamRule(), lambda p: AdamW(p, lr=0.05, weight_decay=0.0)),
        (MuonRule(polar=exact), lambda p: Muon(p, lr=0.05, polar=exact)),
        (DCTAdamWRule(rank=3), lambda p: Engine(p, DCTAdamWRule(rank=3), lr=0.05)),
        (MFACRule(window=4), lambda p: MFAC(p, lr=0.05, window=4)),
    ],
)
def test_every_kind_of_rule_takes_its_change_twice(inner, plain):
    """Two steps of the plain method from the same point give u_1 and u_2, for rules whose u ignores the parameter."""
    params, other = parameters(MATRICES), parameters(MATRICES)
    start = [p.detach().clone() for p in params]
    one, two = Optimistic(params, inner, lr=0.05), plain(other)
    places = [[q.detach().clone() for q in other]]
    for step in range(4):
        give_gradients(params, step)
        give_gradients(other, step)
        one.step()
        two.step()
        places.append([q.detach().clone() for q in other])
    for i, p in enumerate(params):
        moves = [places[t][i] - places[t + 1][i] for t in range(4)]
        # The sum of 2 u_t - u_{t-1} is the sum of u_t and one more u_4.
        torch.testing.assert_close(p.detach(), start[i] - sum(moves) - moves[-1], rtol=1e-9, atol=1e-11)


def test_groups_take_the_defaults_of_the_rule_inside():
    optimizer = Optimistic(parameters([(4, 4)]), MuonRule(polar=exact))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["lr_scale"]) == (MuonRule.lr, "original")
    assert optimizer.rule_of(0).works_on == "matrices"
    with pytest.raises(ValueError, match="real matrices"):
        Optimistic(parameters([(4,)]), MuonRule(polar=exact))


def test_a_state_of_another_rule_inside_is_refused():
    params = parameters([(4, 4)])
    one = Optimistic(params, AdamRule())
    run(one, params, range(1))
    with pytest.raises(ValueError, match="rules"):
        Optimistic(params, AdamRule(betas=(0.0, 0.9))).load_state_dict(one.state_dict())
