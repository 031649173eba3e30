"""`torch.compile` of the model, of `step`, and of a whole training step: the bits of the loop that is not compiled."""

import pytest
import torch
from torch import nn

from steepest.kernels.untraced import untraced
from steepest.optim import AdamW, Muon, ScheduleFree, SinkGD
from steepest.optim.compiled import require_compiler

# Of torch itself, where it looks at the loss that a compiled function returns.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")

X, Y = torch.randn(32, 8, generator=torch.Generator().manual_seed(1)), torch.ones(32, 4)


def schedule_free(model):
    return ScheduleFree(AdamW(model, lr=0.01))


METHODS = {"adamw": AdamW, "muon": Muon, "sinkgd": SinkGD, "schedule-free": schedule_free}


def make(kind):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 4))
    return model, METHODS[kind](model)


def loss_of(model):
    return (model(X) - Y).square().mean()


def trained(kind, steps=3):
    model, optimizer = make(kind)
    for _ in range(steps):
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in two)


@pytest.mark.parametrize("kind", METHODS)
def test_a_compiled_model(kind):
    expected = trained(kind)
    model, optimizer = make(kind)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(3):
        loss_of(compiled).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same(model.state_dict(), expected)


@pytest.mark.parametrize("kind", METHODS)
def test_a_compiled_training_step(kind):
    expected = trained(kind)
    model, optimizer = make(kind)

    @torch.compile(backend="aot_eager")
    def train():
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    losses = [train().item() for _ in range(3)]
    assert losses[0] > losses[2]
    assert same(model.state_dict(), expected)


@pytest.mark.parametrize("kind", METHODS)
def test_a_compiled_optimizer_step(kind):
    expected = trained(kind)
    model, optimizer = make(kind)
    step = torch.compile(optimizer.step, backend="aot_eager")
    for _ in range(3):
        loss_of(model).backward()
        step()
        optimizer.zero_grad()
    assert same(model.state_dict(), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*")  # of torch itself
@pytest.mark.slow
def test_code_by_inductor_learns_the_same_to_its_own_precision():
    try:
        require_compiler()
    except RuntimeError as error:
        pytest.skip(str(error))
    expected = trained("muon")
    model, optimizer = make("muon")
    compiled = torch.compile(model)
    for _ in range(3):
        loss_of(compiled).backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_an_untraced_function_interrupts_and_is_made_when_first_called():
    torch._dynamo.reset()
    seen = []

    @untraced
    def scale(x, by=2.0):
        """By its sum."""
        seen.append(torch.compiler.is_compiling())
        return x * by if x.sum().item() > 0 else -x

    compiled = torch.compile(lambda x: scale(x + 1, by=3.0) + 1, backend="eager")
    assert compiled(torch.ones(2)).tolist() == [7.0, 7.0]
    assert compiled(torch.full((2,), -3.0)).tolist() == [3.0, 3.0]
    assert seen == [False, False]
    assert scale.__doc__ == "By its sum."
