"""A run that torch.optim began goes on here as it would have there."""

import copy

import pytest
import torch

from steepest.geometry import published_iteration
from steepest.optim import SGD, Adam, AdamW, Muon, Options, load_torch_state
from tests.optim.gradients import give_gradients, parameters, run
from tests.optim.test_contract import members, net, through_a_file

SHAPES = [(6, 4), (5,), ()]
CASES = {
    "adamw": (torch.optim.AdamW, AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.1}),
    "amsgrad": (torch.optim.AdamW, lambda p: AdamW(p, amsgrad=True), {"amsgrad": True}),
    "adam, l2": (torch.optim.Adam, AdamW, {"weight_decay": 0.1}),
    "momentum": (torch.optim.SGD, lambda p: SGD(p, momentum=0.5), {"momentum": 0.9, "nesterov": True}),
    "sgd": (torch.optim.SGD, SGD, {"weight_decay": 0.1}),
}


@pytest.mark.parametrize("case", CASES)
def test_goes_on_as_torch_would(case):
    theirs, ours, settings = CASES[case]
    params = parameters(SHAPES)
    old = theirs(params, lr=0.05, **settings)
    run(old, params, range(5))
    moved = copy.deepcopy(params)
    new = ours(moved)
    load_torch_state(new, through_a_file(old.state_dict()))
    if case == "sgd":
        new.param_groups[0]["decay"] = "l2"  # torch's has no name for its way of decaying
    run(old, params, range(5, 10))
    run(new, moved, range(5, 10))
    for p, q in zip(params, moved, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_muon_and_adamw_together_become_one_optimizer_of_the_model():
    model = net()
    matrices = {name: p for name, p in model.named_parameters() if name in ("hidden.weight", "wide.weight")}
    rest = {name: p for name, p in model.named_parameters() if name not in (*matrices, "convolution.weight")}
    one = torch.optim.Muon(list(matrices.values()), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    two = torch.optim.AdamW(list(rest.items()), lr=0.01, weight_decay=0.1)
    model.convolution.weight.requires_grad_(False)
    for step in range(4):
        give_gradients([*matrices.values(), *rest.values()], step)
        one.step()
        two.step()
    again = copy.deepcopy(model)
    new = Muon(again, polar=published_iteration("muon", dtype=torch.bfloat16))
    load_torch_state(new, one.state_dict(), names=list(matrices))
    load_torch_state(new, two.state_dict())  # AdamW was given names
    assert {group["lr"] for group in new.param_groups} == {0.02, 0.01}
    named = dict(again.named_parameters())
    for step in range(4, 8):
        give_gradients([*matrices.values(), *rest.values()], step)
        one.step()
        two.step()
        give_gradients([named[name] for name in (*matrices, *rest)], step)
        new.step()
    for name, p in model.named_parameters():
        moved = named[name]
        if name in rest:
            torch.testing.assert_close(moved, p, rtol=1e-5, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
        else:
            # Both iterate in bfloat16, in other orders: a step differs by a percent of its length.
            start = net().get_parameter(name)
            assert (moved - p).norm() <= 0.02 * (p - start).norm(), name


def test_states_take_the_dtype_and_the_format_they_have_here():
    params = parameters(SHAPES, torch.bfloat16)
    old = torch.optim.AdamW(params)
    run(old, params, range(2))
    new = AdamW(params, options=Options(state_dtype="8bit"))
    load_torch_state(new, old.state_dict())
    fresh = AdamW(parameters(SHAPES, torch.bfloat16), options=Options(state_dtype="8bit"))
    run(fresh, fresh.param_groups[0]["params"], range(2))
    for p, q in zip(params, fresh.param_groups[0]["params"], strict=True):
        assert {k: v.dtype for k, v in new.state[p].items() if k != "step"} == {
            k: v.dtype for k, v in fresh.state[q].items() if k != "step"
        }
        assert new.state[p]["step"] == 2
    run(new, params, range(2, 4))
    assert all(p.isfinite().all() for p in params)


def test_what_does_not_fit_is_refused_and_changes_nothing():
    params = parameters([(6, 4), (5, 3)])
    old = torch.optim.SGD(params, momentum=0.9)
    run(old, params, range(1))
    adamw = AdamW(copy.deepcopy(params))
    with pytest.raises(ValueError, match=r"keeps .*exp_avg.*momentum_buffer"):
        load_torch_state(adamw, old.state_dict())
    with pytest.raises(ValueError, match="names="):
        load_torch_state(AdamW(params[:1]), torch.optim.AdamW(params).state_dict())
    with pytest.raises(ValueError, match="no names"):
        load_torch_state(adamw, torch.optim.AdamW(params).state_dict(), names=["a", "b"])
    with pytest.raises(ValueError, match="does not step"):
        load_torch_state(AdamW(net()), torch.optim.AdamW(params).state_dict(), names=["a", "b"])
    with pytest.raises(ValueError, match="maximize"):
        load_torch_state(adamw, torch.optim.AdamW(params, maximize=True).state_dict())
    with pytest.raises(ValueError, match="load_state_dict"):
        load_torch_state(adamw, adamw.state_dict())
    other = torch.optim.AdamW(parameters([(6, 4), (3, 5)]))
    run(other, other.param_groups[0]["params"], range(1))
    with pytest.raises(ValueError, match=r"expected exp_avg of shape \(5, 3\), got \(3, 5\)"):
        load_torch_state(adamw, other.state_dict())
    assert not adamw.state
    assert adamw.param_groups[0]["lr"] == 1e-3
    with pytest.raises(ValueError, match="load_torch_state"):
        adamw.load_state_dict(torch.optim.AdamW(params).state_dict())


def test_groups_that_are_coarser_than_those_saved_are_refused():
    model = net()
    weights = [p for p in members(model) if p.ndim > 1]
    vectors = [p for p in members(model) if p.ndim < 2]
    old = torch.optim.AdamW([{"params": weights}, {"params": vectors, "weight_decay": 0.0}])
    names = [name for name, p in model.named_parameters() if p.ndim > 1]
    names += [name for name, p in model.named_parameters() if p.ndim < 2]
    with pytest.raises(ValueError, match="as fine as"):
        load_torch_state(AdamW(list(model.named_parameters())), old.state_dict(), names=names)
    new = Adam(model)
    load_torch_state(new, old.state_dict(), names=names)
    assert {group["weight_decay"] for group in new.param_groups if group["role"] in ("bias", "gain")} == {0.0}
    assert {group["decay"] for group in new.param_groups} == {"decoupled"}
