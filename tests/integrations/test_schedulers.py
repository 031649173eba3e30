"""Every learning rate scheduler of torch, and torch's averages of weights."""

import copy

import pytest
import torch
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from steepest.optim import Averaged, Muon, Options
from tests.integrations.small import assert_equal_weights
from tests.optim.gradients import give_gradients
from tests.optim.test_contract import members, net

#: How each is made, for an optimizer.
SCHEDULERS = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda step: 0.9**step),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda step: 0.95),
    "StepLR": lambda o: schedulers.StepLR(o, 2),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, 0.5, 2),
    "LinearLR": lambda o: schedulers.LinearLR(o, 0.3, 1.0, 3),
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, 0.8),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o, 0.1, 1.0, 2), schedulers.ExponentialLR(o, 0.5)], [2]
    ),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, 5),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.ConstantLR(o, 0.5, 2), schedulers.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, factor=0.5, patience=0),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, 2),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=8),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, 5),
    "SWALR": lambda o: SWALR(o, 0.01, anneal_epochs=3),
}


def test_all_schedulers_of_torch_are_here():
    assert {*schedulers.__all__, "SWALR"} - {"LRScheduler"} == SCHEDULERS.keys()


@pytest.mark.filterwarnings("ignore:.*EPSILON.*:FutureWarning", "ignore:Detected call of:UserWarning")
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("tensor", [False, True], ids=["number", "tensor"])
def test_every_scheduler_does_to_ours_what_it_does_to_theirs(name, tensor):
    """Learning rates (and momentum, where it turns) are those that torch.optim.SGD would have."""
    model, other = net(), net()
    lr = torch.tensor(0.05) if tensor else 0.05
    ours = Muon(hidden(model), lr=lr, momentum=0.95)
    theirs = torch.optim.SGD(hidden(other), lr=copy.deepcopy(lr), momentum=0.95)
    one, two = SCHEDULERS[name](ours), SCHEDULERS[name](theirs)
    for step in range(7):
        give_gradients(hidden(model), step)
        give_gradients(hidden(other), step)
        ours.step()
        theirs.step()
        for schedule in (one, two):
            schedule.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        assert float(ours.param_groups[0]["lr"]) == pytest.approx(float(theirs.param_groups[0]["lr"]), rel=1e-6)
        assert ours.param_groups[0]["momentum"] == pytest.approx(theirs.param_groups[0]["momentum"])
    assert all(p.isfinite().all() for p in hidden(model))


def hidden(model):
    return [model.hidden.weight, model.wide.weight]


def test_swa_and_ema_of_torch_average_our_steps():
    """AveragedModel beside our steps: the average of the weights seen, and the same as `Averaged` makes."""
    for kind, fn in (("polyak", None), ("ema", get_ema_multi_avg_fn(0.5))):
        model = net(torch.float64)
        optimizer = Muon(model, lr=0.02, options=Options(clip=1.0))
        theirs = AveragedModel(model, multi_avg_fn=fn)
        seen = []
        ours = Averaged(optimizer, kind="polyak")
        for step in range(4):
            give_gradients(members(model), step)
            optimizer.step()
            theirs.update_parameters(model)
            seen.append(copy.deepcopy(model))
        if kind == "polyak":
            expected = copy.deepcopy(model)
            for p, *states in zip(members(expected), *map(members, seen), strict=True):
                p.data = torch.stack([s.data for s in states]).mean(0)
            assert_equal_weights(expected, theirs.module, rtol=1e-9, atol=1e-12)
            with ours.swapped():
                assert_equal_weights(model, theirs.module, rtol=1e-9, atol=1e-12)
        else:
            expected = copy.deepcopy(seen[0])
            for state in seen[1:]:
                for p, q in zip(members(expected), members(state), strict=True):
                    p.data = (p.data + q.data) / 2
            assert_equal_weights(expected, theirs.module, rtol=1e-9, atol=1e-12)


def test_statistics_of_batch_norm_are_made_again_for_the_average():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    optimizer = Muon(model, lr=0.1)
    average = AveragedModel(model)
    batches = [torch.randn(16, 3, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    for batch in batches:
        model(batch).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
    update_bn(batches, average)
    inputs = torch.cat([average.module[0](batch) for batch in batches])
    torch.testing.assert_close(average.module[1].running_mean, inputs.mean(0), rtol=1e-4, atol=1e-5)
