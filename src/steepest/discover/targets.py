# SPDX-License-Identifier: Apache-2.0
"""What is approximated: a function, an interval, an error measure, and the points where they are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import mpmath
import numpy as np

Measure = Literal["relative", "absolute"]
_DIGITS = 40
_ZOOMS, _GROWTH = 12, 1e6


def _exp2(x: Any) -> Any:
    return mpmath.mpf(2) ** x


def _log2(x: Any) -> Any:
    return mpmath.log(x, 2)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


#: Functions known by name: the mpmath function, the interval and the measure that a search takes by default.
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], tuple[float, float], Measure]] = {
    "exp2": (_exp2, (-0.5, 0.5), "relative"),
    "exp": (mpmath.exp, (-0.3466, 0.3466), "relative"),
    "log2": (_log2, (0.70703125, 1.4150390625), "absolute"),
    "erf": (mpmath.erf, (0.0, 1.0), "absolute"),
    "tanh": (mpmath.tanh, (0.0, 1.0), "absolute"),
    "sigmoid": (_sigmoid, (-1.0, 1.0), "relative"),
    "tan": (mpmath.tan, (0.0, 0.7854), "absolute"),
}


@dataclass(frozen=True)
class Target:
    """A function on an interval, with values good to 40 digits.

    Args:
        name: One of `FUNCTIONS`, or any name if `function` is given.
        interval: Lower and upper end, finite; that of `FUNCTIONS` when None.
        measure: "relative" or "absolute"; that of `FUNCTIONS` when None.
        function: Takes and returns mpmath numbers; needed for a name that is not known.

    Raises:
        ValueError: For an unknown name or measure, an empty interval, a pole in it, a value that is not a finite real
            number, or a zero where the error is relative.

    Example:
        >>> Target("exp2").interval
        (-0.5, 0.5)
    """

    name: str
    interval: tuple[float, float] | None = None
    measure: Measure | None = None
    function: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        """Fill what is left out, and look for poles and zeros."""
        if self.function is None and self.name not in FUNCTIONS:
            raise ValueError(f"{self.name!r} is not known: choose from {', '.join(FUNCTIONS)}, or give the function")
        known = FUNCTIONS.get(self.name, (self.function, (0.0, 1.0), "absolute"))
        for field, value in zip(("function", "interval", "measure"), known, strict=True):
            if getattr(self, field) is None:
                object.__setattr__(self, field, value)
        low, high = self.ends
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(f"the interval is (low, high) with low < high, both finite, got {self.interval}")
        if self.measure not in ("relative", "absolute"):
            raise ValueError(f"the error is 'relative' or 'absolute', got {self.measure!r}")
        self._look_for_poles()

    @property
    def ends(self) -> tuple[float, float]:
        """The interval."""
        assert self.interval is not None
        return self.interval

    def exact(self, x: Any) -> Any:
        """Return the value at one point as an mpmath number of 40 digits.

        Raises:
            ValueError: If it is not a finite real number.
        """
        assert self.function is not None
        with mpmath.workdps(_DIGITS):
            try:
                value = mpmath.mpmathify(self.function(mpmath.mpf(x)))
            except (ZeroDivisionError, ValueError):
                value = mpmath.nan
            if isinstance(value, mpmath.mpc) or not mpmath.isfinite(value):
                raise ValueError(f"{self.name} is not a finite real number at {float(x):.6g}: choose another interval")
        return value

    def points(self, count: int) -> np.ndarray:
        """Return Chebyshev points of the interval, none of them at an end, shape (count,), float64."""
        low, high = self.ends
        angle = (np.arange(count) + 0.5) * np.pi / count
        return (low + high) / 2 - (high - low) / 2 * np.cos(angle)

    def sample(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the values at x in float64 and the weight that turns a difference into an error.

        Raises:
            ValueError: If a value is not a finite real number, or zero where the error is relative.
        """
        values = np.array([float(self.exact(p)) for p in x])
        if self.measure == "absolute":
            return values, np.ones_like(values)
        if (values == 0).any():
            raise ValueError(f"{self.name} is zero at {x[values == 0][0]:.6g}: use the absolute error")
        return values, 1 / values

    def _look_for_poles(self) -> None:
        low, high = self.ends
        x = np.linspace(low, high, 129)
        values = np.array([float(self.exact(p)) for p in x])
        if self.measure == "relative" and values.min() <= 0 <= values.max():
            raise ValueError(f"{self.name} has a zero in [{low}, {high}]: use the absolute error")
        typical = np.abs(values).max()
        for _ in range(_ZOOMS):
            at = int(np.abs(values).argmax())
            x = np.linspace(x[max(at - 1, 0)], x[min(at + 1, len(x) - 1)], 17)
            values = np.array([float(self.exact(p)) for p in x])
        if np.abs(values).max() > _GROWTH * typical:
            raise ValueError(f"{self.name} has a pole near {x[8]:.6g}: choose an interval without it")
