import io

import numpy as np
import pytest
import torch
from torch import nn

from steepest.optim import SGD, Averaged, Options
from tests.optim.gradients import parameters, run

SHAPES = [(4, 3), (5,), ()]


def walk(params, averaged, steps, seed=0) -> list[list[np.ndarray]]:
    """Random steps; the weights after each, in float64."""
    generator = torch.Generator().manual_seed(seed)
    path = []
    for _ in range(steps):
        with torch.no_grad():
            for p in params:
                p.add_(torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype))
        averaged.update()
        path.append([p.detach().double().numpy().copy() for p in params])
    return path


def averages(averaged, params) -> list[np.ndarray]:
    with averaged.swapped():
        return [p.detach().double().numpy().copy() for p in params]


@pytest.mark.parametrize("steps", [1, 2, 25])
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 0.9999999])
def test_ema_is_the_weighted_mean_of_updated_weights(decay, steps):
    params = parameters(SHAPES)
    averaged = Averaged(params, decay=decay)
    path = walk(params, averaged, steps)
    weights = np.array([decay ** (steps - 1 - i) for i in range(steps)])
    weights /= weights.sum()
    for i, value in enumerate(averages(averaged, params)):
        expected = sum(w * point[i] for w, point in zip(weights, path, strict=True))
        np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("start", [0, 7])
def test_polyak_is_the_plain_mean_of_the_tail(start):
    params = parameters(SHAPES)
    averaged = Averaged(params, kind="polyak", start=start)
    path = walk(params, averaged, 20)
    for i, value in enumerate(averages(averaged, params)):
        np.testing.assert_allclose(value, np.mean([point[i] for point in path[start:]], axis=0), rtol=1e-12)


def test_after_a_long_run_ema_is_torchs():
    """torch's average keeps the initial weights for 1 / (1 - decay) steps; later the two agree."""
    model = nn.Linear(3, 2).double()
    theirs = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9), device="cpu"
    )
    ours = Averaged(model, decay=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        theirs.update_parameters(model)
        ours.update()
    with ours.swapped():
        for a, b in zip(model.parameters(), theirs.module.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_an_optimizer_updates_it_by_itself():
    one, two = parameters(SHAPES), parameters(SHAPES)
    first, second = SGD(one, lr=0.1), SGD(two, lr=0.1)
    by_hand, by_itself = Averaged(one, decay=0.5), Averaged(second, decay=0.5)
    for step in range(5):
        run(first, one, range(step, step + 1))
        by_hand.update()
        run(second, two, range(step, step + 1))
    assert by_itself.count == 5
    for a, b in zip(averages(by_hand, one), averages(by_itself, two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_weights_come_back_bit_for_bit_after_errors_too():
    params = parameters(SHAPES, torch.float32)
    averaged = Averaged(params)
    walk(params, averaged, 3)
    kept = [p.detach().clone() for p in params]
    with pytest.raises(KeyError) as stopped, averaged.swapped():
        raise KeyError(torch.equal(params[0], kept[0]))
    assert stopped.value.args == (False,)
    assert all(torch.equal(p, k) for p, k in zip(params, kept, strict=True))
    with averaged.swapped():
        with pytest.raises(RuntimeError, match="already"), averaged.swapped():
            pass
        with pytest.raises(RuntimeError, match="update after"):
            averaged.update()
    averaged.update()


def test_bfloat16_weights_have_averages_that_keep_moving():
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    averaged = Averaged([p], decay=0.999)
    averaged.update()
    with torch.no_grad():
        p.fill_(2.0)
    for _ in range(700):
        averaged.update()
    with averaged.swapped():
        # (1 - d^701) normalizes 700 weights of the new value and one of the old.
        expected = 2 - 0.001 * 0.999**700 / (1 - 0.999**701)
        assert p[0].item() == pytest.approx(expected, rel=2**-8)
    # Kept in bfloat16 it would have stopped: a thousandth of the difference is below half a unit in the last place.
    assert averaged.state_dict()["averages"][0].dtype == torch.float32


def test_resumes_through_a_file_and_refuses_what_is_not_its_own():
    params = parameters(SHAPES)
    averaged = Averaged(params, decay=0.9, start=2)
    walk(params, averaged, 5)
    file = io.BytesIO()
    torch.save(averaged.state_dict(), file)
    file.seek(0)
    other = Averaged(params, decay=0.9, start=2)
    other.load_state_dict(torch.load(file, weights_only=True))
    for again in (averaged, other):
        params_before = [p.detach().clone() for p in params]
        again.update()
        assert all(torch.equal(a, b) for a, b in zip(params, params_before, strict=True))
    for a, b in zip(averages(averaged, params), averages(other, params), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="decay"):
        Averaged(params, decay=0.8).load_state_dict(averaged.state_dict())
    with pytest.raises(ValueError, match="tensors"):
        Averaged(params[:2], decay=0.9).load_state_dict(averaged.state_dict())


def batch_norm_model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()


@pytest.mark.parametrize("buffers", ["average", "keep"])
def test_statistics_of_batch_norm(buffers):
    model = batch_norm_model()
    averaged = Averaged(model, kind="polyak", buffers=buffers)
    seen = []
    for step in range(4):
        model(torch.randn(16, 3, dtype=torch.float64) * (step + 1))
        averaged.update()
        seen.append(model[1].running_var.clone())
    batches = model[1].num_batches_tracked.clone()
    with averaged.swapped():
        expected = torch.stack(seen).mean(0) if buffers == "average" else seen[-1]
        torch.testing.assert_close(model[1].running_var, expected)
        assert model[1].num_batches_tracked == batches


@pytest.mark.parametrize("buffers", ["average", "keep"])
def test_recalibration_lasts_for_the_block(buffers):
    model = batch_norm_model()
    averaged = Averaged(model, buffers=buffers)
    data = [torch.randn(64, 3, dtype=torch.float64) + 5 for _ in range(3)]
    model(data[0])
    averaged.update()
    kept = {name: b.clone() for name, b in model.named_buffers()}
    with averaged.swapped():
        torch.optim.swa_utils.update_bn(data, model)
        with torch.no_grad():
            expected = torch.stack([model[0](x).mean(0) for x in data]).mean(0)
        torch.testing.assert_close(model[1].running_mean, expected)
    assert all(torch.equal(b, kept[name]) for name, b in model.named_buffers())


def test_before_the_first_update_the_weights_stay():
    params = parameters(SHAPES)
    averaged = Averaged(params, start=3)
    walk(params, averaged, 2)
    kept = [p.detach().clone() for p in params]
    with averaged.swapped():
        assert all(torch.equal(p, k) for p, k in zip(params, kept, strict=True))


def test_averaging_pays_under_noise():
    """Constant steps on a noisy quadratic: the average is far nearer to the solution than the last iterate."""
    p = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    optimizer = SGD([p], lr=0.3, options=Options())
    averaged = Averaged(optimizer, kind="polyak", start=100)
    generator = torch.Generator().manual_seed(0)
    for _ in range(1100):
        p.grad = p.detach() - 1 + torch.randn(50, generator=generator, dtype=torch.float64)
        optimizer.step()
    last = (p.detach() - 1).norm()
    with averaged.swapped():
        assert (p.detach() - 1).norm() < 0.2 * last


@pytest.mark.parametrize(
    "settings", [{"kind": "sma"}, {"decay": 1.0}, {"decay": -0.1}, {"start": -1}, {"buffers": "no"}]
)
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Averaged(parameters(SHAPES), **settings)


def test_nothing_to_average_is_refused():
    with pytest.raises(ValueError, match="no parameters"):
        Averaged([])
