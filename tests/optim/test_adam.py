import numpy as np
import pytest
import torch
from torch import nn

from steepest.optim import Adam, AdamW, Options
from tests.optim.gradients import MATRICES, VECTORS, assert_follows, give_gradients, parameters, run
from tests.reference.adam import adam_steps

SHAPES = (*MATRICES, *VECTORS)
DECAYS = ["decoupled", "l2", "independent", "cautious"]


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
def test_twenty_steps_equal_the_formula(decay, amsgrad, kind):
    params = parameters(SHAPES)
    optimizer = AdamW(params, lr=0.05, weight_decay=0.2, amsgrad=amsgrad, options=Options(decay=decay))
    settings = {"lr": 0.05, "weight_decay": 0.2, "decay": decay, "amsgrad": amsgrad}
    assert_follows(optimizer, params, lambda w, g: adam_steps(w, g, **settings), kind=kind)


@pytest.mark.parametrize("decay", DECAYS)
def test_the_way_of_one_entry_at_a_time_equals_the_formula_too(decay):
    """The fused kernel is left out where anybody looks at the directions."""
    params = parameters(SHAPES)
    optimizer = AdamW(params, lr=0.05, weight_decay=0.2, amsgrad=True, options=Options(decay=decay))
    seen = []
    optimizer._observe = lambda *what: seen.append(what)
    settings = {"lr": 0.05, "weight_decay": 0.2, "decay": decay, "amsgrad": True}
    assert_follows(optimizer, params, lambda w, g: adam_steps(w, g, **settings))
    assert len(seen) == 20 * len(params)


@pytest.mark.parametrize(("betas", "eps"), [((0.0, 0.999), 1e-8), ((0.9, 0.0), 1e-8), ((0.8, 0.9), 1.0)])
def test_other_constants(betas, eps):
    params = parameters(SHAPES)
    optimizer = Adam(params, lr=0.03, betas=betas, eps=eps, weight_decay=0.1)
    settings = {"lr": 0.03, "betas": betas, "eps": eps, "weight_decay": 0.1, "decay": "l2"}
    assert_follows(optimizer, params, lambda w, g: adam_steps(w, g, **settings))


@pytest.mark.parametrize("decay", DECAYS)
def test_decay_under_a_schedule(decay):
    """Independent decay follows the schedule and not the size of the learning rate; the others follow both."""
    lrs = [0.1 * (1 - t / 12) for t in range(10)]
    params = parameters(SHAPES)
    start = [p.detach().numpy().copy() for p in params]
    optimizer = AdamW(params, lr=0.1, weight_decay=0.05, options=Options(decay=decay))
    gradients = []
    for step, lr in enumerate(lrs):
        optimizer.param_groups[0]["lr"] = lr
        gradients.append(give_gradients(params, step))
        optimizer.step()
    for i, p in enumerate(params):
        expected = adam_steps(start[i], [g[i] for g in gradients], lr=lrs, weight_decay=0.05, decay=decay, base_lr=0.1)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-9, atol=1e-10)


def test_independent_decay_does_not_know_the_size_of_the_learning_rate():
    shrunk = []
    for lr in (1e-3, 1e-1):
        p = nn.Parameter(torch.ones(3, 3, dtype=torch.float64))
        p.grad = torch.zeros_like(p)
        AdamW([p], lr=lr, weight_decay=0.25, options=Options(decay="independent")).step()
        shrunk.append(p.detach())
    assert torch.equal(shrunk[0], torch.full((3, 3), 0.75, dtype=torch.float64))
    torch.testing.assert_close(shrunk[0], shrunk[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize(("ours", "theirs"), [(Adam, torch.optim.Adam), (AdamW, torch.optim.AdamW)])
def test_equals_torch(ours, theirs, amsgrad, dtype):
    one, two = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    settings = {"lr": 0.02, "betas": (0.9, 0.98), "weight_decay": 0.1, "amsgrad": amsgrad}
    run(ours(one, **settings), one, range(20))
    run(theirs(two, foreach=False, **settings), two, range(20))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("decay", DECAYS)
def test_bfloat16_parameters_are_stepped_in_float32_and_rounded_once(decay):
    """Each step equals the float64 formula from where the parameter was, up to the rounding of the parameter."""
    params = parameters(SHAPES, torch.bfloat16)
    optimizer = AdamW(params, lr=0.05, betas=(0.0, 0.0), weight_decay=0.2, options=Options(decay=decay))
    for step in range(5):
        before = [p.detach().double().numpy() for p in params]
        gradients = give_gradients(params, step)
        optimizer.step()
        for p, w, g in zip(params, before, gradients, strict=True):
            expected = torch.as_tensor(adam_steps(w, [g], lr=0.05, betas=(0.0, 0.0), weight_decay=0.2, decay=decay))
            half_ulp = expected.abs() * 2.0**-8 + 1e-6
            assert ((p.double() - expected).abs() <= half_ulp).all()
            assert optimizer.state[p]["exp_avg_sq"].dtype == torch.float32


def test_gradients_stored_in_another_order_than_the_parameter():
    """A kernel that walks through memory pairs the wrong entries here, torch's among them."""
    one, two = parameters([(3, 4)]), parameters([(3, 4)])
    grad = torch.randn(4, 3, dtype=torch.float64)
    one[0].grad, two[0].grad = grad.t(), grad.t().contiguous()
    Adam(one).step()
    Adam(two).step()
    torch.testing.assert_close(one[0], two[0], rtol=1e-14, atol=0)


def test_first_step_is_sign_descent_whatever_the_size_of_the_gradient():
    for size in (1e-12, 1.0, 1e12):
        p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        p.grad = torch.tensor([1.0, -2.0, 3.0, -4.0], dtype=torch.float64) * size
        Adam([p], lr=0.1, eps=1e-30).step()
        torch.testing.assert_close(p.detach(), -0.1 * p.grad.sign())


@pytest.mark.parametrize("settings", [{"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}, {"eps": 0.0}, {"eps": -1e-8}])
def test_bad_constants_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AdamW(parameters([(2, 2)]), **settings)


def test_a_scheduler_that_turns_momentum_finds_it():
    """OneCycleLR asks the optimizer's defaults, then writes beta 1 into the groups."""
    params = parameters(SHAPES)
    optimizer = AdamW(params, lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=10)
    run(optimizer, params, range(1))
    schedule.step()
    run(optimizer, params, range(1, 2))
    assert optimizer.param_groups[0]["betas"][0] == optimizer.rule_of(0).betas[0] != 0.9
