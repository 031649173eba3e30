import pytest
import torch

from steepest.optim import Engine, Grafted
from steepest.optim.adam_rule import AdamRule
from steepest.optim.grafting import GraftedRule, graft
from steepest.optim.muon import MuonRule
from steepest.optim.rule import Step
from steepest.optim.soap import SOAPRule
from tests.optim.gradients import gradient, parameters, run


def test_each_matrix_has_the_direction_of_one_and_the_length_of_the_other():
    rule = GraftedRule(direction=MuonRule(), magnitude=AdamRule())
    muon, adam = MuonRule(), AdamRule()
    like = torch.zeros(3, 6, 4, dtype=torch.float64)
    state, one, two = rule.init(like), muon.init(like), adam.init(like)
    for count in range(1, 5):
        grad = torch.stack([gradient((6, 4), count, i) for i in range(3)])
        step = Step(count, 0)
        both, direction, magnitude = (
            rule.update(grad, state, step),
            muon.update(grad, one, step),
            adam.update(grad, two, step),
        )
        lengths = torch.linalg.matrix_norm(both)
        torch.testing.assert_close(lengths, torch.linalg.matrix_norm(magnitude))
        cosine = (both * direction).sum((-2, -1)) / (lengths * torch.linalg.matrix_norm(direction))
        torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_a_rule_grafted_onto_itself_is_itself():
    one, two = parameters(((6, 4), (5, 5))), parameters(((6, 4), (5, 5)))
    run(Engine(one, GraftedRule(direction=AdamRule(), magnitude=AdamRule())), one, range(5))
    run(Engine([{"params": two, "role": "hidden"}], AdamRule()), two, range(5))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_zero_has_no_direction():
    assert torch.equal(graft(torch.zeros(2, 3, 3), torch.ones(2, 3, 3)), torch.zeros(2, 3, 3))


def test_no_step_of_one_is_no_step_of_both():
    params = parameters(((6, 4),))
    start = params[0].detach().clone()
    optimizer = Grafted(params, direction=SOAPRule(), magnitude=AdamRule(), weight_decay=0.5)
    run(optimizer, params, range(1))
    assert torch.equal(params[0], start)
    assert optimizer.state[params[0]]["magnitude_exp_avg"].any()
    run(optimizer, params, range(1, 2))
    assert not torch.equal(params[0], start)


def test_learning_rate_and_decay_come_from_the_length():
    group = Grafted(parameters(((3, 3),)), direction=SOAPRule(), magnitude=AdamRule()).param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (AdamRule.lr, AdamRule.weight_decay)


def test_another_pair_of_rules_refuses_the_state():
    params = parameters(((3, 3),))
    saved = Grafted(params, direction=SOAPRule(), magnitude=AdamRule()).state_dict()
    with pytest.raises(ValueError, match="rules"):
        Grafted(params, direction=MuonRule(), magnitude=AdamRule()).load_state_dict(saved)
