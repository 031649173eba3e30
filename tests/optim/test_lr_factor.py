import copy

import pytest
import torch
from torch import nn

from steepest.optim import MFAC, SGD, AdamW, Lion, Muon, Options, param_groups
from steepest.optim.mfac import MFACRule

METHODS = {
    "adam": lambda p, o: AdamW(p, lr=0.03, weight_decay=0.0, options=o),
    "sgd": lambda p, o: SGD(p, lr=0.03, momentum=0.9, options=o),
    "lion": lambda p, o: Lion(p, lr=0.03, weight_decay=0.0, options=o),
    "muon": lambda p, o: Muon(p, lr=0.03, weight_decay=0.0, options=o),
}


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    for i in range(3):
        generator = torch.Generator().manual_seed(i)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_the_factor_acts_as_a_learning_rate_for_matrices_and_vectors(name, cautious):
    options = Options(cautious=cautious)
    one, other = net(), net()
    factors = {"0.weight": 0.5, "0.bias": 4.0, "2.weight": 0.25}
    ours = METHODS[name](param_groups(one, METHODS[name](net(), options).rule, lr_factors=factors), options)
    theirs = METHODS[name](param_groups(other, ours.rule, lr_factors=dict.fromkeys(factors, 1.0)), options)
    groups = {n: group for group in ours.param_groups for n in group["param_names"]}
    split = copy.copy(theirs.param_groups)
    theirs.param_groups.clear()
    theirs._rules.clear()
    for group in split:
        for key, parameter in zip(group["param_names"], group["params"], strict=True):
            theirs.param_groups.append({**group, "params": [parameter], "param_names": [key]})
            theirs.param_groups[-1]["lr"] = group["lr"] * factors.get(key, 1.0)
            theirs._rules.append(next(r for r in ours._rules if r.name == group["rule"]))
    assert groups["0.bias"]["lr_factor"] == 4.0
    for a, b in zip(stepped(one, ours), stepped(other, theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("make", [AdamW, Lion])
def test_weight_decay_goes_by_the_learning_rate_without_the_factor(make):
    p = nn.Parameter(torch.ones(3, 2))
    p.grad = torch.zeros(3, 2)
    make([{"params": [p], "lr_factor": 7.0}], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(p.detach(), torch.full((3, 2), 0.95))


def test_names_and_rules_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        param_groups(net(), lr_factors={"1.weight": 2.0})
    with pytest.raises(ValueError, match="one vector"):
        param_groups(net(), MFACRule(window=4), lr_factors={"0.weight": 2.0})
    assert MFAC(net(), window=4).param_groups
    with pytest.raises(ValueError, match="lr_factor"):
        SGD([{"params": list(net().parameters()), "lr_factor": 0.0}], lr=0.1)
