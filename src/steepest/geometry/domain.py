# SPDX-License-Identifier: Apache-2.0
"""Convex sets that a parameter may be held to, with their Euclidean projections."""

import abc
import dataclasses
import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ._inputs import compute_tensor
from .entrywise import L1, Frobenius, Sign
from .norm import Norm

_BALLS: dict[float, Norm] = {1.0: L1(1), 2.0: Frobenius(1), math.inf: Sign(1)}


class Domain(abc.ABC):
    """A closed convex set of vectors (the last dimension) or of matrices (the last two), batched over the rest.

    A subclass is a frozen dataclass marked final and implements the two underscored methods, which receive checked
    tensors in the compute dtype.
    """

    @property
    def element_dims(self) -> int:
        """How many trailing dimensions form one element."""
        return 1

    @final
    def project(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the nearest point of the set, in the length of all entries of an element.

        Raises:
            TypeError: The dtype is not a real floating one.
            ValueError: Too few dimensions, or an empty element.
            NotImplementedError: No closed form is known to us.
        """
        return self._project(compute_tensor(x, self.element_dims, f"{type(self).__name__}.project")).to(x.dtype)

    @final
    def contains(self, x: Float[Tensor, "*shape"], *, tol: float = 1e-5) -> bool:
        """Return whether all elements belong to the set, but for a relative error.

        Args:
            x: Shape as `project` takes it.
            tol: At least 0; in units of the size of the set.
        """
        x = compute_tensor(x, self.element_dims, f"{type(self).__name__}.contains")
        return bool((self._excess(x) <= tol).all())

    @abc.abstractmethod
    def _project(self, x: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _excess(self, x: Tensor) -> Tensor:
        """By how much each element violates the constraint, in units of the set's size."""


@final
@dataclasses.dataclass(frozen=True)
class Ball(Domain):
    r"""Points with $\|x\| \le r$.

    Args:
        radius: $r$, above 0.
        norm: A norm with a projection (`Frobenius()`, `Spectral()`, ...), or 1, 2 or infinity: the $l_p$ norm of
            vectors. Any other number above 1 is known to the mirror map `PNorm` alone.

    Raises:
        ValueError: If the radius is not above 0 or the number is below 1.

    Example:
        >>> import torch
        >>> Ball(2.0).project(torch.tensor([3.0, 4.0]))
        tensor([1.2000, 1.6000])
    """

    radius: float = 1.0
    norm: Norm | float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.radius < math.inf:
            raise ValueError(f"radius: expected a finite number above 0, got {self.radius}")
        if not isinstance(self.norm, Norm) and not self.norm >= 1:
            raise ValueError(f"norm: expected a Norm or a number of at least 1, got {self.norm!r}")

    @property
    def element_dims(self) -> int:
        """As many trailing dimensions as the norm takes."""
        return self.norm.element_dims if isinstance(self.norm, Norm) else 1

    @property
    def p(self) -> float | None:
        """The number $p$ of an $l_p$ ball; None for other norms."""
        return None if isinstance(self.norm, Norm) else float(self.norm)

    def _project(self, x: Tensor) -> Tensor:
        norm = self.norm if isinstance(self.norm, Norm) else _BALLS.get(float(self.norm))
        if norm is None:
            raise NotImplementedError(
                f"no closed form projects onto the l_{self.norm} ball in l2; take norm 1, 2 or math.inf, or the mirror "
                f"map PNorm({self.norm})"
            )
        size = norm.norm(x).reshape(*x.shape[: x.ndim - self.element_dims], *(1,) * self.element_dims)
        return torch.where(size <= self.radius, x, norm.project(x / self.radius) * self.radius)

    def _excess(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, Norm):
            size = self.norm.norm(x)
        else:
            size = torch.linalg.vector_norm(x, float(self.norm), dim=-1)
        return size / self.radius - 1


@final
@dataclasses.dataclass(frozen=True)
class Box(Domain):
    r"""Points with $a \le x_i \le b$.

    Args:
        low: $a$; minus infinity leaves that side open.
        high: $b$, above $a$.

    Raises:
        ValueError: If the box is empty or a number is NaN.

    Example:
        >>> import torch
        >>> Box(0.0, 1.0).project(torch.tensor([-1.0, 0.5, 7.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"expected low below high, got {self.low} and {self.high}")

    def _project(self, x: Tensor) -> Tensor:
        return x.clamp(self.low, self.high)

    def _excess(self, x: Tensor) -> Tensor:
        size = max((abs(end) for end in (self.low, self.high) if math.isfinite(end)), default=1.0) or 1.0
        return torch.maximum(self.low - x, x - self.high) / size


@final
@dataclasses.dataclass(frozen=True)
class Simplex(Domain):
    r"""Points with $x_i \ge 0$ and $\sum_i x_i = s$.

    Args:
        total: $s$, above 0.

    Raises:
        ValueError: If the sum is not above 0.

    Numerics:
        The projection sorts; its sums are those of the dtype.

    Example:
        >>> import torch
        >>> Simplex().project(torch.tensor([0.5, 0.5, 1.5]))
        tensor([0., 0., 1.])

    References:
        Held, Wolfe and Crowder (1974), Validation of subgradient optimization.
    """

    total: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.total < math.inf:
            raise ValueError(f"total: expected a finite number above 0, got {self.total}")

    def _project(self, x: Tensor) -> Tensor:
        centered = x - x.amax(-1, keepdim=True)  # the projection ignores shifts; this one keeps digits
        ordered = centered.sort(dim=-1, descending=True).values
        excess = ordered.cumsum(-1) - self.total
        count = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
        kept = (ordered * count > excess).sum(-1, keepdim=True).clamp(min=1)
        return (centered - excess.gather(-1, kept - 1) / kept).clamp(min=0)

    def _excess(self, x: Tensor) -> Tensor:
        return torch.maximum((x.sum(-1) - self.total).abs(), -x.amin(-1)) / self.total
