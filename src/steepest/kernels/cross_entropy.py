# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy in two sweeps over the logits: one for the loss, one for the gradient."""

from typing import Any, Literal

import torch
from torch import Tensor

from steepest.kernels import _cross_entropy as rows
from steepest.kernels._cross_entropy_rows import Terms, plain, plain_gradient, run, run_gradient, run_small
from steepest.kernels._op import KERNEL, PLAIN, applied, check_floating, define, needs_grad, route

__all__ = ["cross_entropy"]

Reduction = Literal["mean", "sum", "none"]
#: Logits of fewer elements take the shortest way through Python.
_SMALL = 4096
_USUAL = Terms()
_REDUCTIONS = {"mean": rows.MEAN, "sum": rows.SUM, "none": rows.NONE}


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, terms: Terms, inplace: bool) -> Tensor:
        loss, state = run(x, target, weight, terms)
        ctx.save_for_backward(x, target, weight, state)
        ctx.terms, ctx.inplace = terms, inplace
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, target, weight, state = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: somebody will differentiate the gradient
            if ctx.inplace:
                raise ValueError(
                    "cross_entropy with inplace_backward=True has no double backward: the logits would be overwritten; "
                    "use inplace_backward=False"
                )
            return plain_gradient(grad, x, target, weight, ctx.terms), None, None, None, None
        return run_gradient(grad, x, target, weight, state, ctx.terms, inplace=ctx.inplace), None, None, None, None


class _SmallCrossEntropy(torch.autograd.Function):
    """The gradient is made with the loss, in one call of a kernel: cheaper than keeping what a later one would need."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, terms: Terms) -> Tensor:
        gradient = torch.empty_like(x)
        ctx.save_for_backward(x, target, gradient)
        ctx.terms = terms
        return run_small(x, target, terms, gradient)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, target, gradient = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: somebody will differentiate the gradient
            return plain_gradient(grad, x, target, None, ctx.terms), None, None
        return gradient * (grad.unsqueeze(-1) if grad.ndim else grad), None, None


_apply, _apply_small = applied(_CrossEntropy), applied(_SmallCrossEntropy)


def _operator_forward(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: int,
    label_smoothing: float, z_loss: float, softcap: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return run(x, target, weight, Terms(ignore_index, reduction, label_smoothing, z_loss, softcap))


def _operator_fake(
    x: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: int, *_: float
) -> Any:
    loss = x.new_empty((x.shape[0],) if reduction == rows.NONE else (), dtype=torch.float32)
    return loss, x.new_empty((x.shape[0] + 1) * rows.COLUMNS, dtype=torch.float64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, target, weight, *terms = inputs
    ctx.save_for_backward(x, target, weight, output[1])
    ctx.terms = terms
    ctx.mark_non_differentiable(output[1])


def _operator_backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    x, target, weight, state = ctx.saved_tensors
    out = torch.ops.steepest.cross_entropy_gradient(grad, x, target, weight, state, *ctx.terms)
    return (out, *[None] * 7)


def _gradient_operator(
    grad: Tensor, x: Tensor, target: Tensor, weight: Tensor | None, state: Tensor, ignore_index: int, reduction: int,
    label_smoothing: float, z_loss: float, softcap: float,
) -> Tensor:  # fmt: skip
    terms = Terms(ignore_index, reduction, label_smoothing, z_loss, softcap)
    return run_gradient(grad, x, target, weight, state, terms)


def _gradient_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, x, target, weight, _, *terms = inputs
    ctx.save_for_backward(grad, x, target, weight)
    ctx.terms = Terms(*terms)


def _gradient_backward(ctx: Any, outer: Tensor) -> tuple[Any, ...]:
    grad, x, target, weight = ctx.saved_tensors
    pull = torch.func.vjp(lambda g, y: plain_gradient(g, y, target, weight, ctx.terms), grad, x)[1]
    return (*pull(outer), *[None] * 8)


_TERMS = "int ignore_index, int reduction, float label_smoothing, float z_loss, float softcap"
_OPERATOR = define(
    f"cross_entropy(Tensor x, Tensor target, Tensor? weight, {_TERMS}) -> (Tensor, Tensor)",
    _operator_forward,
    fake=_operator_fake,
    backward=_operator_backward,
    setup_context=_save,
)
define(
    f"cross_entropy_gradient(Tensor grad, Tensor x, Tensor target, Tensor? weight, Tensor state, {_TERMS}) -> Tensor",
    _gradient_operator,
    fake=lambda grad, x, *_: x.new_empty(x.shape),
    backward=_gradient_backward,
    setup_context=_gradient_save,
)


def check_terms(
    reduction: str, ignore_index: int, label_smoothing: float, z_loss: float, softcap: float | None
) -> Terms:
    """Return the checked options of a loss.

    Args:
        reduction: "mean", "sum" or "none".
        ignore_index: Target value of rows that do not count.
        label_smoothing: From 0 to 1.
        z_loss: At least 0.
        softcap: Positive, or None.

    Returns:
        The terms.

    Raises:
        ValueError: If one is out of range.
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
    if not 0 <= z_loss < float("inf"):
        raise ValueError(f"z_loss must be finite and at least 0, got {z_loss}")
    if softcap is not None and not 0 < softcap < float("inf"):
        raise ValueError(f"softcap must be positive and finite, or None for no cap, got {softcap}")
    return Terms(ignore_index, _REDUCTIONS[reduction], float(label_smoothing), float(z_loss), float(softcap or 0))


