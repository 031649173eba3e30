import math

import numpy as np
import pytest
import torch
from torch import nn

from steepest.geometry import Ball, Box, Entropy, PNorm, Simplex, Spectral
from steepest.optim import Optimistic, OptimisticMirrorDescent, Options, diagnosed
from steepest.optim.sgd import SGDRule
from tests.optim.gradients import MATRICES, VECTORS, parameters, run
from tests.reference.mirror import entropy_step, euclidean_step, onto_ball, onto_simplex, optimistic_points

START = np.array([0.1, 0.2, 0.3, 0.4])
TARGETS = np.random.default_rng(0).standard_normal((40, 4))
#: Mirror map, set, the step of the reference, the norm of gradients there.
CASES = {
    "ball": (None, Ball(0.6), euclidean_step(lambda x: onto_ball(x, 0.6)), np.linalg.norm),
    "box": (None, Box(0.0, 0.5), euclidean_step(lambda x: np.clip(x, 0, 0.5)), np.linalg.norm),
    "simplex": (None, Simplex(), euclidean_step(onto_simplex), np.linalg.norm),
    "entropy": (Entropy(), Simplex(), entropy_step, lambda g: np.abs(g).max()),
    "free": (None, None, euclidean_step(lambda x: x), np.linalg.norm),
}


def slope(t, x):
    return x - TARGETS[t]


def played(optimizer, p, rounds=40):
    seen = []
    for t in range(rounds):
        p.grad = p.detach() - torch.from_numpy(TARGETS[t])
        optimizer.step()
        seen.append(p.detach().numpy().copy())
    return seen


