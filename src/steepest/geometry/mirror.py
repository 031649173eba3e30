# SPDX-License-Identifier: Apache-2.0
"""Mirror maps: the convex functions whose Bregman divergence takes the place of the squared distance."""

import abc
import dataclasses
import math
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ._inputs import one_where_zero
from .domain import Ball, Box, Domain, Simplex


class MirrorMap(abc.ABC):
    r"""A strictly convex function $\psi$ of a vector (the last dimension, batched over the rest).

    With the divergence $B(x, y) = \psi(x) - \psi(y) - \langle \nabla\psi(y), x - y \rangle$, a step of mirror descent
    is $x' = \arg\min_{x \in X} \langle \eta g, x \rangle + B(x, \hat x)$. In dual coordinates
    $\theta = \nabla\psi(x)$ it is a subtraction and a projection, $\theta' = P(\hat\theta - \eta g)$, where
    $P(\theta)$ are those of $\arg\min_{x \in X} \psi(x) - \langle \theta, x \rangle$.

    Each is 1-strongly convex in a norm after a factor, whose dual norm measures gradients.
    """

    @abc.abstractmethod
    def dual(self, x: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        r"""Return $\nabla\psi(x)$, the dual coordinates of a point."""

    @abc.abstractmethod
    def primal(self, theta: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch n"]:
        r"""Return the point of some dual coordinates, $\nabla\psi^*(\theta)$."""

    @abc.abstractmethod
    def project(self, theta: Float[Tensor, "*batch n"], domain: Domain | None) -> Float[Tensor, "*batch n"]:
        r"""Return $P(\theta)$, the dual coordinates of the point of a set that is nearest in divergence.

        Args:
            theta: Dual coordinates.
            domain: The set; None is everything on which $\psi$ is defined.

        Raises:
            NotImplementedError: If no closed form is known to us for the pair.
        """

    @abc.abstractmethod
    def divergence(self, x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        r"""Return $B(x, y)$, at least 0.

        Args:
            x: Any point where $\psi$ is finite.
            y: A point where it has a gradient.
        """

    @abc.abstractmethod
    def gradient_norm(self, g: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        r"""Return the norm of a gradient that belongs to $\psi$: the dual of the one it is strongly convex in."""

    def admits(self, x: Float[Tensor, "*batch n"]) -> bool:
        r"""Return whether $\psi$ has a gradient at all of some points."""
        return bool(x.isfinite().all())

    def _no_projection(self, domain: Domain, known: str) -> NotImplementedError:
        return NotImplementedError(f"{self} has no closed-form projection onto {domain}; it knows {known}")


@final
@dataclasses.dataclass(frozen=True)
class Euclidean(MirrorMap):
    r"""$\psi = \frac12 \|x\|_2^2$: dual coordinates are the point itself, projections the usual ones.

    Example:
        >>> import torch
        >>> Euclidean().project(torch.tensor([3.0, 4.0]), Ball(1.0))
        tensor([0.6000, 0.8000])
    """

    def dual(self, x: Tensor) -> Tensor:
        """Return the point."""
        return x

    def primal(self, theta: Tensor) -> Tensor:
        """Return the point."""
        return theta

    def project(self, theta: Tensor, domain: Domain | None) -> Tensor:
        """Return the nearest point of any set that has a projection."""
        return theta if domain is None else domain.project(theta)

    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        """Return half the squared distance."""
        return (x - y).square().sum(-1) / 2

    def gradient_norm(self, g: Tensor) -> Tensor:
        """Return the l2 norm."""
        return torch.linalg.vector_norm(g, dim=-1)


@final
@dataclasses.dataclass(frozen=True)
class Entropy(MirrorMap):
    r"""$\psi = \sum_i x_i \ln x_i - x_i$ for positive $x$: steps multiply, $x' \propto x\, e^{-\eta g}$.

    On the simplex it is 1-strongly convex in $l_1$ (Pinsker), so that gradients count by their largest entry and the
    dimension enters the regret as $\sqrt{\ln n}$. Divergence: Kullback-Leibler.

    Numerics:
        Dual coordinates are logarithms, so that weights far below the smallest float keep their order and can return.

    Example:
        >>> import torch
        >>> entropy = Entropy()
        >>> theta = entropy.project(torch.tensor([0.0, 1.0, -2000.0]), Simplex())
        >>> entropy.primal(theta), theta[2].item() < -2000
        (tensor([0.2689, 0.7311, 0.0000]), True)

    References:
        Kivinen and Warmuth (1997), Exponentiated gradient versus gradient descent for linear predictors. Beck and
        Teboulle (2003), Mirror descent and nonlinear projected subgradient methods for convex optimization.
    """

    def dual(self, x: Tensor) -> Tensor:
        """Return logarithms."""
        return x.log()

    def primal(self, theta: Tensor) -> Tensor:
        """Return exponentials."""
        return theta.exp()

    def project(self, theta: Tensor, domain: Domain | None) -> Tensor:
        """Know the simplex (normalization), a box of positive numbers (clipping), and all positive points."""
        if domain is None:
            return theta
        if isinstance(domain, Simplex):
            return theta - theta.logsumexp(-1, keepdim=True) + math.log(domain.total)
        if isinstance(domain, Box) and domain.high > 0:
            low = math.log(domain.low) if domain.low > 0 else -math.inf
            return theta.clamp(low, math.log(domain.high))
        raise self._no_projection(domain, "Simplex, Box with a positive upper end, and None")

    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Kullback-Leibler divergence, for sums that may differ."""
        return (torch.special.xlogy(x, x) - torch.special.xlogy(x, y) - x + y).sum(-1)

    def gradient_norm(self, g: Tensor) -> Tensor:
        """Return the largest size of an entry."""
        return torch.linalg.vector_norm(g, math.inf, dim=-1)

    def admits(self, x: Tensor) -> bool:
        """Return whether all entries are above 0."""
        return bool(((x > 0) & x.isfinite()).all())


@final
@dataclasses.dataclass(frozen=True)
class PNorm(MirrorMap):
    r"""$\psi = \frac12 \|x\|_p^2$, between the Euclidean map ($p = 2$) and one like entropy ($p$ near 1).

    $\nabla\psi(x)_i = \operatorname{sign}(x_i)\, |x_i|^{p-1} / \|x\|_p^{p-2}$, and its inverse is the same with
    $q = p/(p-1)$. It is $(p-1)$-strongly convex in $l_p$; for sparse solutions in $n$ dimensions take
    $p = 2 \ln n / (2 \ln n - 1)$.

    Args:
        p: In (1, 2].

    Raises:
        ValueError: If p is out of its range.

    Numerics:
        Powers are of entries over the largest one, so nothing overflows. Entries far below the largest lose their
        relative accuracy for p near 1, where $q$ is large.

    Example:
        >>> import torch
        >>> mirror = PNorm(1.5)
        >>> x = torch.tensor([1.0, -4.0], dtype=torch.float64)
        >>> torch.allclose(mirror.primal(mirror.dual(x)), x)
        True

    References:
        Grove, Littlestone and Schuurmans (2001), General convergence results for linear discriminant updates.
        Gentile (2003), The robustness of the p-norm algorithms.
    """

    p: float = 1.5

    def __post_init__(self) -> None:
        if not 1 < self.p <= 2:
            raise ValueError(f"p: expected a number in (1, 2], got {self.p}; near 1 Entropy does the same on a simplex")

    @property
    def q(self) -> float:
        """The conjugate exponent."""
        return self.p / (self.p - 1)

    def dual(self, x: Tensor) -> Tensor:
        """Return the gradient of half the squared p-norm."""
        return _half_square_gradient(x, self.p)

    def primal(self, theta: Tensor) -> Tensor:
        """Return the gradient of half the squared q-norm."""
        return _half_square_gradient(theta, self.q)

    def project(self, theta: Tensor, domain: Domain | None) -> Tensor:
        r"""Know the $l_p$ ball of the same p: dual coordinates are scaled down to its radius."""
        if domain is None:
            return theta
        if isinstance(domain, Ball) and domain.p == self.p:
            # The q-norm of the dual coordinates is the p-norm of the point.
            size = torch.linalg.vector_norm(theta, self.q, dim=-1, keepdim=True)
            return torch.where(size <= domain.radius, theta, theta * (domain.radius / one_where_zero(size)))
        raise self._no_projection(domain, f"Ball(radius, norm={self.p}) and None")

    def divergence(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the Bregman divergence."""
        half = [torch.linalg.vector_norm(z, self.p, dim=-1).square() / 2 for z in (x, y)]
        return half[0] - half[1] - (self.dual(y) * (x - y)).sum(-1)

    def gradient_norm(self, g: Tensor) -> Tensor:
        r"""Return the q-norm over $\sqrt{p - 1}$."""
        return torch.linalg.vector_norm(g, self.q, dim=-1) / math.sqrt(self.p - 1)


def _half_square_gradient(x: Tensor, p: float) -> Tensor:
    peak = one_where_zero(x.abs().amax(-1, keepdim=True))
    unit = x / peak
    length = one_where_zero(torch.linalg.vector_norm(unit, p, dim=-1, keepdim=True))
    return peak * unit.sign() * unit.abs().pow(p - 1) / length.pow(p - 2)
