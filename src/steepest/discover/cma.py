# SPDX-License-Identifier: Apache-2.0
"""Constants by CMA-ES, from the package `cmaes`: slower than the fit, but it needs no derivative of the error."""

import importlib
import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from steepest.discover.program import Program

if TYPE_CHECKING:
    from steepest.discover.search import ProgramProblem

_STEP = 0.1


def fit_by_cma(
    problem: "ProgramProblem", program: Program, start: np.ndarray, generations: int, seed: int
) -> np.ndarray:
    """Return the constants with the smallest largest error that CMA-ES finds.

    Args:
        problem: Gives the error.
        program: The structure.
        start: Constants to begin with, shape (constants,); each is searched in units of its own size.
        generations: At most so many; it stops when half of them brought nothing.
        seed: Of the package's generator.

    Returns:
        Constants, shape (constants,).

    Raises:
        ModuleNotFoundError: If `cmaes` is not installed.

    References:
        Hansen and Ostermeier (2001), Completely derandomized self-adaptation in evolution strategies.
    """
    try:
        cmaes: Any = importlib.import_module("cmaes")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("CMA-ES needs the package cmaes: pip install 'steepest[discover]'") from error
    unit = np.where(start == 0, 1.0, np.abs(start))
    # A search in one dimension is one in two, of which the second does nothing.
    size = max(len(start), 2)
    mean = np.concatenate([start / unit, np.zeros(size - len(start))])
    best, lowest, since = start, problem.error(program, start), 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = cmaes.CMA(mean=mean, sigma=_STEP, seed=seed)
        for _ in range(generations):
            drawn = [search.ask() for _ in range(search.population_size)]
            errors = [problem.error(program, z[: len(start)] * unit) for z in drawn]
            search.tell([(z, min(e, 1e300) if e == e else 1e300) for z, e in zip(drawn, errors, strict=True)])
            at = int(np.argmin(errors))
            since = 0 if errors[at] < lowest else since + 1
            if errors[at] < lowest:
                best, lowest = drawn[at][: len(start)] * unit, errors[at]
            if search.should_stop() or since > generations / 2 or math.isinf(lowest):
                break
    return best
