import numpy as np
import pytest
import torch

from steepest.optim import SOAP, AdamW, Engine
from steepest.optim.soap import SOAPRule
from tests.optim.gradients import MATRICES, give_gradients, gradient, parameters, run
from tests.reference.soap import is_eigenbasis, soap_steps


def assert_follows_soap(params, *, kind: str = "full", rtol: float, frequency: int = 10, **settings) -> None:
    """Step SOAP beside the reference, which takes the first bases from it after a check that they are eigenbases."""
    longest = settings.get("longest", 10000)
    own = {k: v for k, v in settings.items() if k != "longest"}
    optimizer = SOAP(
        params,
        lr=0.05,
        precondition_frequency=frequency,
        max_preconditioner_dim=longest,
        **({"weight_decay": 0.0} | own),
    )
    start = [p.detach().numpy().copy() for p in params]
    gradients, bases = [], []
    for step in range(20):
        gradients.append(give_gradients(params, step, kind))
        optimizer.step()
        if step == 0:
            bases = [[first_basis(optimizer.state[p], name) for name in ("left", "right")] for p in params]
    for i, p in enumerate(params):
        expected = soap_steps(start[i], [g[i] for g in gradients], bases[i], lr=0.05, frequency=frequency, **settings)
        np.testing.assert_allclose(p.detach().numpy(), expected, rtol=rtol, atol=rtol * 0.1, err_msg=str(p.shape))


def first_basis(state: dict, name: str) -> np.ndarray | None:
    if name not in state:
        return None
    basis = state["basis_" + name][0].numpy().copy()
    assert is_eigenbasis(basis, state[name][0].numpy())
    return basis


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"betas": (0.9, 0.99), "shampoo_beta": 0.8, "correct_bias": False, "weight_decay": 0.3},
        {"eps": 1e-3},
    ],
)
@pytest.mark.parametrize("frequency", [7, 10])
def test_twenty_steps_equal_the_formula(settings, frequency):
    assert_follows_soap(parameters(MATRICES * 2), frequency=frequency, rtol=1e-7, **settings)


def test_gradients_of_rank_one_and_of_zero_follow_the_formula():
    for kind in ("rank one", "zero"):
        assert_follows_soap(parameters(((8, 8), (9, 5), (5, 9), (1, 7))), kind=kind, rtol=1e-5)


@pytest.mark.parametrize("longest", [0, 6, 11])
def test_long_sides_keep_their_coordinates(longest):
    assert_follows_soap(parameters(((12, 5), (5, 12), (12, 12))), longest=longest, rtol=1e-7)


def test_without_any_basis_it_is_adam_from_the_second_step_on():
    one, two = parameters(((6, 4),)), parameters(((6, 4),))
    soap = SOAP(one, lr=0.01, eps=1e-30, weight_decay=0.0, max_preconditioner_dim=0)
    adam = AdamW(two, lr=0.01, betas=(0.95, 0.95), eps=1e-30, weight_decay=0.0)
    run(soap, one, range(1))
    run(soap, one, range(1, 6))
    run(adam, two, range(1, 6))
    torch.testing.assert_close(one[0], two[0])


def test_the_first_step_only_looks():
    params, start = parameters(((6, 4),)), parameters(((6, 4),))
    run(SOAP(params, weight_decay=0.5), params, range(1))
    assert torch.equal(params[0], start[0])


def test_a_gradient_never_enters_its_own_basis():
    """The second step's basis comes from the first gradient alone."""
    states = []
    for second in (1, 2):
        params = parameters(((6, 4),))
        optimizer = SOAP(params, precondition_frequency=1)
        run(optimizer, params, range(1))
        before = optimizer.state[params[0]]["basis_left"].clone()
        turned = before[0].T @ gradient((6, 4), second, 0) @ optimizer.state[params[0]]["basis_right"][0].clone()
        run(optimizer, params, range(second, second + 1))
        states.append(before)
        # One refreshment later the squares are those of the gradient in the old basis, in another order.
        kept = optimizer.state[params[0]]["exp_avg_sq"][0].flatten().sort().values
        torch.testing.assert_close(kept, (0.05 * turned**2).flatten().sort().values)
    assert torch.equal(states[0], states[1])


def test_columns_are_sorted_and_the_squares_follow_them():
    """With diagonal gradients the bases are permutations: each square must stay with the entry it was made of."""
    params = parameters(((3, 3),))
    optimizer = SOAP(params, lr=1.0, precondition_frequency=1, weight_decay=0.0, betas=(0.5, 0.5))
    sizes = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    for growth in (1.0, 1.0, 100.0, 100.0):
        # The last direction becomes the largest at the third step.
        params[0].grad = torch.diag(sizes * torch.tensor([1.0, 1.0, growth], dtype=torch.float64))
        optimizer.step()
        state = optimizer.state[params[0]]
        quotients = (state["basis_left"][0].T @ state["left"][0] @ state["basis_left"][0]).diagonal()
        assert (quotients.diff() <= 0).all()
    left, right, square = (state[k][0] for k in ("basis_left", "basis_right", "exp_avg_sq"))
    expected = np.zeros(3)
    for growth in (1.0, 100.0, 100.0):
        expected = 0.5 * expected + 0.5 * (np.array([3.0, 2.0, growth])) ** 2
    back = (left**2) @ square @ (right**2).T
    np.testing.assert_allclose(back.diagonal().numpy(), expected)