@pytest.mark.parametrize("offset", [None, 3.0])
@pytest.mark.parametrize("optimistic", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_plays_what_the_two_minimizations_give(case, optimistic, offset):
    mirror, domain, step, norm = CASES[case]
    p = nn.Parameter(torch.from_numpy(START.copy()))
    optimizer = OptimisticMirrorDescent([p], lr=0.4, mirror=mirror, domain=domain, optimistic=optimistic, offset=offset)
    expected = optimistic_points(
        START, slope, step=step, rates=[0.4] * 40, norm=norm, offset=offset, optimistic=optimistic
    )
    for ours, theirs in zip(played(optimizer, p), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_a_schedule_acts_on_gradient_and_prediction_alike():
    rates = [0.4 / (t + 1) ** 0.5 for t in range(40)]
    p = nn.Parameter(torch.from_numpy(START.copy()))
    optimizer = OptimisticMirrorDescent([p], lr=0.4, domain=Simplex())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (t + 1) ** 0.5)
    expected = optimistic_points(START, slope, step=euclidean_step(onto_simplex), rates=rates)
    for t, theirs in enumerate(expected):
        p.grad = torch.from_numpy(slope(t, p.detach().numpy()))
        optimizer.step()
        schedule.step()
        np.testing.assert_allclose(p.detach().numpy(), theirs, rtol=0, atol=1e-12)


def test_without_a_set_it_is_the_optimistic_step_of_plain_descent():
    one, two = parameters([*MATRICES, *VECTORS]), parameters([*MATRICES, *VECTORS])
    run(OptimisticMirrorDescent(one, lr=0.05), one, range(10))
    run(Optimistic(two, SGDRule(), lr=0.05), two, range(10))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("p", [1.2, 1.7, 2.0])
def test_a_p_norm_step_satisfies_its_optimality_condition(p):
    """<theta - (theta_0 - eta g), y - x> >= 0 for every y of the ball, theta the slope of the map at x."""
    ball, mirror = Ball(1.0, norm=p), PNorm(p)
    w = nn.Parameter(torch.tensor([0.2, -0.1, 0.3, 0.0], dtype=torch.float64))
    before, grad = w.detach().clone(), torch.tensor([3.0, -1.0, 0.5, 0.1], dtype=torch.float64)
    w.grad = grad
    OptimisticMirrorDescent([w], lr=0.5, mirror=mirror, domain=ball, optimistic=False).step()
    assert ball.contains(w.detach(), tol=1e-12)
    left = mirror.dual(w.detach()) - mirror.dual(before) + 0.5 * grad
    others = np.random.default_rng(0).standard_normal((500, 4))
    others /= np.maximum(1, np.linalg.norm(others, p, axis=1))[:, None]
    assert ((torch.from_numpy(others) - w.detach()) @ left).min() >= -1e-12


def test_rows_of_a_matrix_learn_by_themselves():
    start, grads = torch.rand(3, 4, dtype=torch.float64).softmax(-1), torch.from_numpy(TARGETS[:5])
    together = nn.Parameter(start.clone())
    alone = [nn.Parameter(row.clone()) for row in start]
    settings = {"lr": 0.5, "mirror": Entropy(), "domain": Simplex(), "offset": 1.0}
    one, others = OptimisticMirrorDescent([together], **settings), OptimisticMirrorDescent(alone, **settings)
    for t in range(3):
        together.grad = grads[t : t + 3].clone()
        for row, grad in zip(alone, grads[t : t + 3], strict=True):
            row.grad = grad.clone()
        one.step()
        others.step()
    torch.testing.assert_close(together.detach(), torch.stack([row.detach() for row in alone]), rtol=0, atol=1e-15)


def test_matrices_stay_in_a_ball_of_a_norm_of_matrices():
    w = nn.Parameter(torch.zeros(5, 3, dtype=torch.float64))
    optimizer = OptimisticMirrorDescent([w], lr=5.0, domain=Ball(2.0, norm=Spectral()), offset=1.0)
    for step in range(5):
        w.grad = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        optimizer.step()
        assert torch.linalg.matrix_norm(w.detach(), 2).item() <= 2 * (1 + 1e-12)
    assert torch.linalg.matrix_norm(w.detach(), 2).item() > 1.9


def test_a_weight_of_zero_in_float_comes_back():
    w = nn.Parameter(torch.tensor([0.5, 0.5]))
    optimizer = OptimisticMirrorDescent([w], lr=1.0, mirror=Entropy(), domain=Simplex(), optimistic=False)
    w.grad = torch.tensor([200.0, 0.0])
    optimizer.step()
    assert w[0] == 0
    w.grad = torch.tensor([0.0, 210.0])
    optimizer.step()
    assert w[0].item() == pytest.approx(1 - math.exp(-10), rel=1e-6)


def test_resumes_with_the_same_bits():
    def begun(rounds):
        p = nn.Parameter(torch.from_numpy(START.copy()))
        optimizer = OptimisticMirrorDescent([p], lr=0.4, mirror=Entropy(), domain=Simplex(), offset=1.0)
        return p, optimizer, played(optimizer, p, rounds)

    whole = begun(10)[2]
    p, half, _ = begun(5)
    q = nn.Parameter(p.detach().clone())
    again = OptimisticMirrorDescent([q], lr=0.4, mirror=Entropy(), domain=Simplex(), offset=1.0)
    again.load_state_dict(half.state_dict())
    for t in range(5, 10):
        q.grad = q.detach() - torch.from_numpy(TARGETS[t])
        again.step()
    assert np.array_equal(q.detach().numpy(), whole[-1])


@pytest.mark.parametrize(
    ("settings", "value", "message"),
    [
        ({"domain": Simplex()}, [0.5, 0.6], "outside"),
        ({"mirror": Entropy()}, [0.5, 0.0], "outside"),
        ({"domain": Ball(1.0)}, [2.0, 0.0], "outside"),
        ({"domain": Ball(norm=Spectral())}, [0.0, 0.0], "2 dimensions"),
    ],
)
def test_a_start_outside_is_refused(settings, value, message):
    p = nn.Parameter(torch.tensor(value))
    p.grad = torch.ones(2)
    with pytest.raises(ValueError, match=message):
        OptimisticMirrorDescent([p], **settings).step()


@pytest.mark.parametrize("options", [{"cautious": True}, {"decay": "decoupled"}, {"hyperball": True}])
def test_options_that_would_move_the_point_are_refused(options):
    p = nn.Parameter(torch.full((2, 2), 0.5))
    p.grad = torch.ones(2, 2)
    optimizer = OptimisticMirrorDescent([p], domain=Simplex(), weight_decay=0.1, options=Options(**options))
    with pytest.raises(ValueError, match="place the parameter"):
        optimizer.step()


def test_looking_at_a_placed_step_is_refused():
    p = nn.Parameter(torch.full((2, 2), 0.5))
    p.grad = torch.ones(2, 2)
    optimizer = OptimisticMirrorDescent([p], domain=Simplex())
    with diagnosed(optimizer), pytest.raises(ValueError, match="observation"):
        optimizer.step()


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="offset"):
        OptimisticMirrorDescent(parameters([(2,)]), offset=0.0)