def _as_rows(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits as (N, C) and targets as (N,) or (N, C), or say what is wrong with their shapes."""
    if x.ndim == 0:
        raise ValueError("cross_entropy expects logits of shape (C,), (N, C) or (N, C, d1, ...), got a scalar")
    shape = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    expected = x.shape if target.is_floating_point() else shape
    if target.shape != expected:
        kind = "probabilities" if target.is_floating_point() else "class indices"
        raise ValueError(
            f"cross_entropy with logits of shape {tuple(x.shape)} expects {kind} of shape {tuple(expected)}, got "
            f"{tuple(target.shape)}; class indices are integers, probabilities have the logits' shape"
        )
    if x.ndim > 2:
        classes = x.shape[1]
        x = x.movedim(1, -1).reshape(-1, classes)
        target = target.movedim(1, -1).reshape(-1, classes) if target.is_floating_point() else target.reshape(-1)
    return (x.unsqueeze(0), target.unsqueeze(0)) if x.ndim == 1 else (x, target)


def check_weight(weight: Tensor | None, classes: int, function: str) -> None:
    """Raise unless the class weights fit.

    Args:
        weight: (C,) or None.
        classes: C.
        function: Public name, for the message.

    Raises:
        ValueError: If they do not.
    """
    if weight is not None and (weight.shape != (classes,) or not weight.is_floating_point()):
        raise ValueError(
            f"{function} expects one floating-point weight for each of the {classes} classes, got {weight.dtype} of "
            f"shape {tuple(weight.shape)}"
        )


def check_targets(target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise if class indices on the CPU are out of range (elsewhere asking would wait for the device).

    Args:
        target: Class indices.
        classes: How many there are.
        ignore_index: Also allowed.

    Raises:
        ValueError: If one is out of range.
    """
    bad = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if bad.any():
        raise ValueError(
            f"cross_entropy expects targets from 0 to {classes - 1} or ignore_index={ignore_index}, got "
            f"{target[bad][0].item()}; map it to ignore_index or give the logits more classes"
        )


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    inplace_backward: bool = False,
) -> Tensor:
    r"""Return the cross-entropy between logits and targets, as `torch.nn.functional.cross_entropy` does.

    Row i with logits x, target distribution y and class weights w costs $\sum_c q_c (\mathrm{lse}(x) - x_c) + \zeta
    w_t\, \mathrm{lse}(x)^2$, where $q_c = w_c ((1 - \epsilon) y_c + \epsilon / C)$ and $\mathrm{lse}(x) = \ln \sum_c
    e^{x_c}$; y is one-hot at t for class indices. The loss reads the logits once, the gradient reads them once more.

    Args:
        input: Logits of shape (C,), (N, C) or (N, C, d1, ...).
        target: Class indices of shape (), (N,) or (N, d1, ...), or probabilities of the shape of `input`.
        weight: Class weights, shape (C,), or None.
        ignore_index: Class index of rows without loss and gradient, left out of the mean.
        reduction: "mean" (divided by the sum of the rows' weights for class indices, by N for probabilities), "sum",
            or "none" for a loss of the shape of the class indices.
        label_smoothing: $\epsilon$, from 0 to 1.
        z_loss: $\zeta$, at least 0; $w_t$ is 1 for probabilities.
        softcap: Replaces x by `softcap * tanh(x / softcap)`.
        inplace_backward: Let the backward pass write the gradient over `input`, which saves a tensor of its size. Only
            for an `input` that nothing reads afterwards; autograd raises if an operation saved it. CPU kernels do so
            where the classes have unit stride; other paths do not.

    Returns:
        The loss: float32 for 16-bit logits, else of the dtype of `input`. The gradient has the dtype of `input`.

    Raises:
        TypeError: If `input` is not a floating-point tensor, or `target` not a tensor of integers or floats.
        ValueError: If shapes do not fit, an option is out of range, a class index is out of range (checked on the
            CPU), or `inplace_backward` is asked for a leaf that requires grad.

    Numerics:
        Under autocast 16-bit logits are taken as they are, computed in float32 without a float32 copy. The relative
        error of a row's loss does not depend on C, nor on how small the loss is: it is log1p of the other classes'
        share, not a difference. +inf or NaN in a row, or -inf everywhere, give NaN. A class of probability or weight
        0 contributes 0 even where its logit is -inf (torch: NaN). If every row is ignored the mean is NaN.
        Gradients of every order exist (the second ones through plain torch operations), except in place.

    Example:
        >>> import torch
        >>> from steepest.functional import cross_entropy
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 30.0, 0.0]])
        >>> cross_entropy(logits, torch.tensor([0, 1]), reduction="none")
        tensor([1.6985e-01, 1.8715e-13])
    """
    nothing_else = not (label_smoothing or z_loss or softcap is not None or inplace_backward)
    if weight is None and nothing_else and isinstance(input, Tensor) and isinstance(target, Tensor):
        loss = _small(input, target, ignore_index, reduction)
        if loss is not None:
            return loss
    check_floating(input, "cross_entropy")
    if not isinstance(target, Tensor) or target.is_complex() or target.dtype == torch.bool:
        got = target.dtype if isinstance(target, Tensor) else type(target).__name__
        raise TypeError(f"cross_entropy expects a tensor of class indices or of probabilities as target, got {got}")
    terms = check_terms(reduction, ignore_index, label_smoothing, z_loss, softcap)
    if inplace_backward and input.requires_grad and input.is_leaf:
        raise ValueError("inplace_backward=True would overwrite a leaf that requires grad; use inplace_backward=False")
    x, target = _as_rows(input, target)
    check_weight(weight, x.shape[1], "cross_entropy")
    if target.dtype != torch.int64 and not target.is_floating_point():
        target = target.to(torch.int64)
    loss = _dispatch(x, target, weight, terms, inplace_backward)
    if reduction == "none" and input.ndim != 2:
        return loss.reshape(input.shape[:1] + input.shape[2:] if input.ndim > 1 else ())
    return loss


