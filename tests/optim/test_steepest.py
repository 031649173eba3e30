import math

import numpy as np
import pytest
import torch
from torch import nn

from steepest.geometry import (
    BiasRMS,
    Frobenius,
    L1ToRMS,
    RMSToRMS,
    RowNorm,
    Schatten,
    Sign,
    Spectral,
    SpectralConv,
    exact_polar,
)
from steepest.optim import Muon, Options, Steepest
from tests.optim.gradients import MATRICES, assert_follows, give_gradients, parameters, run
from tests.reference import norm_optimizers as reference

DIRECTIONS = {
    "frobenius": (Frobenius(), lambda x: x / np.linalg.norm(x) if x.any() else x),
    "sign": (Sign(), np.sign),
    "spectral": (Spectral(), reference.polar),
    "rms to rms": (RMSToRMS(), lambda x: math.sqrt(x.shape[0] / x.shape[1]) * reference.polar(x)),
    "schatten 4": (Schatten(4.0), lambda x: reference.schatten(x, 4.0)),
    "rows": (RowNorm(), lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)),
    "l1 to rms": (
        L1ToRMS(),
        lambda x: math.sqrt(x.shape[0]) * x / np.maximum(np.linalg.norm(x, axis=0, keepdims=True), 1e-300),
    ),
}


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("norm", DIRECTIONS)
def test_twenty_steps_equal_the_formula(norm, nesterov, kind):
    norm, direction = DIRECTIONS[norm]
    params = parameters(MATRICES)
    settings = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.2}
    # The average of matrices of rank one has full rank, but badly conditioned at first.
    assert_follows(
        Steepest(params, norm, **settings),
        params,
        lambda w, gradients: reference.averaged(w, gradients, direction, **settings),
        kind=kind,
        steps=20 if kind != "rank one" else 1,
    )


def test_dual_scaled_frobenius_is_gradient_descent():
    ours, theirs = parameters(MATRICES), parameters(MATRICES)
    one = Steepest(ours, Frobenius(), lr=0.1, mode="dual-scaled", momentum=0.0, nesterov=False)
    two = torch.optim.SGD(theirs, lr=0.1)
    run(one, ours, range(5))
    run(two, theirs, range(5))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("p", "norm"), [(2.0, Frobenius()), (math.inf, Spectral()), (1e8, Spectral())])
def test_limits_of_schatten(p, norm):
    """Schatten-2 is normalized gradient descent, Schatten-inf the polar factor."""
    one, two = parameters(MATRICES), parameters(MATRICES)
    run(Steepest(one, Schatten(p), lr=0.1), one, range(3))
    run(Steepest(two, norm, lr=0.1), two, range(3))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_spectral_is_muon():
    one, two = parameters(MATRICES), parameters(MATRICES)
    run(Steepest(one, Spectral(), lr=0.1, options=Options(lr_scale="original")), one, range(5))
    run(Muon(two, lr=0.1, polar=exact_polar), two, range(5))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_a_vector_under_the_spectral_norm_is_the_normalized_gradient():
    p = nn.Parameter(torch.zeros(1, 4, dtype=torch.float64))
    p.grad = torch.tensor([[3.0, 0.0, 0.0, -4.0]], dtype=torch.float64)
    Steepest([p], Spectral(), lr=1.0, momentum=0.0).step()
    torch.testing.assert_close(p.detach(), torch.tensor([[-0.6, 0.0, 0.0, 0.8]], dtype=torch.float64))


@pytest.mark.parametrize("norm", [Spectral(), Schatten(3.0), Frobenius()])
def test_rotations_commute_with_the_step(norm):
    left = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    right = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))).Q
    plain, turned = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64)), nn.Parameter(torch.zeros(6, 4).double())
    one, two = Steepest([plain], norm, lr=0.1), Steepest([turned], norm, lr=0.1)
    for step in range(4):
        give_gradients([plain], step)
        turned.grad = left @ plain.grad @ right.mT
        one.step()
        two.step()
    torch.testing.assert_close(turned, left @ plain @ right.mT)


@pytest.mark.parametrize("norm", ["sign", "spectral", "rms to rms", "schatten 4", "rows", "l1 to rms", "frobenius"])
def test_no_step_of_the_same_norm_descends_further(norm):
    """The step minimizes <g, x> over the ball: 2,000 random points of the ball do no better."""
    norm, _ = DIRECTIONS[norm]
    p = nn.Parameter(torch.zeros(5, 3, dtype=torch.float64))
    (g,) = give_gradients([p], 0)
    Steepest([p], norm, lr=1.0, momentum=0.0).step()
    best = (torch.as_tensor(g) * p.detach()).sum().item()
    others = torch.randn(2000, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    others = others / norm.norm(others)[:, None, None]
    assert norm.norm(p.detach()).item() == pytest.approx(1)
    assert best <= (torch.as_tensor(g) * others).sum((1, 2)).min()
    assert best == pytest.approx(-norm.dual(torch.as_tensor(g)).item())


def test_convolutions_take_norms_of_convolutions_and_others_refuse_them():
    layer = nn.Conv2d(3, 4, 3, bias=False).double()
    (g,) = give_gradients([layer.weight], 0)
    start = layer.weight.detach().clone()
    group = {"params": [layer.weight], "role": "conv"}
    Steepest([group], SpectralConv(), lr=0.5, momentum=0.0).step()
    flat = reference.polar(g.reshape(4, 27)).reshape(4, 3, 3, 3)
    expected = start - 0.5 * math.sqrt(4 / 3) / 9 * torch.as_tensor(flat)
    torch.testing.assert_close(layer.weight.detach(), expected)
    matrix = nn.Parameter(torch.eye(3))
    matrix.grad = torch.eye(3)
    with pytest.raises(ValueError, match="4 dimensions"):
        Steepest([matrix], SpectralConv()).step()


def test_vectors_under_a_norm_of_vectors():
    p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    p.grad = torch.tensor([3.0, 0.0, 0.0, -4.0], dtype=torch.float64)
    Steepest([{"params": [p], "role": "bias"}], BiasRMS(), lr=1.0, momentum=0.0).step()
    torch.testing.assert_close(p.detach(), torch.tensor([-1.2, 0.0, 0.0, 1.6], dtype=torch.float64))
