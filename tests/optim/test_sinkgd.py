import pytest
import torch
from torch import nn

from steepest.optim import SinkGD
from tests.optim.gradients import MATRICES, assert_follows, give_gradients, parameters
from tests.reference import norm_optimizers as reference


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
def test_twenty_steps_equal_the_formula(kind):
    params = parameters(MATRICES)
    optimizer = SinkGD(params, lr=0.1, alpha=0.3, weight_decay=0.1)
    assert_follows(
        optimizer,
        params,
        lambda w, g: reference.stateless(w, g, lambda x: 0.3 * reference.sinkhorn(x, 5), lr=0.1, weight_decay=0.1),
        kind=kind,
    )


def test_rows_and_columns_of_a_long_alternation_have_the_published_lengths():
    """Rows of length sqrt(n), columns of length sqrt(m): neither dropped nor swapped, as in some copies."""
    p = nn.Parameter(torch.zeros(12, 5, dtype=torch.float64))
    give_gradients([p], 0)
    SinkGD([p], lr=1.0, alpha=1.0, steps=200).step()
    torch.testing.assert_close(p.detach().norm(dim=1), torch.full((12,), 5.0).double().sqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(p.detach().norm(dim=0), torch.full((5,), 12.0).double().sqrt(), rtol=1e-6, atol=0)


def test_zero_rows_stay_and_there_is_no_state():
    p = nn.Parameter(torch.zeros(4, 3))
    p.grad = torch.ones(4, 3)
    p.grad[1] = 0
    optimizer = SinkGD([p], lr=1.0, alpha=1.0)
    optimizer.step()
    assert p[1].eq(0).all()
    assert p.isfinite().all()
    assert list(optimizer.state[p]) == ["step"]


def test_scale_of_rows_and_columns_of_the_gradient_does_not_matter():
    one, two = parameters([(6, 4)]), parameters([(6, 4)])
    give_gradients(one, 0)
    two[0].grad = one[0].grad * torch.logspace(-3, 3, 6).double()[:, None]
    SinkGD(one, lr=0.1, steps=300).step()
    SinkGD(two, lr=0.1, steps=300).step()
    torch.testing.assert_close(one[0], two[0], rtol=1e-5, atol=1e-6)