def _dispatch(x: Tensor, target: Tensor, weight: Tensor | None, terms: Terms, inplace: bool) -> Tensor:
    operands = (x, target) if weight is None else (x, target, weight)
    way = route(*operands)
    if way is PLAIN or needs_grad(*operands[1:]):
        number = torch.empty((), dtype=torch.float32, device="cpu")
        if target.device.type == "cpu" and not target.is_floating_point() and route(number, target) is KERNEL:
            check_targets(target, x.shape[1], terms.ignore_index)
        return plain(x, target, weight, terms)
    if way is KERNEL:
        if needs_grad(x):
            return _apply(x, target, weight, terms, inplace)
        return run(x, target, weight, terms)[0]
    return _OPERATOR(x, target, weight, *_options(terms))[0]


def _small(x: Tensor, target: Tensor, ignore_index: int, reduction: str) -> Tensor | None:
    """Return the loss of a few rows of logits with class indices with the least overhead; None for anything else."""
    if route(x, target) is not KERNEL:  # first, because a compiler must not make a guard of the size
        return None
    if (
        reduction not in _REDUCTIONS
        or not 0 < x.numel() < _SMALL
        or x.dtype is not torch.float32
        or target.dtype is not torch.int64
        or x.ndim != 2
        or target.shape != x.shape[:1]
        or not x.is_contiguous()
        or not target.is_contiguous()
    ):
        return None
    usual = ignore_index == _USUAL.ignore_index and reduction == "mean"
    terms = _USUAL if usual else Terms(ignore_index, _REDUCTIONS[reduction])
    return _apply_small(x, target, terms) if needs_grad(x) else run_small(x, target, terms)


def _options(terms: Terms) -> tuple[int, int, float, float, float]:
    return terms.ignore_index, terms.reduction, terms.label_smoothing, terms.z_loss, terms.softcap
