import pytest
import torch
from torch import nn

from steepest.optim import AdamW, Muon, Options, SinkGD, explain
from tests.optim.gradients import give_gradients
from tests.optim.test_contract import OPTIMIZERS, make, members, net


def test_the_table_names_everything():
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    plans = explain(Muon(model, lr=0.02, weight_decay=0.1), model)
    first = plans[0]
    assert (first.name, first.shape, first.role, first.norm) == ("0.weight", (16, 4), "hidden", "Spectral")
    assert first.rule.startswith("muon")
    assert (first.lr, first.lr_scale, first.weight_decay, first.state_bytes) == (0.02, 2.0, 0.1, 16 * 4 * 4)
    assert first.reason
    text = str(plans)
    for plan in plans:
        assert plan.name in text
    assert "state bytes" in text


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "8bit"])
def test_state_bytes_are_those_that_a_step_makes(name, state_dtype):
    model = net()
    optimizer = make(name, model, options=Options(state_dtype=state_dtype))
    plans = explain(optimizer)
    give_gradients(members(model), 0)
    optimizer.step()
    by_name = dict(model.named_parameters())
    flat = any(group["rule"].startswith("mfac") for group in optimizer.param_groups)
    made = {
        name: sum(v.numel() * v.element_size() for k, v in optimizer.state[p].items() if k != "step")
        for name, p in by_name.items()
    }
    if not flat:
        assert {plan.name: plan.state_bytes for plan in plans} == made


def test_state_in_8_bits_takes_about_two_bytes_for_adam():
    p = nn.Parameter(torch.zeros(256, 256))
    (plan,) = explain(AdamW([p], options=Options(state_dtype="8bit")))
    assert plan.state_bytes / p.numel() <= 2.1
    (plan,) = explain(SinkGD([p]))
    assert plan.state_bytes == 0


def test_other_optimizers_are_refused():
    with pytest.raises(TypeError, match="AdamW"):
        explain(torch.optim.AdamW([nn.Parameter(torch.zeros(1))]))
