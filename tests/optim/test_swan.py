import pytest
import torch
from torch import nn

from steepest.geometry import whiten
from steepest.optim import Swan
from steepest.optim.swan import normalize_rows
from tests.optim.gradients import assert_follows, parameters
from tests.reference import norm_optimizers as reference

SHAPES = ((12, 5), (5, 12), (8, 8), (1, 7))


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize("center", [True, False])
def test_twenty_steps_equal_the_formula(center, kind):
    params = parameters(SHAPES)
    assert_follows(
        Swan(params, lr=0.1, alpha=0.3, center=center, weight_decay=0.1),
        params,
        lambda w, g: reference.stateless(
            w, g, lambda x: reference.swan(x, alpha=0.3, center=center), lr=0.1, weight_decay=0.1
        ),
        kind=kind,
    )


def test_the_published_iteration_approaches_the_exact_whitening():
    one, two = nn.Parameter(torch.zeros(4, 30).double()), nn.Parameter(torch.zeros(4, 30).double())
    one.grad = torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    two.grad = one.grad.clone()
    Swan([one], lr=1.0).step()
    Swan([two], lr=1.0, whitening="iteration").step()
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_ten_steps_leave_small_singular_values_small():
    """With b = 1/2 a relative singular value of 0.01 has come to about half: the reason for the exact default."""
    values = torch.tensor([1.0, 0.01], dtype=torch.float64)
    out = torch.linalg.svdvals(whiten(torch.diag(values), steps=10).x)
    assert 0.3 < out.min() < 0.7


def test_rows_have_root_mean_square_one():
    x = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0))
    rows = normalize_rows(x, center=True)
    torch.testing.assert_close(rows.square().mean(-1), torch.ones(2, 5))
    torch.testing.assert_close(rows.mean(-1), torch.zeros(2, 5), atol=1e-6, rtol=0)
