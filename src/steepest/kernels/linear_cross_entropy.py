# SPDX-License-Identifier: Apache-2.0
"""Cross-entropy of a linear layer's output that never holds all logits."""

from typing import Any

import torch
from torch import Tensor

from steepest.kernels import _cross_entropy as rows
from steepest.kernels._cross_entropy_rows import Terms
from steepest.kernels._linear_cross_entropy import Gradients, Problem, Sweep, divisor, reduced, whole
from steepest.kernels._op import KERNEL, OPERATOR, check_floating, define, needs_grad, route
from steepest.kernels.cross_entropy import Reduction, check_targets, check_terms, check_weight
from steepest.kernels.products import compute_dtype

__all__ = ["linear_cross_entropy"]

Needs = tuple[bool, bool, bool]


def _mean_divisor(p: Problem) -> Tensor | None:
    return divisor(p) if p.terms.reduction == rows.MEAN else None


def _forward(p: Problem, needs: Needs) -> tuple[Tensor, Gradients]:
    """Return the loss and, where one number scales all rows' gradients, the gradients for that number being 1."""
    total = _mean_divisor(p)
    grad = None
    if p.terms.reduction != rows.NONE and any(needs):
        grad = torch.ones((), dtype=torch.float64, device=p.hidden.device)
        grad = grad if total is None else grad / total
        grad = grad.to(torch.promote_types(p.dtype, torch.float32))
    sweep = Sweep(p, grad, needs)
    return reduced(p, sweep.losses, total), sweep.gradients


def _recomputed(grad: Tensor, p: Problem, needs: Needs) -> Gradients:
    total = _mean_divisor(p)
    return Sweep(p, grad if total is None else (grad / total).to(grad.dtype), needs).gradients


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
        dtype: torch.dtype, terms: Terms,
    ) -> Tensor:  # fmt: skip
        needs = ctx.needs_input_grad[:3]
        loss, gradients = _forward(Problem(hidden, weight, targets, bias, class_weight, dtype, terms), needs)
        ctx.save_for_backward(hidden, weight, bias, targets, class_weight)
        ctx.dtype, ctx.terms = dtype, terms
        # Handed out once, so that the first backward pass may scale them in place and own them alone.
        ctx.ready = None if terms.reduction == rows.NONE else gradients
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets, class_weight = ctx.saved_tensors
        p = Problem(hidden, weight, targets, bias, class_weight, ctx.dtype, ctx.terms)
        ready, ctx.ready = ctx.ready, None
        if torch.is_grad_enabled():  # create_graph: by way of all logits, differentiable again
            return (*_differentiable(grad, p), None, None, None, None)
        if ready is None:
            return (*_recomputed(grad, p, ctx.needs_input_grad[:3]), None, None, None, None)
        if grad != 1:
            for gradient in ready:
                if gradient is not None:
                    gradient.mul_(grad)
        return (*ready, None, None, None, None)


