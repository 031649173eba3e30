# SPDX-License-Identifier: Apache-2.0
"""Products of a vector with the Hessian of a loss and with its generalized Gauss-Newton matrix."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from steepest.curvature.operator import Operator

Loss = Callable[[Tensor, Tensor], Tensor]
#: Batches of inputs and targets, to be gone through more than once.
Batches = Iterable[tuple[Tensor, Tensor]]
Reduction = Literal["mean", "sum"]
_Product = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor, Tensor], Sequence[Tensor]]


def hessian(
    model: nn.Module,
    loss: Loss,
    data: Batches,
    *,
    params: Sequence[Tensor] | None = None,
    reduction: Reduction = "mean",
) -> Operator:
    r"""Return the Hessian of a loss over some data as an operator.

    $H = \nabla^2 \frac1N \sum_n \ell(f_w(x_n), y_n)$ in the weights $w$. A product differentiates
    $\langle \nabla L, v \rangle$ once more (Pearlmutter): about the cost of two gradients over all data. Nothing of
    size $d^2$ is formed. Weight decay $\lambda$ in the loss adds $\lambda$: `hessian(...) + decay`.

    Args:
        model: Called with the inputs. Its current weights count; they and their `.grad` are left alone.
        loss: Takes outputs and targets, returns a number: their mean or sum, as `reduction` says.
        data: A list or other iterable that gives the same batches each time; the first dimension of the inputs counts
            examples.
        params: Of which the Hessian is taken, in this order; None takes all that require gradients. They are flattened
            and joined.
        reduction: What `loss` does over the examples of a batch, and the operator over all.

    Returns:
        An operator whose size is the number of entries of the parameters, of their dtype.

    Raises:
        ValueError: If the data are empty or can be gone through only once, there are no parameters, they are of several
            dtypes or devices, or the model would draw random numbers or change its statistics.

    Numerics:
        The dtype of the parameters. Second derivatives of a ReLU network leave out the kinks.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> hessian(model, torch.nn.functional.mse_loss, [(x, y)]).matrix()
        tensor([[1., 0.],
                [0., 9.]])

    References:
        Pearlmutter (1994), Fast exact multiplication by the Hessian.
    """

    def product(weights: Sequence[Tensor], vector: Sequence[Tensor], x: Tensor, y: Tensor) -> Sequence[Tensor]:
        value = loss(model(x), y)
        return _differentiate(_gradient(value, weights), weights, vector)

    return _operator(product, model, data, params, reduction)


def ggn(
    model: nn.Module,
    loss: Loss,
    data: Batches,
    *,
    params: Sequence[Tensor] | None = None,
    reduction: Reduction = "mean",
) -> Operator:
    r"""Return the generalized Gauss-Newton matrix $G = \frac1N \sum_n J_n^\top (\nabla_f^2 \ell_n) J_n$ as an operator.

    It is the Hessian of the loss with the model replaced by its linearization: positive semidefinite for a loss that is
    convex in the outputs, equal to the Hessian for a model that is linear in its weights, and to the Fisher matrix for
    cross-entropy and squared error.

    Args:
        model: As for `hessian`; returns one tensor.
        loss: As for `hessian`.
        data: As for `hessian`.
        params: As for `hessian`.
        reduction: As for `hessian`.

    Returns:
        An operator, as for `hessian`.

    Raises:
        ValueError: As for `hessian`.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 3.0]]), torch.zeros(2, 1)
        >>> ggn(model, torch.nn.functional.mse_loss, [(x, y)]).matrix()
        tensor([[1., 0.],
                [0., 9.]])

    References:
        Schraudolph (2002), Fast curvature matrix-vector products for second-order gradient descent. Martens (2014), New
        insights and perspectives on the natural gradient method, arXiv 1412.1193.
    """

    def product(weights: Sequence[Tensor], vector: Sequence[Tensor], x: Tensor, y: Tensor) -> Sequence[Tensor]:
        outputs = model(x)
        # J v as the derivative of J' u in u, which needs reverse mode alone: not every operation has a forward one.
        u = torch.zeros_like(outputs, requires_grad=True)
        pulled = torch.autograd.grad(outputs, weights, u, create_graph=True, materialize_grads=True)
        (pushed,) = _differentiate(pulled, [u], vector)
        free = outputs.detach().requires_grad_()
        (bent,) = _differentiate(_gradient(loss(free, y), [free]), [free], [pushed])
        return torch.autograd.grad(outputs, weights, bent, materialize_grads=True)

    return _operator(product, model, data, params, reduction)


def _gradient(value: Tensor, of: Sequence[Tensor]) -> Sequence[Tensor]:
    return torch.autograd.grad(value, of, create_graph=True, materialize_grads=True)


def _differentiate(values: Sequence[Tensor], of: Sequence[Tensor], along: Sequence[Tensor]) -> Sequence[Tensor]:
    """Derivatives of <values, along>; zeros where they do not depend on anything."""
    pairs = [(value, v) for value, v in zip(values, along, strict=True) if value.requires_grad]
    if not pairs:
        return [torch.zeros_like(p) for p in of]
    outputs, vectors = zip(*pairs, strict=True)
    return torch.autograd.grad(outputs, of, vectors, retain_graph=True, materialize_grads=True)


def _operator(
    product: _Product, model: nn.Module, data: Batches, params: Sequence[Tensor] | None, reduction: Reduction
) -> Operator:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected 'mean' or 'sum', got {reduction!r}")
    weights = list(model.parameters()) if params is None else list(params)
    weights = [p for p in weights if p.requires_grad]
    kinds = {(p.dtype, p.device) for p in weights}
    if len(kinds) != 1:
        raise ValueError(f"expected parameters that require gradients, of one dtype and device, got {kinds or 'none'}")
    if iter(data) is data:
        raise ValueError("data: expected a list of batches or a DataLoader, got an iterator, which is empty after once")
    random = [name for name, m in model.named_modules() if m.training and isinstance(m, _RANDOM)]
    if random:
        raise ValueError(f"{random[0]} changes from call to call in training mode; call model.eval() first")
    (dtype, device), size = kinds.pop(), sum(p.numel() for p in weights)
    return Operator(size, functools.partial(_over_data, product, weights, data, reduction), dtype, device)


_RANDOM = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)  # pyright: ignore[reportPrivateUsage]


def _over_data(
    product: _Product, weights: Sequence[Tensor], data: Batches, reduction: Reduction, vector: Tensor
) -> Tensor:
    parts = vector.split([p.numel() for p in weights])
    along = [part.view(p.shape) for part, p in zip(parts, weights, strict=True)]
    total, count = torch.zeros_like(vector), 0
    with torch.enable_grad():
        for x, y in data:
            share = len(x) if reduction == "mean" else 1
            found = product(weights, along, x, y)
            total.add_(torch.cat([part.detach().reshape(-1) for part in found]), alpha=share)
            count += share
    if not count:
        raise ValueError("data: expected at least one batch, got none")
    return total / count if reduction == "mean" else total
