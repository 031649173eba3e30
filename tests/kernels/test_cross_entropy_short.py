# SPDX-License-Identifier: Apache-2.0
"""Rows of few classes, which have a way of their own up to 1024 of them."""

import math

import pytest
import torch

from steepest.functional import cross_entropy

CLASSES = [1, 2, 3, 10, 15, 16, 17, 31, 32, 33, 48, 100, 1000, 1023, 1024, 1025]


def case(classes: int, dtype: torch.dtype, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(classes)
    x = torch.randn(40, classes, generator=generator) * scale
    target = torch.randint(classes, (40,), generator=generator)
    target[0], target[1] = 0, classes - 1  # the first and the last lane
    x[torch.arange(2, 12), target[2:12]] += 12.0  # rows of which the model is sure
    target[20:23] = -100
    return x.to(dtype), target


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", CLASSES)
def test_loss_and_gradient(classes, dtype):
    x, target = case(classes, dtype)
    wide = x.double().requires_grad_()
    exact = torch.nn.functional.cross_entropy(wide, target, reduction="none")
    exact.sum().backward()
    # Where the model is sure: log1p of what the others have, for which float64 has the digits.
    mine = x.clone().requires_grad_()
    loss = cross_entropy(mine, target, reduction="none")
    loss.sum().backward()
    bound = 5e-7 if classes > 1 else 0.0
    assert ((loss.double() - exact).abs() <= bound * exact + 1e-12).all()
    rounding = {torch.float32: 4e-7, torch.bfloat16: 4e-3, torch.float16: 6e-4}[dtype]
    smallest = 6e-8 if dtype is torch.float16 else 1e-30
    assert ((mine.grad.double() - wide.grad).abs() <= rounding * wide.grad.abs() + smallest).all()


@pytest.mark.parametrize("classes", [3, 16, 40])
def test_rows_far_from_zero_and_with_holes(classes):
    x, target = case(classes, torch.float32)
    for offset in (-1e6, -7e4, 7e4, 1e30):
        moved = x.double().add(offset).float()
        exact = torch.nn.functional.cross_entropy(moved.double(), target, reduction="none")
        torch.testing.assert_close(
            cross_entropy(moved, target, reduction="none").double(), exact, rtol=1e-6, atol=1e-12
        )
    x[:, : classes - 1] = -math.inf
    target[:] = classes - 1
    assert (cross_entropy(x, target, reduction="none") == 0).all()
    target[:] = 0
    assert (cross_entropy(x, target, reduction="none") == math.inf).all()


@pytest.mark.parametrize("classes", [3, 16, 40])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_spoils_its_row_alone(classes, value):
    x, target = case(classes, torch.float32)
    for place in (0, classes - 1):
        spoiled = x.clone()
        spoiled[30, place] = value
        spoiled.requires_grad_()
        loss = cross_entropy(spoiled, target, reduction="none")
        loss.sum().backward()
        others = [row for row in range(40) if row != 30]
        assert loss[30].isnan()
        assert spoiled.grad[30].isnan().all()
        assert torch.equal(loss[others], cross_entropy(x, target, reduction="none")[others])
        assert spoiled.grad[others].isfinite().all()


def test_views_and_in_place():
    wide, target = case(100, torch.float32)
    x = wide[:, 10:50]
    target = target.clamp(max=39)
    expected = torch.nn.functional.cross_entropy(x.double(), target)
    torch.testing.assert_close(cross_entropy(x, target).double(), expected, rtol=1e-6, atol=0)
    leaf = wide.clone().requires_grad_()
    logits = leaf * 1.0
    cross_entropy(logits, target, inplace_backward=True).backward()
    other = wide.clone().requires_grad_()
    cross_entropy(other * 1.0, target).backward()
    assert torch.equal(leaf.grad, other.grad)


def test_a_target_out_of_range_is_named():
    x, target = case(10, torch.float32)
    target[7] = 10
    with pytest.raises(ValueError, match="got 10 in row 7"):
        cross_entropy(x.repeat(200, 1), target.repeat(200))
