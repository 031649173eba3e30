# SPDX-License-Identifier: Apache-2.0
"""Found programs with what is known of them, and the library of those that ship with the package."""

import contextlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np

from steepest.discover.certify import Certificate, certify
from steepest.discover.polish import exact_errors, polish
from steepest.discover.program import COUNT, Program
from steepest.discover.targets import Measure, Target

_DENSE = 2003


@dataclass(frozen=True)
class Found:
    """A program, its error and its proof.

    Attributes:
        function: Name of the function.
        interval: Where it is approximated.
        measure: "relative" or "absolute".
        program: What was found.
        cost: Of its operations, in the search's costs.
        error: The largest error over 2004 points, in exact arithmetic.
        certificate: A bound for the whole interval, or None.
        about: Seed, budget, hardware, versions.
    """

    function: str
    interval: tuple[float, float]
    measure: Measure
    program: Program
    cost: float
    error: float
    certificate: Certificate | None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        """What it approximates."""
        return Target(self.function, self.interval, self.measure)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON."""
        proof = asdict(self.certificate) if self.certificate else None
        return {**self.__dict__, "program": self.program.to_json(), "certificate": proof}

    @staticmethod
    def from_json(value: dict[str, Any]) -> "Found":
        """Return what `to_json` wrote."""
        proof = value["certificate"]
        if proof is not None:
            proof = Certificate(**{**proof, "interval": tuple(proof["interval"])})
        changed = {
            "program": Program.from_json(value["program"]),
            "interval": tuple(value["interval"]),
            "certificate": proof,
        }
        return Found(**{**value, **changed})


def prove(program: Program, target: Target, costs: Mapping[str, float] = COUNT, *, polished: bool = False) -> Found:
    """Return a program with the best constants nearby, its error over many points, and a proof where one can be had.

    Args:
        program: What was found.
        target: What it approximates.
        costs: Operation to cost.
        polished: The constants are final.

    Returns:
        The result. The certificate is None where python-flint is missing or the function is not known by name; the
        error is inf for a program with a pole, or which gives no finite float64 at one of 2004 points, among them 0.

    Example:
        >>> line = Program((("mul", (1, 0)), ("add", (2, 3))), ((0.7, 0.0), (1.0, 0.0)))
        >>> prove(line, Target("exp2")).error < 0.03
        True
    """
    best = program if polished else polish(program, target)
    error = sampled_error(best, target)
    proof: Certificate | None = None
    if math.isfinite(error):
        with contextlib.suppress(ValueError, ModuleNotFoundError):
            proof = certify(best, target)
    return Found(target.name, target.ends, target.measure or "absolute", best, best.cost(costs), error, proof)


def sampled_error(program: Program, target: Target) -> float:
    """Return the largest error over 2004 evenly spaced points, in exact arithmetic of the exact constants.

    Args:
        program: What is judged.
        target: What it should be.

    Returns:
        The error; inf if there is a pole, or no finite number in float64 at one of the points or at 0: as a processor
        computes it, 0 / 0 is no number, even where the function that is meant has a value.

    Example:
        >>> round(sampled_error(Program((("add", (1, 0)),), ((1.0, 0.0),)), Target("exp2")), 2)
        0.29
    """
    low, high = target.ends
    x = np.linspace(low, high, _DENSE + 1)
    if not np.isfinite(program(np.append(x, 0.0 if low <= 0 <= high else low))).all():
        return math.inf
    return float(max(abs(e) for e in exact_errors(program, target, x[x != 0])))


def sort_front(found: Iterable[Found]) -> list[Found]:
    """Return those that no other beats in both cost and error, cheapest first.

    Args:
        found: Any.

    Returns:
        The front.

    Example:
        >>> sort_front([])
        []
    """
    front: list[Found] = []
    for item in sorted(found, key=lambda f: (f.cost, f.error)):
        if not front or item.error < front[-1].error:
            front.append(item)
    return front


def library(function: str) -> list[Found]:
    """Return the programs for a function that ship with the package, cheapest first.

    Args:
        function: exp2, exp, log2, erf, tanh or sigmoid.

    Returns:
        Programs with certificates.

    Raises:
        ValueError: If there is none for this function.

    Example:
        >>> library("exp2")[-1].certificate.bound < 1e-3
        True
    """
    folder = files("steepest.discover") / "library"
    names = sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))
    if function not in names:
        raise ValueError(f"no programs for {function!r} ship with the package: there are some for {', '.join(names)}")
    return [Found.from_json(item) for item in json.loads((folder / f"{function}.json").read_text(encoding="utf-8"))]
