"""The fused step of every rule that has one is its plain step."""

import pytest
import torch

from steepest.optim import SGD, Adam, AdamW, Lion, NAdam, Nesterov, Options, SignDescent, Signum
from tests.optim.gradients import MATRICES, VECTORS, parameters, run

SHAPES = (*MATRICES, *VECTORS)
RULES = {
    "SGD": (SGD, {}),
    "SGD, heavy ball": (SGD, {"momentum": 0.9, "dampening": 0.3}),
    "SGD, Nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "Nesterov": (Nesterov, {"momentum": 0.8}),
    "Nesterov, convex": (Nesterov, {"momentum": None}),
    "SignDescent": (SignDescent, {}),
    "Signum": (Signum, {"momentum": 0.8}),
    "Signum, Nesterov": (Signum, {"nesterov": True}),
    "Lion": (Lion, {}),
    "Adam": (Adam, {"amsgrad": True}),
    "AdamW": (AdamW, {}),
    "NAdam": (NAdam, {"momentum_decay": 0.1}),
}
OPTIONS = {
    "plain": Options(),
    "l2": Options(decay="l2"),
    "independent": Options(decay="independent"),
    "cautious decay": Options(decay="cautious"),
    "cautious": Options(cautious=True),
    "clip": Options(clip=0.5),
    "spectral": Options(lr_scale="spectral", decay="decoupled"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", RULES)
def test_fused_steps_equal_plain_ones(name, options, dtype):
    make, settings = RULES[name]
    one, two = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    fused, plain = (
        make(params, lr=0.0625, weight_decay=0.1, options=OPTIONS[options], **settings) for params in (one, two)
    )
    seen = []
    plain._observe = lambda *what: seen.append(what)  # Whoever looks at directions gets the plain way.
    for step in range(6):
        run(fused, one, range(step, step + 1))
        fused.param_groups[0]["lr"] = plain.param_groups[0]["lr"] * 0.75
        run(plain, two, range(step, step + 1))
        plain.param_groups[0]["lr"] *= 0.75
    assert len(seen) == 6 * len(two)
    tolerance = 1e-11 if dtype == torch.float64 else 3e-6
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