def _differentiable(grad: Tensor, p: Problem) -> Gradients:
    operands = (p.hidden, p.weight) if p.bias is None else (p.hidden, p.weight, p.bias)

    def loss(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return whole(Problem(hidden, weight, p.targets, bias, p.class_weight, p.dtype, p.terms))

    found = torch.func.vjp(loss, *operands)[1](grad)
    return (*found, None) if p.bias is None else found


def _new(x: Tensor | None, wanted: bool, like: Tensor) -> Tensor:
    return like.new_empty(0) if x is None or not wanted else x.new_empty(x.shape)


def _operator(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    dtype: torch.dtype, needs: list[bool], *terms: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    p = Problem(hidden, weight, targets, bias, class_weight, dtype, Terms(*terms))
    loss, gradients = _forward(p, (needs[0], needs[1], needs[2]))
    return loss, *(hidden.new_empty(0) if g is None else g for g in gradients)


def _operator_fake(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    dtype: torch.dtype, needs: list[bool], ignore_index: int, reduction: int, *_: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    none = reduction == rows.NONE
    shape = (hidden.shape[0],) if none else ()
    loss = hidden.new_empty(shape, dtype=torch.promote_types(dtype, torch.float32))
    pairs = zip((hidden, weight, bias), needs, strict=True)
    return loss, *(_new(x, wanted and not none, hidden) for x, wanted in pairs)


def _gradient_operator(
    grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, class_weight: Tensor | None,
    dtype: torch.dtype, needs: list[bool], *terms: Any,
) -> tuple[Tensor, ...]:  # fmt: skip
    p = Problem(hidden, weight, targets, bias, class_weight, dtype, Terms(*terms))
    gradients = _recomputed(grad, p, (needs[0], needs[1], needs[2]))
    return tuple(hidden.new_empty(0) if g is None else g for g in gradients)


def _gradient_fake(grad: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    needs = rest[3]
    return tuple(_new(x, wanted, hidden) for x, wanted in zip((hidden, weight, bias), needs, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5], *output[1:])
    ctx.options = inputs[5:]
    ctx.mark_non_differentiable(*output[1:])


def _operator_backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    *operands, to_hidden, to_weight, to_bias = ctx.saved_tensors
    needs, reduction = ctx.options[1], ctx.options[3]
    if reduction == rows.NONE:
        found = torch.ops.steepest.linear_cross_entropy_gradient(grad, *operands, *ctx.options)
    else:
        found = [(g * grad).to(g.dtype) for g in (to_hidden, to_weight, to_bias)]
    return (*(g if wanted else None for g, wanted in zip(found, needs, strict=True)), *[None] * 9)


_OPERANDS = (
    "Tensor hidden, Tensor weight, Tensor? bias, Tensor targets, Tensor? class_weight, ScalarType dtype, "
    "bool[] needs, int ignore_index, int reduction, float label_smoothing, float z_loss, float softcap"
)
define(
    f"linear_cross_entropy_gradient(Tensor grad, {_OPERANDS}) -> (Tensor, Tensor, Tensor)",
    _gradient_operator,
    fake=_gradient_fake,
)
_OPERATOR = define(
    f"linear_cross_entropy({_OPERANDS}) -> (Tensor, Tensor, Tensor, Tensor)",
    _operator,
    fake=_operator_fake,
    backward=_operator_backward,
    setup_context=_save,
)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    bias: Tensor | None = None,
    *,
    class_weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    r"""Return `cross_entropy(hidden @ weight.T + bias, targets)` without holding the logits of all rows.

    Rows go through in chunks: their logits, the loss, the gradient written over the logits, its products with `weight`
    and `hidden`. For "mean" and "sum" that happens in the forward pass, for "none" the chunks are computed again in the
    backward pass. Ignored rows are left out of the matrix products. Nothing is approximated: no gradient is dropped
    for being small.

    Args:
        hidden: Shape (..., H).
        weight: Shape (V, H), a classifier as in `torch.nn.Linear(H, V)`.
        targets: Class indices, shape (...).
        bias: Shape (V,), or None.
        class_weight: Weight of each class in the loss, shape (V,), or None.
        ignore_index: As in `cross_entropy`.
        reduction: As in `cross_entropy`; "none" gives the shape of `targets`.
        label_smoothing: As in `cross_entropy`.
        z_loss: As in `cross_entropy`.
        softcap: As in `cross_entropy`.

    Returns:
        The loss: float64 for float64 operands, else float32.

    Raises:
        TypeError: If an operand is not floating-point, or `targets` are not integers.
        ValueError: If shapes or dtypes do not fit, or an option or a class index is out of range.

    Numerics:
        Products are made in the dtype of `hidden` and `weight`, or in autocast's; logits and their gradient are rounded
        to it; on a CPU without 16-bit products they are made in float32. The gradient to `weight` is summed over chunks
        in float32 or better, and under autocast reaches a float32 parameter without being rounded to 16 bits again.
        Second derivatives work, through all logits at once; `torch.func` transforms and forward mode as well. Under
        `torch.compile` there are only first ones.

    Example:
        >>> import torch
        >>> from steepest.functional import linear_cross_entropy
        >>> hidden, weight = torch.eye(3), 2 * torch.eye(3)
        >>> linear_cross_entropy(hidden, weight, torch.tensor([0, 1, 0]))
        tensor(0.9063)

    References:
        Wijmans et al. (2024), Cut Your Losses in Large-Vocabulary Language Models, arXiv 2411.09009. Deviation: chunks
        of rows and a library's matrix product instead of one fused kernel, and no skipping of small gradients.
    """
    dtype = _checked(hidden, weight, targets, bias)
    check_weight(class_weight, weight.shape[0], "linear_cross_entropy")
    terms = check_terms(reduction, ignore_index, label_smoothing, z_loss, softcap)
    loss = _dispatch(
        Problem(hidden.flatten(0, -2) if hidden.ndim > 1 else hidden.unsqueeze(0), weight,
                targets.reshape(-1).to(torch.int64), bias, class_weight, dtype, terms)
    )  # fmt: skip
    return loss.reshape(targets.shape) if reduction == "none" else loss


def _checked(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> torch.dtype:
    """Return the dtype of the products, or say what does not fit."""
    for operand in (hidden, weight) if bias is None else (hidden, weight, bias):
        check_floating(operand, "linear_cross_entropy")
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dtype == torch.bool:
        raise TypeError("linear_cross_entropy expects class indices as targets; for probabilities use cross_entropy")
    if weight.ndim != 2 or hidden.ndim < 1 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear_cross_entropy expects hidden (..., H) and weight (V, H), got {tuple(hidden.shape)} and "
            f"{tuple(weight.shape)}; weight is laid out as in torch.nn.Linear(H, V)"
        )
    if targets.shape != hidden.shape[:-1]:
        raise ValueError(
            f"linear_cross_entropy expects targets of shape {tuple(hidden.shape[:-1])}, got {tuple(targets.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"linear_cross_entropy expects a bias of shape {tuple(weight.shape[:1])}, got {tuple(bias.shape)}"
        )
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        return compute_dtype(torch.get_autocast_dtype(device), hidden.device)
    if hidden.dtype != weight.dtype:
        raise ValueError(
            f"linear_cross_entropy expects hidden and weight of one dtype, got {hidden.dtype} and {weight.dtype}; cast "
            "one of them, or use torch.autocast"
        )
    return compute_dtype(hidden.dtype, hidden.device)


def _dispatch(p: Problem) -> Tensor:
    tensors = [t for t in (p.hidden, p.weight, p.bias, p.targets, p.class_weight) if t is not None]
    # Any dtype and device goes through in chunks; the tensor in front only keeps `route` from asking about those.
    way = route(torch.empty((), dtype=torch.float32, device="cpu"), *tensors)
    if way is KERNEL and not needs_grad(*(t for t in (p.class_weight,) if t is not None)):
        if p.hidden.device.type == "cpu":
            check_targets(p.targets, p.weight.shape[0], p.terms.ignore_index)
        if not needs_grad(*(t for t in (p.hidden, p.weight, p.bias) if t is not None)):
            return _forward(p, (False, False, False))[0]
        return _LinearCrossEntropy.apply(p.hidden, p.weight, p.bias, p.targets, p.class_weight, p.dtype, p.terms)  # pyright: ignore[reportReturnType]
    if way is OPERATOR and p.hidden.device.type == "cpu":
        differentiable = (p.hidden, p.weight, p.bias)
        needs = [t is not None and needs_grad(t) for t in differentiable]
        t = p.terms
        options = (t.ignore_index, t.reduction, t.label_smoothing, t.z_loss, t.softcap)
        return _OPERATOR(p.hidden, p.weight, p.bias, p.targets, p.class_weight, p.dtype, needs, *options)[0]
    return whole(p)