def test_directions_do_not_depend_on_the_coordinates():
    """Gradients turned by orthogonal matrices give steps turned likewise."""
    generator = torch.Generator().manual_seed(5)
    left, right = (torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0] for n in (5, 5))
    plain, turned = parameters(((5, 5),)), parameters(((5, 5),))
    with torch.no_grad():
        turned[0].copy_(left @ plain[0] @ right)
    one, two = (SOAP(p, lr=0.1, precondition_frequency=3, weight_decay=0.0) for p in (plain, turned))
    for step in range(10):
        give_gradients(plain, step)
        turned[0].grad = left @ plain[0].grad @ right
        one.step()
        two.step()
    torch.testing.assert_close(turned[0], left @ plain[0] @ right, rtol=1e-6, atol=1e-7)


def test_the_size_of_gradients_does_not_matter():
    one, two = parameters(((6, 4),)), parameters(((6, 4),))
    first, second = (SOAP(p, eps=1e-30, weight_decay=0.0) for p in (one, two))
    for step in range(12):
        give_gradients(one, step)
        give_gradients(two, step)
        two[0].grad.mul_(2.0**-20)
        first.step()
        second.step()
    torch.testing.assert_close(one[0], two[0])


@pytest.mark.parametrize("shapes", [((6, 4),) * 5, ((6, 4), (4, 6), (5, 5), (7, 1), (200, 150))])
def test_batches_equal_one_by_one(shapes):
    together, alone = parameters(shapes), parameters(shapes)
    one = SOAP(together, precondition_frequency=3)
    others = [SOAP([p], precondition_frequency=3) for p in alone]
    for step in range(8):
        give_gradients(together, step)
        give_gradients(alone, step)
        one.step()
        for other in others:
            other.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_staggered_each_basis_is_refreshed_every_f_steps_and_they_take_turns():
    params = parameters(((6, 4),) * 4)
    optimizer = SOAP(params, precondition_frequency=4, stagger=True)
    run(optimizer, params, range(1))
    due = []
    for step in range(1, 13):
        before = [optimizer.state[p]["basis_left"].clone() for p in params]
        run(optimizer, params, range(step, step + 1))
        due.append([not torch.equal(b, optimizer.state[p]["basis_left"]) for b, p in zip(before, params, strict=True)])
    turns = np.array(due)
    assert (turns.sum(0) == 3).all()
    assert (turns.sum(1) == 1).all()
    assert (turns[:4] == turns[4:8]).all()


def test_a_frequency_of_one_does_not_care_for_staggering():
    one, two = parameters(((6, 4),) * 3), parameters(((6, 4),) * 3)
    run(SOAP(one, precondition_frequency=1), one, range(6))
    run(SOAP(two, precondition_frequency=1, stagger=True), two, range(6))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_bases_stay_orthogonal_in_float32():
    params = parameters(((40, 30),), torch.float32)
    optimizer = SOAP(params, precondition_frequency=2)
    run(optimizer, params, range(60))
    for name, size in (("basis_left", 40), ("basis_right", 30)):
        basis = optimizer.state[params[0]][name][0]
        assert (basis.T @ basis - torch.eye(size)).abs().max() < 5e-6


def test_an_infinite_gradient_does_not_stop_the_run():
    """It spoils the averages, as in Adam, but neither raises nor spoils other parameters."""
    params = parameters(((6, 4), (6, 4)))
    optimizer = SOAP(params, precondition_frequency=2)
    for step in range(6):
        give_gradients(params, step)
        if step in (0, 3):
            params[0].grad[0, 0] = torch.inf
        optimizer.step()
    assert params[1].isfinite().all()
    assert all(optimizer.state[params[1]][k].isfinite().all() for k in ("left", "right", "basis_left", "basis_right"))


def test_convolutions_and_experts_are_batches_of_matrices():
    weight = parameters(((3, 5, 4),))
    experts = Engine([{"params": weight, "role": "experts"}], SOAPRule(precondition_frequency=2), weight_decay=0.0)
    alone = [torch.nn.Parameter(part.detach().clone()) for part in weight[0]]
    single = SOAP(alone, precondition_frequency=2, weight_decay=0.0)
    for step in range(6):
        give_gradients(weight, step)
        for p, g in zip(alone, weight[0].grad, strict=True):
            p.grad = g.clone()
        experts.step()
        single.step()
    torch.testing.assert_close(weight[0], torch.stack(list(alone)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"shampoo_beta": 1.0}, "shampoo_beta"),
        ({"eps": 0.0}, "eps"),
        ({"precondition_frequency": 0}, "precondition_frequency"),
        ({"max_preconditioner_dim": -1}, "max_preconditioner_dim"),
    ],
)
def test_bad_numbers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SOAP(parameters(((3, 3),)), **settings)
