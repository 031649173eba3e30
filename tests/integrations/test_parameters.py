"""Parameters as models have them: tied, frozen, unused, late, complex, without dimensions, empty."""

import copy

import pytest
import torch
from torch import nn

from steepest.optim import SGD, AdamW, Engine, Lion, Muon, NAdam, Nesterov, Options, ScheduleFree, SignDescent, Signum
from tests.optim.gradients import gradient, run
from tests.optim.test_contract import OPTIMIZERS, equal, make, members, net

BY_ENTRY = [SGD, Nesterov, SignDescent, Signum, Lion, AdamW, NAdam]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.hidden = nn.Linear(4, 4)
        self.unused = nn.Linear(4, 4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.frozen(torch.relu(self.hidden(self.embedding(ids)))))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tied_frozen_and_unused_parameters(name):
    model = Tied()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = make(name, model)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.1
    for _ in range(2):
        model(torch.arange(7)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, start[key])}
    flat = optimizer.rule.works_on == "all parameters"
    assert moved - {"unused.weight", "unused.bias"} == {
        "embedding.weight",
        "head.weight",
        "hidden.weight",
        "hidden.bias",
    }
    assert flat or not moved & {"unused.weight", "unused.bias"}
    assert model.head.weight is model.embedding.weight


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_all_or_nothing(name):
    """The last group's gradient is refused: the first group has not moved and has not counted a step."""
    matrices = [nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))]
    optimizer = make(name, [{"params": [p]} for p in matrices])
    matrices[0].grad = torch.ones(3, 3)
    matrices[1].grad = torch.eye(3).to_sparse()
    with pytest.raises(ValueError, match="sparse"):
        optimizer.step()
    assert all(torch.equal(p, torch.eye(3)) for p in matrices)
    assert not any(optimizer.state.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_that_is_a_tensor(name):
    one, two = net(), net()
    lr = torch.tensor(0.01, dtype=torch.float64)
    first, second = make(name, one, lr=0.01), make(name, two, lr=lr)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (first, second)]
    for step in range(3):
        run(first, members(one), range(step, step + 1))
        run(second, members(two), range(step, step + 1))
        for schedule in schedules:
            schedule.step()
    assert equal(one, two)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_hooks_of_steps_and_of_states_are_called(name):
    model = net()
    optimizer = make(name, model)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    optimizer.register_state_dict_pre_hook(lambda _: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "mine": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, state: {k: v for k, v in state.items() if k != "mine"})
    optimizer.register_load_state_dict_post_hook(lambda _: seen.append("loaded"))
    run(optimizer, members(model), range(1))
    state = optimizer.state_dict()
    assert state["mine"] == 1
    optimizer.load_state_dict(state)
    assert seen == ["before", "after", "saving", "loaded"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_group_added_later_begins_at_its_own_first_step(name):
    """It moves as in an optimizer of its own, and what was there goes on as if nothing had been added."""
    first, second = (nn.Parameter(torch.eye(4, 3)) for _ in range(2))
    late = nn.Parameter(torch.ones(3, 4))
    one, two = make(name, [first]), make(name, [second])
    run(one, [first], range(2))
    run(two, [second], range(2))
    if one.rule.works_on == "all parameters":
        pytest.skip("the parameters of a group are one vector, whose length is fixed")
    two.add_param_group({"params": [late], "lr": 0.5})
    assert two.param_groups[1]["lr"] == 0.5
    run(one, [first], range(2, 4))
    run(two, [second, late], range(2, 4))
    assert torch.equal(first, second)
    assert not torch.equal(late, torch.ones(3, 4))
    assert two.state[late].get("step", 2) == 2


@pytest.mark.parametrize("kind", BY_ENTRY)
def test_complex_parameters_are_pairs_of_real_ones(kind):
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(5, dtype=torch.complex128, generator=generator)
    whole, pairs = nn.Parameter(value.clone()), nn.Parameter(torch.view_as_real(value).clone())
    one, two = kind([whole], lr=0.05), kind([pairs], lr=0.05)
    for step in range(4):
        grad = torch.view_as_complex(gradient((5, 2), step, 0))
        whole.grad, pairs.grad = grad, torch.view_as_real(grad)
        one.step()
        two.step()
    torch.testing.assert_close(torch.view_as_real(whole.detach()), pairs.detach(), rtol=1e-12, atol=1e-14)
    again = copy.deepcopy(whole)
    resumed = kind([again], lr=0.05)
    resumed.load_state_dict(copy.deepcopy(one.state_dict()))
    grad = torch.view_as_complex(gradient((5, 2), 4, 0))
    whole.grad, again.grad = grad, grad.clone()
    one.step()
    resumed.step()
    assert torch.equal(whole, again)


def test_complex_parameters_equal_those_of_torch():
    value = torch.randn(4, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(value.clone()), nn.Parameter(value.clone())
    one, two = AdamW([ours], lr=0.05), torch.optim.AdamW([theirs], lr=0.05)
    for step in range(5):
        ours.grad = theirs.grad = torch.view_as_complex(gradient((4, 2), step, 0))
        one.step()
        two.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    with pytest.raises(TypeError, match="entry by entry"):
        AdamW([ours], options=Options(hyperball=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_dimensions_and_no_entries(name):
    """Scalars and empty tensors among vectors; methods for matrices say what to do with them."""
    for shape in ((), (0,)):
        p = nn.Parameter(torch.ones(shape))
        try:
            optimizer = make(name, [p])
        except ValueError as error:
            assert "give the model" in str(error)  # noqa: PT017
            continue
        p.grad = torch.ones(shape)
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
        optimizer.step()
        assert (p < 1).all()


def test_settings_of_a_group_stand_against_those_of_the_optimizer():
    model = net()
    groups = [
        {"params": [model.hidden.weight], "lr": 0.5, "momentum": 0.0, "weight_decay": 0.2, "decay": "independent"},
        {"params": [model.wide.weight], "nesterov": False, "cautious": True},
    ]
    optimizer = Muon(groups, lr=0.01, weight_decay=0.1)
    one, two = optimizer.param_groups
    assert (one["lr"], one["momentum"], one["weight_decay"], one["decay"], one["base_lr"]) == (
        0.5,
        0,
        0.2,
        "independent",
        0.5,
    )
    assert (two["lr"], two["momentum"], two["nesterov"], two["cautious"]) == (0.01, 0.95, False, True)
    alone = net()
    separate = Muon([alone.hidden.weight], lr=0.5, momentum=0.0, weight_decay=0.2, options=Options(decay="independent"))
    run(optimizer, [model.hidden.weight, model.wide.weight], range(3))
    run(separate, [alone.hidden.weight], range(3))
    assert torch.equal(model.hidden.weight, alone.hidden.weight)


@pytest.mark.parametrize("make_", [lambda m: Muon(m), lambda m: AdamW(m), lambda m: ScheduleFree(AdamW(m))])
def test_a_closure_may_be_evaluated_again_inside_a_step(make_):
    """The gradient of a step is that of the closure, whatever was there before it."""
    one, two = net(), net()
    first, second = make_(one), make_(two)
    ids = torch.arange(10).reshape(2, 5)

    def closure():
        first.zero_grad()
        loss = nn.functional.cross_entropy(one(ids).flatten(0, 1), ids.flatten())
        loss.backward()
        return loss

    for _ in range(3):
        loss = first.step(closure)
        second.zero_grad()
        expected = nn.functional.cross_entropy(two(ids).flatten(0, 1), ids.flatten())
        expected.backward()
        second.step()
        assert torch.equal(loss, expected)
    assert equal(one, two)


def test_a_sparse_embedding_is_refused_with_what_to_do():
    model = nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Linear(4, 2))
    optimizer: Engine = Muon(model)
    model(torch.arange(3)).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        optimizer.step()
