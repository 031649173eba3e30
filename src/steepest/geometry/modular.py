# SPDX-License-Identifier: Apache-2.0
"""The modular norm: how the norms of layers combine into a norm of the network, through mass and sensitivity."""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import final

from .norm import Norm
from .product import Product

Leaf = tuple[Norm, float]


class Modular(abc.ABC):
    r"""A node of a network as the modular norm sees it: a mass, a sensitivity, and one scale for each weight.

    `mass` says what share of the change of the output this part may cause; `sensitivity` bounds how much it stretches
    a change of its input. Parts combine by

    - `outer @ inner`, composition: masses add, sensitivities multiply;
    - `a + b`, two branches summed: masses add, sensitivities add;
    - `c * a`, output times a number: the sensitivity is multiplied by `|c|`;
    - `a ** k`, k copies in series, each with its own weights.

    `product()` is the modular norm itself. If each atom satisfies its bounds (weights inside the unit ball, inputs in
    theirs), a change of the weights of modular norm $\epsilon$ changes the output by at most $\epsilon$ to first order.

    References:
        Large, Liu, Huh, Bahng, Isola and Bernstein (2024), Scalable optimization in the modular norm, arXiv 2405.14813.
        Bernstein and Newhouse (2024), Modular duality in deep learning, arXiv 2410.21265.
    """

    @property
    @abc.abstractmethod
    def mass(self) -> float:
        """The share of the output's change this part may cause, at least 0."""

    @property
    @abc.abstractmethod
    def sensitivity(self) -> float:
        """A Lipschitz bound of the output in the input."""

    @abc.abstractmethod
    def leaves(self) -> tuple[Leaf, ...]:
        """Return (norm, scale) for each weight, in the order in which data meets them."""

    @final
    def product(self) -> Product:
        r"""Return the modular norm $\max_i s_i \|w_i\|_i$ over the weights, in data-flow order.

        Raises:
            ValueError: The network has no weights.
        """
        leaves = self.leaves()
        if not leaves:
            raise ValueError("this part has no weights (only bonds), so it has no norm")
        return Product([norm for norm, _ in leaves], [scale for _, scale in leaves])

    def __matmul__(self, inner: "Modular") -> "Modular":
        return Composition(self, inner)

    def __add__(self, other: "Modular") -> "Modular":
        return Branches((self, other))

    def __rmul__(self, factor: float) -> "Modular":
        return Composition(Bond(abs(factor)), self)

    def __pow__(self, copies: int) -> "Modular":
        if not isinstance(copies, int) or copies < 1:
            raise ValueError(f"the number of copies must be an int >= 1, got {copies!r}")
        chain: Modular = self
        for _ in range(copies - 1):
            chain = Composition(self, chain)
        return chain


@final
@dataclasses.dataclass(frozen=True)
class Atom(Modular):
    """A layer with one weight.

    Args:
        norm: The norm of its weight, for example `RMSToRMS()` for a linear layer.
        mass: At least 0. An atom of mass 0 inside a network with mass is frozen: its step is zero.
        sensitivity: The Lipschitz bound of the layer for weights in the unit ball; 1 for a linear layer under its
            operator norm.

    Raises:
        ValueError: A negative or infinite mass or sensitivity.

    Example:
        >>> from steepest.geometry import Bond, RMSToRMS
        >>> mlp = Atom(RMSToRMS(), mass=3.0) @ Bond(0.5) @ Atom(RMSToRMS())
        >>> mlp.mass, mlp.sensitivity, mlp.product().scales
        (4.0, 0.5, (2.0, 1.3333333333333333))
    """

    norm: Norm
    mass: float = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]
    sensitivity: float = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        _check(mass=self.mass, sensitivity=self.sensitivity)

    def leaves(self) -> tuple[Leaf, ...]:
        """Return the one weight, with scale 1."""
        return ((self.norm, 1.0),)


@final
@dataclasses.dataclass(frozen=True)
class Bond(Modular):
    """A part without weights: an activation, attention's mixing, a residual's identity. Its mass is 0.

    Args:
        sensitivity: Its Lipschitz bound, at least 0 (1 for ReLU and the identity).

    Raises:
        ValueError: A negative or infinite sensitivity.
    """

    sensitivity: float = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]

    def __post_init__(self) -> None:
        _check(sensitivity=self.sensitivity)

    @property
    def mass(self) -> float:
        """Zero."""
        return 0.0

    def leaves(self) -> tuple[Leaf, ...]:
        """Return nothing: a bond has no weights."""
        return ()


@final
@dataclasses.dataclass(frozen=True)
class Composition(Modular):
    r"""`outer` after `inner`.

    $\|w\| = \max(\mu_{out} \frac{M}{M_{in}} \|w_{in}\|, \frac{M}{M_{out}} \|w_{out}\|)$ with $M = M_{in} + M_{out}$.
    """

    outer: Modular
    inner: Modular

    @property
    def mass(self) -> float:
        """The sum of the two masses."""
        return self.outer.mass + self.inner.mass

    @property
    def sensitivity(self) -> float:
        """The product of the two sensitivities."""
        return self.outer.sensitivity * self.inner.sensitivity

    def leaves(self) -> tuple[Leaf, ...]:
        """Return the weights of `inner`, then those of `outer`, with the scales of the composition."""
        return (
            *_rescaled(self.inner, self.mass, self.outer.sensitivity),
            *_rescaled(self.outer, self.mass, 1.0),
        )


@final
@dataclasses.dataclass(frozen=True)
class Branches(Modular):
    r"""Parts with the same input whose outputs are added: $\|w\| = \max_k \frac{M}{M_k} \|w_k\|$."""

    parts: Sequence[Modular]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts:
            raise ValueError("Branches needs at least one part")

    @property
    def mass(self) -> float:
        """The sum of the masses."""
        return sum(part.mass for part in self.parts)

    @property
    def sensitivity(self) -> float:
        """The sum of the sensitivities."""
        return sum(part.sensitivity for part in self.parts)

    def leaves(self) -> tuple[Leaf, ...]:
        """Return the weights of the parts in order."""
        return tuple(leaf for part in self.parts for leaf in _rescaled(part, self.mass, 1.0))


def _rescaled(part: Modular, total: float, factor: float) -> tuple[Leaf, ...]:
    leaves = part.leaves()
    if not leaves:
        return ()
    share = total / part.mass if part.mass else math.inf
    # A later part of sensitivity zero hides this one; the limit of its scale is zero, which no norm can have.
    if factor == 0:
        raise ValueError("a part of sensitivity 0 comes after one with weights: they have no effect on the output")
    return tuple((norm, scale * share * factor) for norm, scale in leaves)


def _check(**values: float) -> None:
    for name, value in values.items():
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be at least 0 and finite, got {value}")
