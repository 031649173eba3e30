import pytest
import torch
from torch import nn

from steepest.geometry.entrywise import Sign
from steepest.optim import Options, SignDescent, Signum
from steepest.optim.sign import sign_of
from tests.optim.gradients import MATRICES, VECTORS, assert_follows, give_gradients, parameters, run
from tests.reference.momentum import signum_steps

SHAPES = (*MATRICES, *VECTORS)


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
def test_sign_descent_equals_the_formula(kind):
    params = parameters(SHAPES)
    optimizer = SignDescent(params, lr=0.05, weight_decay=0.3)
    assert_follows(optimizer, params, lambda w, g: signum_steps(w, g, lr=0.05, weight_decay=0.3), kind=kind)
    assert all(set(optimizer.state[p]) == {"step"} for p in params)


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_signum_equals_the_formula(nesterov, kind):
    settings = {"lr": 0.05, "momentum": 0.8, "nesterov": nesterov, "weight_decay": 0.3}
    params = parameters(SHAPES)
    assert_follows(Signum(params, **settings), params, lambda w, g: signum_steps(w, g, **settings), kind=kind)


def test_the_step_is_the_minimizer_over_the_unit_ball_of_the_rules_norm():
    params = parameters([(4, 6)])
    optimizer = SignDescent(params, lr=1.0)
    start = params[0].detach().clone()
    (grad,) = give_gradients(params, 0)
    optimizer.step()
    moved, norm = params[0].detach() - start, Sign()
    assert norm.norm(moved).item() == pytest.approx(1)
    assert (moved * torch.as_tensor(grad)).sum().item() == pytest.approx(-norm.dual(torch.as_tensor(grad)).item())


def test_size_of_the_gradient_does_not_matter():
    one, two = parameters(SHAPES), parameters(SHAPES)
    first, second = Signum(one), Signum(two)
    for step in range(3):
        give_gradients(one, step)
        give_gradients(two, step)
        for p in two:
            p.grad *= 1e-200
        first.step()
        second.step()
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_clipping_limits_the_sum_of_sizes_the_dual_norm():
    """With a huge limit on one side of the mean, clipping shows in the average: the small gradient outweighs it."""
    p = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = Signum([p], lr=1.0, momentum=0.5, options=Options(clip=1.0))
    p.grad = torch.full((2, 2), 100.0, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[p]["momentum_buffer"], torch.full((2, 2), 0.125, dtype=torch.float64))


def test_nan_shows():
    assert sign_of(torch.tensor([torch.nan, 0.0, -3.0])).isnan().tolist() == [True, False, False]
    params = parameters([(2, 2)])
    params[0].grad = torch.tensor([[torch.nan, 1], [1, 1]], dtype=torch.float64)
    SignDescent(params).step()
    assert params[0].isnan().sum() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_follows(dtype):
    params, exact = parameters(SHAPES, dtype), parameters(SHAPES)
    start = [p.detach().double() for p in params]
    run(Signum(params, lr=0.125), params, range(1))
    run(Signum(exact, lr=0.125), exact, range(1))
    for p, q, s, e in zip(params, exact, start, parameters(SHAPES), strict=True):
        # The move is plus or minus lr, exact in both dtypes; the sum is rounded once.
        moved = s + (q - e).detach()
        torch.testing.assert_close(p.double(), moved.to(dtype).double())


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match="nesterov"):
        Signum(parameters([(2, 2)]), momentum=0.0, nesterov=True)
