# SPDX-License-Identifier: Apache-2.0
"""A norm on a list of parameters from one norm for each."""

import dataclasses
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from .norm import Norm, Scaled


@final
@dataclasses.dataclass(frozen=True)
class Product:
    r"""A norm on a list of parameters, $\|(x_i)\| = \| (s_i \|x_i\|_i)_i \|_p$.

    With $1/p + 1/q = 1$ and $d_i = \|g_i\|_{i*} / s_i$ the dual norm is $\|d\|_q$ and the LMO gives parameter $i$ the
    step $\frac{1}{s_i} (d_i / \|d\|_q)^{q-1} \mathrm{lmo}_i(g_i)$. For `p = inf`, the usual case, every parameter takes
    its own LMO divided by its scale; for `p = 1` only the one with the largest $d_i$ moves (of equal ones, the first).

    Unlike the norms of single tensors it takes and returns sequences of tensors.

    Args:
        norms: One norm for each parameter, in order.
        scales: One positive number for each; default all 1. A scale of `math.inf` freezes its parameter.
        p: At least 1; `math.inf` is the default.

    Raises:
        ValueError: No norms, another number of scales than of norms, a scale that is not positive, `p < 1`; in the
            methods, another number of tensors than of norms, or batches of different shape.

    Example:
        >>> import torch
        >>> from steepest.geometry import BiasRMS, RMSToRMS
        >>> layer = Product([RMSToRMS(), BiasRMS()])
        >>> weight, bias = layer.lmo([torch.eye(3), torch.ones(3)])
        >>> bias
        tensor([-1.0000, -1.0000, -1.0000])
    """

    norms: Sequence[Norm]
    scales: Sequence[float] = ()
    p: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "norms", tuple(self.norms))
        object.__setattr__(self, "scales", tuple(self.scales) or (1.0,) * len(self.norms))
        if not self.norms:
            raise ValueError("Product needs at least one norm")
        if len(self.scales) != len(self.norms):
            raise ValueError(f"Product needs one scale a norm, got {len(self.scales)} for {len(self.norms)} norms")
        if not all(scale > 0 for scale in self.scales):
            raise ValueError(f"scales must be positive, got {self.scales}")
        if not self.p >= 1:
            raise ValueError(f"p must be at least 1 (math.inf is allowed), got {self.p}")

    @property
    def _q(self) -> float:
        if self.p == 1:
            return math.inf
        return 1.0 if math.isinf(self.p) else self.p / (self.p - 1)

    def norm(self, xs: Sequence[Tensor]) -> Tensor:
        """Return the norm of the list, one number for each index of the common batch."""
        self._check_count(xs)
        parts = [
            torch.where(size == 0, size, size * scale) if math.isinf(scale) else size * scale
            for size, scale in (
                (norm.norm(x), scale) for norm, x, scale in zip(self.norms, xs, self.scales, strict=True)
            )
        ]
        return torch.linalg.vector_norm(_stack(parts), self.p, dim=0)

    def dual(self, gs: Sequence[Tensor]) -> Tensor:
        """Return the dual norm of the list."""
        return torch.linalg.vector_norm(self._duals(gs), self._q, dim=0)

    def lmo(self, gs: Sequence[Tensor]) -> list[Tensor]:
        """Return a minimizer of the summed inner products over the unit ball, one tensor a parameter."""
        self._check_count(gs)
        steps = [norm.lmo(g) / scale for norm, g, scale in zip(self.norms, gs, self.scales, strict=True)]
        if math.isinf(self.p):
            return steps
        weights = _weights(self._duals(gs), self._q)
        return [
            (step * weight.reshape(weight.shape + (1,) * norm.element_dims)).to(g.dtype)
            for step, weight, norm, g in zip(steps, weights, self.norms, gs, strict=True)
        ]

    def project(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Return the nearest point of the unit ball, parameter by parameter.

        Raises:
            NotImplementedError: `p` is finite, or a norm of the list has no projection.
        """
        if not math.isinf(self.p):
            raise NotImplementedError(f"the ball of a product with p={self.p} has no closed-form projection; use p=inf")
        self._check_count(xs)
        return [
            x * 0 if math.isinf(scale) else Scaled(norm, 1 / scale).project(x)
            for norm, x, scale in zip(self.norms, xs, self.scales, strict=True)
        ]

    def _duals(self, gs: Sequence[Tensor]) -> Tensor:
        self._check_count(gs)
        return _stack([norm.dual(g) / scale for norm, g, scale in zip(self.norms, gs, self.scales, strict=True)])

    def _check_count(self, tensors: Sequence[Tensor]) -> None:
        if len(tensors) != len(self.norms):
            raise ValueError(f"this product has {len(self.norms)} norms, got {len(tensors)} tensors")


def _stack(parts: Sequence[Tensor]) -> Tensor:
    shapes = {tuple(part.shape) for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"all parameters must have the same batch shape, got {sorted(shapes)}")
    dtype = torch.float64 if any(part.dtype == torch.float64 for part in parts) else torch.float32
    return torch.stack([part.to(dtype) for part in parts])


def _weights(duals: Tensor, q: float) -> Tensor:
    """Return the weights of the blocks in the LMO, which the dual sizes decide."""
    if math.isinf(q):
        first = duals.argmax(0, keepdim=True)
        return torch.zeros_like(duals).scatter(0, first, 1.0) + 0 * duals
    top = duals.amax(0, keepdim=True)
    relative = duals / torch.where(top == 0, torch.ones_like(top), top)
    length = relative.pow(q).sum(0, keepdim=True).pow(1 / q)
    return (relative / torch.where(length == 0, torch.ones_like(length), length)).pow(q - 1)
