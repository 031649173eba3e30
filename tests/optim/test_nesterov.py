import numpy as np
import pytest
import torch
from torch import nn

from steepest.optim import SGD, Nesterov, Options, optimal_momentum
from steepest.optim.nesterov import convex_momentum
from tests.optim.gradients import MATRICES, VECTORS, parameters, run
from tests.reference.momentum import nesterov_points

SHAPES = (*MATRICES, *VECTORS)


def quadratic(curvatures) -> tuple[np.ndarray, np.ndarray]:
    rotation, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((len(curvatures),) * 2))
    return rotation @ np.diag(curvatures) @ rotation.T, np.random.default_rng(1).standard_normal(len(curvatures))


def descend(optimizer, p, hessian, steps):
    """Points y and iterates x of a run on the quadratic."""
    seen = []
    for _ in range(steps):
        p.grad = hessian @ p.detach()
        optimizer.step()
        y = p.detach().numpy().copy()
        with optimizer.at_iterates():
            seen.append((p.detach().numpy().copy(), y))
        assert np.array_equal(p.detach().numpy(), y)
    return seen


@pytest.mark.parametrize("momentum", [None, 0.0, 0.8])
def test_points_and_iterates_equal_the_form_with_two_sequences(momentum):
    hessian, start = quadratic([1.0, 0.5, 0.1, 0.01])
    p = nn.Parameter(torch.as_tensor(start.copy()))
    seen = descend(Nesterov([p], lr=0.9, momentum=momentum), p, torch.as_tensor(hessian), 30)
    momenta = [convex_momentum(t) if momentum is None else momentum for t in range(1, 31)]
    expected = nesterov_points(start, lambda y: hessian @ y, lr=0.9, momenta=momenta)
    for (x, y), (true_x, true_y) in zip(seen, expected, strict=True):
        np.testing.assert_allclose(x, true_x, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(y, true_y, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_constant_momentum_is_sgd_with_nesterov(weight_decay):
    one, two, three = (parameters(SHAPES) for _ in range(3))
    run(Nesterov(one, lr=0.03, momentum=0.9, weight_decay=weight_decay), one, range(20))
    settings = {"lr": 0.03, "momentum": 0.9, "weight_decay": weight_decay, "nesterov": True}
    run(SGD(two, **settings), two, range(20))
    run(torch.optim.SGD(three, **settings), three, range(20))
    for a, b, c in zip(one, two, three, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(a, c, rtol=1e-12, atol=1e-13)


def test_the_literal_look_ahead_of_many_notes_diverges_where_the_right_one_converges():
    """`v = mu v + g(W + mu v); W -= lr v` looks behind itself, and in the wrong unit.

    Its mode matrix has the determinant mu (1 + curvature), whatever the learning rate.
    """
    curvatures = np.geomspace(0.01, 1.0, 50)
    momentum = optimal_momentum(1.0, 0.01, "nesterov").momentum
    assert momentum * (1 + curvatures.max()) > 1
    start = np.ones(50)
    for lr in (1.0, 0.01):
        w, v = start.copy(), np.zeros(50)
        for _ in range(500):
            v = momentum * v + curvatures * (w + momentum * v)
            w = w - lr * v
        assert np.linalg.norm(w) > 1e40
    p = nn.Parameter(torch.as_tensor(start.copy()))
    optimizer = Nesterov([p], lr=1.0, momentum=momentum)
    for _ in range(500):
        p.grad = torch.as_tensor(curvatures) * p.detach()
        optimizer.step()
    assert p.detach().norm().item() < 1e-18


def test_the_determinant_of_the_literal_rule():
    momentum, curvature = 0.8, 0.7
    for lr in (0.01, 1.0):
        new_v = np.array([momentum * (1 + curvature), curvature])
        matrix = np.stack([new_v, np.array([0.0, 1.0]) - lr * new_v])
        assert np.linalg.det(matrix) == pytest.approx(momentum * (1 + curvature))


def test_convex_functions_keep_the_bound_of_the_theorem():
    """f(x_t) - f* <= 2 L |x0 - x*|^2 / (t + 1)^2 for curvatures down to zero, where no linear rate exists."""
    curvatures = np.concatenate([np.geomspace(1e-7, 1.0, 60), np.zeros(3)])
    start = np.ones(63)
    p = nn.Parameter(torch.as_tensor(start.copy()))
    seen = descend(Nesterov([p], lr=1.0, momentum=None), p, torch.diag(torch.as_tensor(curvatures)), 300)
    for t, (x, _) in enumerate(seen, start=1):
        assert 0.5 * (curvatures * x**2).sum() <= 2 * (start[:60] ** 2).sum() / (t + 1) ** 2
    # And gradient descent is no match for it.
    plain = start * (1 - curvatures) ** 300
    assert 0.5 * (curvatures * seen[-1][0] ** 2).sum() < 0.05 * 0.5 * (curvatures * plain**2).sum()


def test_the_sequence_for_convex_functions():
    s = [1.0]
    for _ in range(50):
        s.append((1 + np.sqrt(1 + 4 * s[-1] ** 2)) / 2)
    assert [convex_momentum(t) for t in range(1, 50)] == pytest.approx([(s[t - 1] - 1) / s[t] for t in range(1, 50)])


def test_iterates_come_back_after_an_error_and_need_full_states():
    p = nn.Parameter(torch.ones(3))
    optimizer = Nesterov([p])
    p.grad = torch.ones(3)
    optimizer.step()
    kept = p.detach().clone()
    with pytest.raises(KeyError), optimizer.at_iterates():
        raise KeyError
    assert torch.equal(p, kept)
    with pytest.raises(ValueError, match="float32"):  # noqa: SIM117
        with Nesterov([nn.Parameter(torch.ones(3))], options=Options(state_dtype="bfloat16")).at_iterates():
            pass


def test_bad_momentum_is_refused():
    with pytest.raises(ValueError, match="momentum"):
        Nesterov(parameters([(2, 2)]), momentum=1.0)
