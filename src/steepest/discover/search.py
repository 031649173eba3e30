# SPDX-License-Identifier: Apache-2.0
"""The search: programs by evolution, their constants by fits from many starts."""

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from steepest.discover._interpreter import fit, forward
from steepest.discover.mutate import mutate, random_constants
from steepest.discover.program import COUNT, Program, check_operation
from steepest.discover.targets import Target
from steepest.evolve.engine import Member, Settings, State, evolve
from steepest.evolve.workers import Processes, Serial, Workers

#: Errors below this cannot be told apart in float64.
FLOOR = 1e-17
_USELESS = 1e3
_FIT_POINTS, _CHECK_POINTS = 40, 257
_EARLY, _KEPT = 12, 3
#: Ways to write one function that the population may hold.
_FORMS = 4


@dataclass(frozen=True)
class Options:
    """What programs may be made of, and how hard each is tried.

    Attributes:
        operations: Names of `steepest.discover.program.OPERATIONS`.
        costs: Operation to cost.
        max_cost: Dearer programs are not tried.
        constants: "fit" (Levenberg-Marquardt from many starts, compiled) or "cma" (CMA-ES of the package `cmaes`).
        starts: Random starts of each fit, besides the parent's constants.
        iterations: Of each fit; generations of CMA-ES.
        identity_rate: Share of children that are copies, whose constants are fitted anew.
        initial: Programs that the first generation holds besides random ones; none means: from nothing.

    Raises:
        ValueError: For an unknown operation, a cost that is missing or not positive, or sizes that do nothing.
    """

    operations: tuple[str, ...] = ("add", "sub", "mul", "div", "square")
    costs: Mapping[str, float] = field(default_factory=lambda: dict(COUNT))
    max_cost: float = 12.0
    constants: Literal["fit", "cma"] = "fit"
    starts: int = 12
    iterations: int = 200
    identity_rate: float = 0.25
    initial: tuple[Program, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if not self.operations:
            raise ValueError("at least one operation is needed")
        for name in self.operations:
            check_operation(name)
            if not self.costs.get(name, 0) > 0:
                raise ValueError(f"the cost of {name} is a positive number, got {self.costs.get(name)}")
        if not self.max_cost > 0:
            raise ValueError(f"max_cost is positive, got {self.max_cost}: a search needs a budget")
        if self.constants not in ("fit", "cma"):
            raise ValueError(f"constants are found by 'fit' or 'cma', got {self.constants!r}")
        if self.starts < 1 or self.iterations < 1:
            raise ValueError(f"starts and iterations are at least 1, got {self.starts} and {self.iterations}")
        if not 0 <= self.identity_rate < 1:
            raise ValueError(f"identity_rate is in [0, 1), got {self.identity_rate}")


class ProgramProblem:
    """The problem that `evolve` solves: objectives are log10 of the largest error, and the cost.

    Args:
        target: What is approximated.
        options: What programs may be made of.
    """

    def __init__(self, target: Target, options: Options) -> None:
        self.options = options
        self._about = {"function": target.name, "interval": list(target.ends), "measure": target.measure}
        self.x = target.points(_FIT_POINTS)
        self.values, self.weights = target.sample(self.x)
        # Zero too: c / x + x is infinite there, and what follows must make a number of it again.
        low, high = target.ends
        self.check = np.concatenate([np.linspace(low, high, _CHECK_POINTS + 1)[1:-1], [low, high]])
        if low < 0 < high:
            self.check = np.append(self.check, 0.0)
        self.check_values, self.check_weights = target.sample(self.check)

    def propose(self, parents: list[Member[Program]], count: int, rng: np.random.Generator) -> list[Program]:
        """Return parents, each the better of two as selection left them; small random programs if there are none."""
        if parents:
            return [parents[i].genome for i in rng.integers(len(parents), size=(count, 2)).min(axis=1)]
        given = list(self.options.initial[:count])
        return given + [self._changed(Program(()), int(rng.integers(1, 5)), rng) for _ in range(count - len(given))]

    def vary(self, genome: Program, rng: np.random.Generator) -> Program:
        """Return a program with one to three mutations, or the same one, whose constants are then fitted anew."""
        if rng.random() < self.options.identity_rate:
            return genome
        return self._changed(genome, (1, 1, 2, 3)[rng.integers(4)], rng)

    def _changed(self, genome: Program, times: int, rng: np.random.Generator) -> Program:
        for _ in range(times):
            genome = mutate(genome, self.options.operations, rng)
        return genome

    def evaluate(self, genome: Program, rng: np.random.Generator) -> Member[Program]:
        """Return the program with its constants fitted; its error is the largest over 257 points."""
        cost = genome.cost(self.options.costs)
        if cost > self.options.max_cost or not genome.instructions:
            return Member(genome, (math.inf, cost))
        best = genome.floats
        if len(best):
            starts = self._starts(best, rng)
            best = _best_fit(self, genome, starts, rng)
        error = self.error(genome, best)
        if not error < _USELESS:
            return Member(genome, (math.inf, cost))
        return Member(genome.with_constants(best), (math.log10(max(error, FLOOR)), cost))

    def _starts(self, constants: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn = random_constants(rng, self.options.starts, len(constants))
        near = constants * (1 + 0.3 * rng.standard_normal((self.options.starts // 4, len(constants))))
        return np.concatenate([constants[None], near, drawn])

    def error(self, program: Program, constants: np.ndarray) -> float:
        """Return the largest weighted error over the checking points; inf where it is not finite."""
        code = program.code
        values = np.empty((1 + len(constants) + len(code), len(self.check)))
        forward(code, constants, self.check, values)
        error = np.abs((values[-1] - self.check_values) * self.check_weights).max()
        return float(error) if np.isfinite(error) else math.inf

    def readable(self, member: Member[Program]) -> str:
        """Return a member's error for people."""
        return f"{10 ** member.objectives[0]:.2e}"

    def key(self, member: Member[Program]) -> str:
        """Return cost, error to two digits, and one of four classes of structures.

        One function can be written in many ways: without this, they fill the population.
        """
        error, cost = member.objectives
        return f"{cost:g}|{error:.2f}|{zlib.crc32(member.genome.key.encode()) % _FORMS}"

    def to_json(self, genome: Program) -> Any:
        """Return the program as JSON."""
        return genome.to_json()

    def from_json(self, value: Any) -> Program:
        """Return the program again."""
        return Program.from_json(value)

    def describe(self) -> dict[str, Any]:
        """Return target and options."""
        options = asdict(self.options)
        return {
            **self._about,
            **options,
            "operations": list(self.options.operations),
            "costs": dict(self.options.costs),
        }


def _best_fit(problem: ProgramProblem, program: Program, starts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    code, iterations = program.code, problem.options.iterations
    if problem.options.constants == "cma":
        from steepest.discover.cma import fit_by_cma

        return fit_by_cma(problem, program, starts[0], iterations, int(rng.integers(2**31)))
    # Most starts show early that they lead nowhere.
    early = fit(code, starts, problem.x, problem.values, problem.weights, min(_EARLY, iterations))
    starts = starts[np.argsort(early, kind="stable")[: max(_KEPT, len(starts) // 4)]]
    errors = fit(code, starts, problem.x, problem.values, problem.weights, iterations)
    order = np.argsort(errors, kind="stable")[:2]
    return min((starts[i] for i in order), key=lambda constants: problem.error(program, constants))


def discover(
    target: Target,
    options: Options | None = None,
    settings: Settings | None = None,
    *,
    workers: int | Workers = 1,
    checkpoint: Path | None = None,
    report: Callable[[State[Program]], None] | None = None,
) -> State[Program]:
    """Search programs for a function: the smallest error for each cost.

    Args:
        target: Function, interval and measure.
        options: What programs may be made of; the defaults when None.
        settings: Sizes, budget and seed; the defaults when None.
        workers: Number of processes of this machine, or workers of `steepest.evolve` (the caller closes those).
        checkpoint: JSON file to write and to resume from; its folder exists.
        report: Called after each generation.

    Returns:
        The last state; its `front` holds the programs that no other beats in both error and cost. The objectives are
        log10 of the largest error over 257 points, and the cost.

    Raises:
        ValueError: If workers are below 1 or the checkpoint belongs to another search.

    Numerics:
        Constants are fitted and errors found in float64, so errors below about 1e-15 are noise here: `polish` and
        `certify` work in longer arithmetic. The outcome depends on the settings alone, not on the workers or on
        interruptions.

    Example:
        >>> state = discover(Target("exp2"), Options(max_cost=4), Settings(20, 40, 3))
        >>> state.front[-1].objectives[0] < -2
        True

    References:
        Real et al. (2023), AutoNumerics-Zero: automated discovery of state-of-the-art mathematical functions, arXiv
        2312.08472. Deviations: the constants are fitted by least squares from several starts instead of CMA-ES alone; a
        structure stays once, with its best constants.
    """
    problem = ProgramProblem(target, options or Options())
    if not isinstance(workers, int):
        return evolve(problem, settings or Settings(), workers=workers, checkpoint=checkpoint, report=report)
    pool = Serial() if workers == 1 else Processes(workers)
    try:
        return evolve(problem, settings or Settings(), workers=pool, checkpoint=checkpoint, report=report)
    finally:
        pool.close()
