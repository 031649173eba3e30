import copy
import io
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from steepest.optim import SGD, AdamW, Lion, Muon, Options, ScheduleFree
from tests.optim.gradients import MATRICES, VECTORS, give_gradients, gradient, parameters, run
from tests.reference.schedule_free import schedule_free_steps

SHAPES = (*MATRICES, *VECTORS)


class RMS:
    """Adam without its first average."""

    def __init__(self, beta: float = 0.999) -> None:
        self.beta, self.square = beta, 0.0

    def __call__(self, g, t):
        self.square = self.beta * self.square + (1 - self.beta) * g * g
        return g / (np.sqrt(self.square / (1 - self.beta**t)) + 1e-8)


CASES = [
    {},
    {"momentum": 0.5, "weight_decay": 0.1},
    {"momentum": 1.0},
    {"warmup": 5},
    {"warmup": 5, "lr_power": 1.0, "step_power": 2.0, "weight_decay": 0.1},
]


@pytest.mark.parametrize("settings", CASES, ids=str)
@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_three_sequences_equal_the_formula(base, settings):
    params = parameters(SHAPES)
    start = [p.detach().numpy().copy() for p in params]
    inner = SGD(params, lr=0.1) if base == "sgd" else AdamW(params, lr=0.1, betas=(0.0, 0.999), weight_decay=0.0)
    optimizer = ScheduleFree(inner, **settings)
    run(optimizer, params, range(20))
    told = {"momentum": 0.9, **settings}
    told["r"] = told.pop("step_power", 0.0)
    shown = [p.detach().numpy().copy() for p in params]
    optimizer.eval()
    for i, p in enumerate(params):
        direction = (lambda g, t: g) if base == "sgd" else RMS()
        y, x, z = schedule_free_steps(
            start[i], lambda y, t, i=i: gradient(start[i].shape, t - 1, i).numpy(), 20, direction, lr=0.1, **told
        )
        np.testing.assert_allclose(shown[i], y, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(p.detach().numpy(), x, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(optimizer._points[p]["z"].numpy(), z, rtol=1e-9, atol=1e-10)


def test_x_is_the_plain_average_of_z_at_a_constant_learning_rate():
    p = nn.Parameter(torch.tensor([3.0], dtype=torch.float64))
    optimizer = ScheduleFree(SGD([p], lr=0.1))
    seen = []
    for step in range(30):
        run(optimizer, [p], range(step, step + 1))
        seen.append(optimizer._points[p]["z"].item())
    optimizer.eval()
    assert p.item() == pytest.approx(np.mean(seen))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("make", [SGD, AdamW, Lion, Muon])
def test_evaluating_changes_no_bit_of_the_run(make, dtype):
    one, two = parameters(MATRICES, dtype), parameters(MATRICES, dtype)
    first, second = ScheduleFree(make(one, lr=0.01)), ScheduleFree(make(two, lr=0.01))
    for step in range(6):
        run(first, one, range(step, step + 1))
        run(second, two, range(step, step + 1))
        second.eval()
        second.eval()
        second.train()
        second.train()
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("make", [AdamW, Muon])
def test_resumes_bit_for_bit_in_either_mode(make, mode):
    whole, half = parameters(MATRICES, torch.float32), parameters(MATRICES, torch.float32)
    options = {"warmup": 4, "weight_decay": 0.1}
    one, two = ScheduleFree(make(whole, lr=0.01), **options), ScheduleFree(make(half, lr=0.01), **options)
    run(one, whole, range(6))
    run(two, half, range(3))
    getattr(two, mode)()
    file = io.BytesIO()
    torch.save({"optimizer": two.state_dict(), "params": [p.detach() for p in half]}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = [nn.Parameter(p) for p in saved["params"]]
    three = ScheduleFree(make(again, lr=0.01), **options)
    three.load_state_dict(saved["optimizer"])
    assert three.training == (mode == "train")
    three.train()
    run(three, again, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    for optimizer in (one, three):
        optimizer.eval()
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))


def test_copies_and_pickles_continue_alike():
    params = parameters(MATRICES, torch.float32)
    optimizer = ScheduleFree(AdamW(params, lr=0.01))
    run(optimizer, params, range(2))
    copied = copy.deepcopy((params, optimizer))
    pickled = pickle.loads(pickle.dumps((params, optimizer)))
    for some, o in ((params, optimizer), copied, pickled):
        run(o, some, range(2, 4))
    for other, _ in (copied, pickled):
        assert all(torch.equal(a, b) for a, b in zip(params, other, strict=True))


def test_average_of_bfloat16_weights_keeps_moving():
    """c_t falls as 1/t: an average in bfloat16 would stand still after some hundred steps."""
    p = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = ScheduleFree(SGD([p], lr=0.01))
    seen = []
    for _ in range(1000):
        p.grad = torch.ones_like(p)
        optimizer.step()
        seen.append(optimizer._points[p]["z"].double())
    optimizer.eval()
    mean = torch.stack(seen).mean(0)
    assert (mean - seen[-1]).abs().min() > 0.5
    torch.testing.assert_close(optimizer._points[p]["x"].double(), mean, rtol=1e-4, atol=0)
    torch.testing.assert_close(p.detach().double(), mean, rtol=2**-8, atol=0)


def test_stepping_with_gradients_of_the_average_is_refused():
    params = parameters(MATRICES)
    optimizer = ScheduleFree(SGD(params))
    run(optimizer, params, range(1))
    optimizer.eval()
    with pytest.raises(RuntimeError, match=r"train\(\)"):
        optimizer.step()
    optimizer.train()
    optimizer.step()


def test_gradients_are_untouched_and_missing_ones_leave_a_parameter_alone():
    params = parameters(MATRICES)
    optimizer = ScheduleFree(AdamW(params), weight_decay=0.1)
    run(optimizer, params, range(2))
    kept = params[2].detach().clone()
    before = give_gradients(params, 2)
    params[2].grad = None
    optimizer.step()
    assert torch.equal(params[2], kept)
    for i, p in enumerate(params):
        assert p.grad is None if i == 2 else np.array_equal(p.grad.numpy(), before[i])


def test_a_step_that_is_left_out_moves_nothing():
    params = parameters(MATRICES, torch.float32)
    optimizer = ScheduleFree(AdamW(params, options=Options(nonfinite="skip")))
    run(optimizer, params, range(3))
    kept, weights = [p.detach().clone() for p in params], copy.deepcopy(optimizer._weights)
    give_gradients(params, 3)
    params[0].grad[0, 0] = torch.nan
    optimizer.step()
    assert all(torch.equal(p, k) for p, k in zip(params, kept, strict=True))
    assert optimizer._weights == weights
    assert optimizer.optimizer.skipped == 1


def test_schedulers_scalers_and_closures_work_on_it():
    model = nn.Linear(3, 1)
    optimizer = ScheduleFree(AdamW(model, lr=0.1))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    x = torch.randn(8, 3)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert optimizer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 31)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = model(x).square().mean()
        value.backward()
        return value

    assert optimizer.step(closure).requires_grad


def test_groups_added_later_take_part():
    first, second = parameters([(3, 3), (3, 3)])
    optimizer = ScheduleFree(SGD([first], lr=0.1))
    run(optimizer, [first], range(2))
    optimizer.add_param_group({"params": [second], "lr": 0.5})
    assert len(optimizer.param_groups) == 2
    start = second.detach().clone()
    run(optimizer, [first, second], range(2, 4))
    assert not torch.equal(second, start)


def test_what_does_not_fit_is_refused():
    params = parameters([(2, 2)])
    with pytest.raises(TypeError, match="steepest"):
        ScheduleFree(torch.optim.SGD(params, lr=0.1))
    for settings in ({"momentum": 0.0}, {"momentum": 1.1}, {"weight_decay": -1}, {"warmup": -1}, {"lr_power": -1}):
        with pytest.raises(ValueError, match=next(iter(settings))):
            ScheduleFree(SGD(params), **settings)
    with pytest.raises(ValueError, match="without ScheduleFree"):
        ScheduleFree(SGD(params)).load_state_dict(SGD(params).state_dict())


def test_learns_a_noisy_quadratic_better_than_its_last_point():
    """No schedule: x is near the solution at any time, while z keeps the noise of a constant learning rate."""
    p = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    optimizer = ScheduleFree(SGD([p], lr=0.3))
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        p.grad = p.detach() - 1 + torch.randn(50, generator=generator, dtype=torch.float64)
        optimizer.step()
    optimizer.eval()
    assert (p.detach() - 1).norm() < 0.3 * (optimizer._points[p]["z"] - 1).norm()
