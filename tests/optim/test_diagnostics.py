import math

import numpy as np
import pytest
import torch
from torch import nn

from steepest.geometry import Sign, exact_polar, published_iteration
from steepest.optim import AdamW, Muon, Steepest, diagnosed
from tests.optim.gradients import MATRICES, give_gradients, parameters, run
from tests.optim.test_contract import OPTIMIZERS, equal, make, members, net


def test_numbers_equal_their_definitions():
    params = parameters([(6, 4)])
    optimizer = Muon(params, lr=0.1, polar=exact_polar, momentum=0.0, nesterov=False)
    start = params[0].detach().clone()
    (g,) = give_gradients(params, 0)
    with diagnosed(optimizer) as rows:
        optimizer.step()
    (row,) = rows
    moved = (start - params[0].detach()).norm()
    values = np.linalg.svd(g, compute_uv=False)
    share = values**2 / (values**2).sum()
    assert row.dual_norm == pytest.approx(values.sum())
    assert row.gradient_rms == pytest.approx(np.sqrt((g**2).mean()))
    assert row.update_rms == pytest.approx(moved.item() / math.sqrt(24))
    assert row.update_to_weight == pytest.approx((moved / params[0].norm()).item())
    assert row.spectral_norm == pytest.approx(torch.linalg.matrix_norm(params[0].detach(), 2).item())
    assert row.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()))
    assert row.update_effective_rank == pytest.approx(4)
    assert row.polar_error == pytest.approx(0, abs=1e-10)


def test_the_published_polar_factor_of_muon_is_some_twenty_percent_off():
    params = parameters([(64, 64)], torch.float32)
    give_gradients(params, 0)
    with diagnosed(Muon(params)) as rows:
        Muon(params)
    assert rows == []
    errors = []
    for polar in (published_iteration("muon"), None):
        optimizer = Muon(params, polar=polar)
        with diagnosed(optimizer) as rows:
            optimizer.step()
        errors.append(rows[0].polar_error)
    assert 0.1 < errors[0] < 0.35
    assert errors[1] < 0.1  # ours


def test_other_norms_have_no_polar_error():
    params = parameters(MATRICES)
    give_gradients(params, 0)
    optimizer = Steepest(params, Sign())
    with diagnosed(optimizer) as rows:
        optimizer.step()
    assert len(rows) == len(MATRICES)
    assert all(math.isnan(row.polar_error) for row in rows)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_looking_does_not_change_the_step(name):
    one, two = net(torch.float64), net(torch.float64)
    first, second = make(name, one), make(name, two)
    run(first, members(one), range(1))
    run(second, members(two), range(1))  # SOAP's first step moves nothing
    give_gradients(members(one), 1)
    give_gradients(members(two), 1)
    first.step()
    with diagnosed(second) as rows:
        second.step()
    for a, b in zip(members(one), members(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert {row.name for row in rows} == {label for label, _ in two.named_parameters()}
    give_gradients(members(two), 2)
    second.step()
    assert len(rows) == len(members(two))
    assert not equal(one, two)


def test_nothing_finite_is_said_of_what_is_not():
    p = nn.Parameter(torch.ones(3, 3))
    p.grad = torch.full((3, 3), torch.nan)
    optimizer = AdamW([p])
    with diagnosed(optimizer) as rows:
        optimizer.step()
    assert math.isnan(rows[0].effective_rank)
