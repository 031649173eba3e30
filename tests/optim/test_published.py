"""Beside the implementations that others publish: 20 steps with the same gradients end at the same weights."""

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import nn

from steepest.geometry.polar import polar_factor
from steepest.optim import SGD, SOAP, AdamW, Lion, Muon, NorMuon, ScheduleFree, Shampoo, Signum, SinkGD
from tests.optim.gradients import gradient

Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
SQUARE, WIDE, TALL = (12, 12), (8, 20), (20, 8)
#: Of the way that the weights go. The signs of Lion make nothing of a rounding; sums of steps do.
ROUNDING = {torch.float32: 2e-5, torch.float64: 1e-11}
#: The published ones compute the polar factor in bfloat16.
BFLOAT16 = dict.fromkeys(ROUNDING, 2e-2)


def distance(shape: tuple[int, int], dtype: torch.dtype, ours: Make, theirs: Make) -> float:
    start = gradient(shape, 99, 0).to(dtype)
    one, two = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    optimizers = ours([one]), theirs([two])
    for optimizer in optimizers:
        getattr(optimizer, "train", int)()  # schedule-free ones ask for it
    for step in range(20):
        one.grad, two.grad = gradient(shape, step, 0).to(dtype), gradient(shape, step, 0).to(dtype)
        for optimizer in optimizers:
            optimizer.step()
    return float((one - two).detach().norm() / (one - start).detach().norm())


def five_steps(x: torch.Tensor) -> torch.Tensor:
    return polar_factor(x, method="muon")


def shampoo(p: list[nn.Parameter]) -> torch.optim.Optimizer:
    return Shampoo(p, 0.01, (0.0, 0.0), accumulation="sum", grafting="none", eps=1e-12, precondition_frequency=1)


#: Name to ours, (package, class, settings) of theirs, and the largest distance.
CASES = {
    "Lion, lion-pytorch": (
        lambda p: Lion(p, 0.01, weight_decay=0.1),
        ("lion_pytorch", "Lion", {"lr": 0.01, "weight_decay": 0.1}),
        ROUNDING,
    ),
    "Lion, pytorch-optimizer": (
        lambda p: Lion(p, 0.01, weight_decay=0.1),
        ("pytorch_optimizer", "Lion", {"lr": 0.01, "weight_decay": 0.1}),
        ROUNDING,
    ),
    "Lion, torch-optimi": (
        lambda p: Lion(p, 0.01, weight_decay=0.1),
        ("optimi", "Lion", {"lr": 0.01, "weight_decay": 0.1, "triton": False}),
        ROUNDING,
    ),
    "Lion, adv-optm": (
        lambda p: Lion(p, 0.01, weight_decay=0.1),
        ("adv_optm", "Lion_adv", {"lr": 0.01, "weight_decay": 0.1}),
        ROUNDING,
    ),
    "Signum, pytorch-optimizer": (
        lambda p: Signum(p, 0.01, momentum=0.9),
        ("pytorch_optimizer", "SignSGD", {"lr": 0.01, "momentum": 0.9}),
        ROUNDING,
    ),
    "SGD, torch-optimi": (
        lambda p: SGD(p, 0.01, momentum=0.9),
        ("optimi", "SGD", {"lr": 0.01, "momentum": 0.9, "triton": False}),
        ROUNDING,
    ),
    "AdamW, torch-optimi": (
        lambda p: AdamW(p, 0.01, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1),
        ("optimi", "AdamW", {"lr": 0.01, "weight_decay": 0.1, "triton": False}),
        ROUNDING,
    ),
    "AdamW, adv-optm": (
        lambda p: AdamW(p, 0.01, weight_decay=0.1),
        ("adv_optm", "AdamW_adv", {"lr": 0.01, "weight_decay": 0.1}),
        ROUNDING,
    ),
    "SinkGD, adv-optm": (
        lambda p: SinkGD(p, 0.02, alpha=1.0),
        ("adv_optm", "SinkSGD_adv", {"lr": 0.02}),
        ROUNDING,
    ),
    "ScheduleFree AdamW, schedulefree": (
        lambda p: ScheduleFree(AdamW(p, 0.01, betas=(0.0, 0.999), weight_decay=0)),
        ("schedulefree", "AdamWScheduleFree", {"lr": 0.01}),
        ROUNDING,
    ),
    "ScheduleFree AdamW, pytorch-optimizer": (
        lambda p: ScheduleFree(AdamW(p, 0.01, betas=(0.0, 0.999), weight_decay=0)),
        ("pytorch_optimizer", "ScheduleFreeAdamW", {"lr": 0.01}),
        ROUNDING,
    ),
    "ScheduleFree SGD, schedulefree": (
        lambda p: ScheduleFree(SGD(p, 0.1)),
        ("schedulefree", "SGDScheduleFree", {"lr": 0.1}),
        ROUNDING,
    ),
    "Muon, pytorch-optimizer": (
        lambda p: Muon(p, 0.02, polar=five_steps),
        ("pytorch_optimizer", "Muon", {"lr": 0.02}),
        BFLOAT16,
    ),
    "NorMuon, pytorch-optimizer": (
        lambda p: NorMuon(p, 0.02, polar=five_steps),
        ("pytorch_optimizer", "NorMuon", {"lr": 0.02}),
        BFLOAT16,
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [SQUARE, WIDE, TALL], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_ends_where_the_published_implementation_does(case, shape, dtype):
    ours, (package, name, settings), bounds = CASES[case]
    theirs = getattr(pytest.importorskip(package), name)
    # adv-optm scales the columns of a tall matrix first and ends with its rows: the fixed point is the same.
    bound = 2e-3 if name == "SinkSGD_adv" and shape == TALL else bounds[dtype]
    extra = {"use_muon": True} if name in ("Muon", "NorMuon") else {}
    assert distance(shape, dtype, ours, lambda p: theirs([{"params": p, **extra}], **settings)) < bound


@pytest.mark.filterwarnings("ignore")
def test_soap_and_shampoo_of_a_square_matrix_end_where_the_published_ones_do():
    """Other shapes have a null space, whose eigenvectors are a matter of choice."""
    pytest.importorskip("pytorch_optimizer")
    published = importlib.import_module("pytorch_optimizer")
    assert distance(SQUARE, torch.float64, lambda p: SOAP(p, 0.01), lambda p: published.SOAP(p, lr=0.01)) < 1e-3

    def theirs(p: list[nn.Parameter]) -> torch.optim.Optimizer:
        return published.Shampoo(p, lr=0.01, matrix_eps=1e-12)

    for shape in (SQUARE, WIDE, TALL):
        assert distance(shape, torch.float64, shampoo, theirs) < 1e-7
