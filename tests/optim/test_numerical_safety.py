"""Every optimizer on gradients that nobody chose by hand."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from steepest.optim import Options
from tests.optim.gradients import run
from tests.optim.test_contract import OPTIMIZERS, equal, make, members, net, same

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
#: Eigenvectors and QR come from LAPACK, whose bits depend on the number of threads.
BY_LAPACK = {"Dion", "KLSOAP", "KLShampoo", "SOAP", "Shampoo"}
KINDS = ("full", "rank one", "zero", "one entry", "one row", "constant", "huge and tiny")


@st.composite
def cases(draw):
    """A matrix and its gradients: shape, dtype, size from 1e-30 to 1e30, memory order, rank."""
    rows, columns = draw(st.sampled_from([(1, 1), (1, 7), (7, 1), (3, 3), (8, 5), (4, 9)]))
    dtype = draw(st.sampled_from(DTYPES))
    power = draw(st.floats(-30, 30))
    kind = draw(st.sampled_from(KINDS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    gradients = []
    for _ in range(draw(st.integers(1, 3))):
        g = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        g = {
            "full": g,
            "rank one": torch.outer(g[:, 0], g[0]),
            "zero": torch.zeros_like(g),
            "one entry": torch.zeros_like(g).index_put_((torch.tensor(0), torch.tensor(0)), g[0, 0]),
            "one row": torch.cat([g[:1], torch.zeros_like(g[1:])]),
            "constant": torch.ones_like(g),
            "huge and tiny": g * 10.0 ** torch.randint(-10, 10, g.shape, generator=generator),
        }[kind]
        g = (g * 10.0**power).clamp(-1e30, 1e30)
        g = g.clamp(-3e4, 3e4) if dtype == torch.float16 else g
        gradients.append(g.to(dtype))
    transposed = draw(st.booleans())
    start = torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)
    return (start.t().contiguous().t() if transposed else start), gradients


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(case=cases())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_finite_gradients_leave_finite_weights(name, case):
    start, gradients = case
    p = nn.Parameter(start.clone(memory_format=torch.preserve_format))
    optimizer = make(name, [p], lr=1e-3)
    for g in gradients:
        p.grad = g
        optimizer.step()
    # A step of SGD may be larger than the dtype; what is smaller than it must not become infinite on the way.
    largest = max(g.double().abs().max().item() for g in gradients)
    if largest < 0.1 * torch.finfo(p.dtype).max:
        assert p.isfinite().all(), (p, gradients)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@given(case=cases())
@settings(max_examples=1000, deadline=None, derandomize=True)
def test_finite_gradients_leave_finite_weights_in_many_cases(name, case):
    test_finite_gradients_leave_finite_weights.hypothesis.inner_test(name, case)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("policy", ["propagate", "skip", "raise"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_that_are_not_finite_meet_the_chosen_policy(name, policy, bad):
    model = net()
    optimizer = make(name, model, options=Options(nonfinite=policy))
    run(optimizer, members(model), range(2))
    kept, states = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict()["state"])
    other = model.norm.weight
    for index, p in enumerate(members(model)):
        p.grad = torch.ones_like(p) * (index + 1)
    model.hidden.weight.grad[0, 0] = bad
    if policy == "raise":
        with pytest.raises(ValueError, match=r"hidden\.weight is not finite"):
            optimizer.step()
    else:
        optimizer.step()
    if policy == "propagate":
        flat = optimizer.rule.works_on == "all parameters"
        assert flat or other.isfinite().all()
        assert flat or not torch.equal(other, kept.norm.weight)
        assert optimizer.skipped == 0
        return
    assert equal(model, kept)
    now = optimizer.state_dict()["state"]
    assert all(same(now[i][key], value) for i, state in states.items() for key, value in state.items())
    assert optimizer.skipped == (policy == "skip")
    run(optimizer, members(model), range(2, 3))
    assert all(p.isfinite().all() for p in members(model))


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS} - BY_LAPACK))
def test_the_bits_do_not_depend_on_the_number_of_threads(name):
    """Of a matrix large enough that several threads take part."""
    moved = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        p = nn.Parameter(torch.randn(96, 160, generator=torch.Generator().manual_seed(0)))
        optimizer = make(name, [p], lr=0.01)
        run(optimizer, [p], range(2))
        moved.append(p.detach().clone())
    torch.set_num_threads(1)
    assert torch.equal(*moved)
