import math

import numpy as np
import pytest
import torch
from torch import nn

from steepest.geometry import exact_polar
from steepest.optim import Scion
from tests.optim.gradients import MATRICES, assert_follows, give_gradients, parameters
from tests.reference import norm_optimizers as reference


def spectral(x: np.ndarray) -> np.ndarray:
    return math.sqrt(x.shape[0] / x.shape[1]) * reference.polar(x)


@pytest.mark.parametrize("constrained", [True, False])
def test_twenty_steps_equal_the_formula(constrained):
    params = parameters(MATRICES)
    optimizer = Scion(params, lr=0.01, radius=3.0, momentum=0.9, constrained=constrained, polar=exact_polar)
    assert_follows(
        optimizer,
        params,
        lambda w, g: reference.averaged(
            w,
            g,
            lambda d: 3.0 * spectral(d),
            lr=0.01,
            momentum=0.9,
            nesterov=False,
            weight_decay=1.0 if constrained else 0.0,
        ),
    )


@pytest.mark.parametrize("role", ["head", "tied"])
def test_vocabulary_matrices_take_the_sign_over_the_inputs(role):
    params = parameters([(6, 4)])
    start = params[0].detach().clone()
    (g,) = give_gradients(params, 0)
    Scion([{"params": params, "role": role}], lr=0.01, vocabulary_radius=20.0).step()
    torch.testing.assert_close(params[0].detach(), start - 0.01 * 20.0 / 4 * torch.as_tensor(np.sign(g)))


def test_an_embedding_takes_the_root_mean_square_of_each_token():
    params = parameters([(6, 4)])
    start = params[0].detach().clone()
    (g,) = give_gradients(params, 0)
    Scion([{"params": params, "role": "embedding", "transposed": True}], lr=0.01, radius=5.0).step()
    step = g / np.sqrt((g**2).mean(axis=1, keepdims=True))
    torch.testing.assert_close(params[0].detach(), start - 0.01 * 5.0 * torch.as_tensor(step))


def test_vectors_take_their_root_mean_square():
    params = parameters([(6,)])
    start = params[0].detach().clone()
    (g,) = give_gradients(params, 0)
    Scion([{"params": params, "role": "bias"}], lr=0.01).step()
    expected = start - 0.01 * torch.as_tensor(g / np.sqrt((g**2).mean()))
    torch.testing.assert_close(params[0].detach(), expected)


def test_a_convolution_has_its_taps_divided_out():
    weight = nn.Parameter(torch.zeros(4, 3, 3, 3, dtype=torch.float64))
    (g,) = give_gradients([weight], 0)
    Scion([{"params": [weight], "role": "conv"}], lr=0.1, radius=8.0, polar=exact_polar).step()
    flat = torch.as_tensor(reference.polar(g.reshape(4, 27)).reshape(4, 3, 3, 3))
    torch.testing.assert_close(weight.detach(), -0.1 * 8.0 * math.sqrt(4 / 3) / 9 * flat)


def test_constrained_weights_stay_in_the_ball_and_the_first_step_keeps_a_pretrained_weight():
    params = parameters([(6, 4)])
    start = params[0].detach().clone()
    optimizer = Scion(params, lr=1e-6, radius=2.0, constrained=True, polar=exact_polar)
    give_gradients(params, 0)
    optimizer.step()
    assert (params[0] - start).norm() < 1e-4 * start.norm()
    for group in optimizer.param_groups:
        group["lr"] = 0.2
    for step in range(60):
        give_gradients(params, step)
        optimizer.step()
    sigma = torch.linalg.matrix_norm(params[0].detach(), 2).item()
    assert math.sqrt(4 / 6) * sigma <= 2.0 + 1e-4


def test_a_model_needs_no_other_method():
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 7))
    optimizer = Scion(model)
    assert all(group["rule"].startswith("scion") for group in optimizer.param_groups)
