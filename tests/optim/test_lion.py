import pytest
import torch

from steepest.optim import Lion, Signum
from tests.optim.gradients import MATRICES, VECTORS, assert_follows, give_gradients, parameters, run
from tests.reference.momentum import lion_steps

SHAPES = (*MATRICES, *VECTORS)


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize("betas", [(0.9, 0.99), (0.95, 0.98), (0.0, 0.5)])
def test_twenty_steps_equal_the_formula(betas, kind):
    settings = {"lr": 0.03, "betas": betas, "weight_decay": 0.5}
    params = parameters(SHAPES)
    assert_follows(Lion(params, **settings), params, lambda w, g: lion_steps(w, g, **settings), kind=kind)


def test_equal_betas_make_it_signum():
    one, two = parameters(SHAPES), parameters(SHAPES)
    run(Lion(one, lr=0.01, betas=(0.9, 0.9), weight_decay=0.1), one, range(10))
    run(Signum(two, lr=0.01, momentum=0.9, weight_decay=0.1), two, range(10))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_the_step_reads_the_memory_before_it_is_renewed():
    """Written the other way round, the newest gradient would count twice; a case in which the sign tells."""
    params = parameters([(1, 1)])
    optimizer = Lion(params, lr=1.0, betas=(0.6, 0.1))
    start = params[0].item()
    for grad in (1.0, -1.0):
        params[0].grad = torch.full((1, 1), grad, dtype=torch.float64)
        optimizer.step()
    # After the first step B = 0.9; 0.6 * 0.9 - 0.4 > 0, with the renewed B = -0.81 it is below 0.
    assert params[0].item() == pytest.approx(start - 2)


def test_every_entry_moves_by_the_learning_rate():
    params = parameters([(7, 3)])
    start = params[0].detach().clone()
    give_gradients(params, 0)
    Lion(params, lr=0.02).step()
    torch.testing.assert_close((params[0] - start).abs().detach(), torch.full((7, 3), 0.02, dtype=torch.float64))


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1), (0.9, 1.0)])
def test_bad_betas_are_refused(betas):
    with pytest.raises(ValueError, match="betas"):
        Lion(parameters([(2, 2)]), betas=betas)
