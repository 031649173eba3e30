import pytest
import torch

from steepest.geometry import exact_polar
from steepest.optim import NorMuon
from steepest.optim.normuon import even_rows
from tests.optim.gradients import MATRICES, assert_follows, parameters
from tests.reference import norm_optimizers as reference


@pytest.mark.parametrize("kind", ["full", "zero"])
def test_twenty_steps_equal_the_formula(kind):
    params = parameters(MATRICES)
    settings = {"lr": 0.05, "momentum": 0.9, "beta": 0.8, "weight_decay": 0.1}
    optimizer = NorMuon(params, polar=exact_polar, **settings)
    assert_follows(optimizer, params, lambda w, g: reference.normuon(w, g, **settings), kind=kind)


def test_the_first_step_has_even_rows_and_the_length_of_the_polar_factor():
    polar = exact_polar(torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    even = even_rows(polar, torch.zeros(2, 6, 1, dtype=torch.float64), beta=0.9, eps=1e-12)
    lengths = even.norm(dim=-1)
    torch.testing.assert_close(lengths, lengths.mean(-1, keepdim=True).expand_as(lengths))
    torch.testing.assert_close(even.norm(dim=(1, 2)), polar.norm(dim=(1, 2)))
