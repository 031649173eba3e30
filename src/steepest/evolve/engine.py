# SPDX-License-Identifier: Apache-2.0
"""The generation loop: propose, evaluate, select, save. The same for programs and for anything else with genomes."""

import functools
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from steepest.evolve.selection import nondominated_ranks, select
from steepest.evolve.workers import Serial, Workers
from steepest.train.files import read_json, write_json

Genome = TypeVar("Genome")
_FORMAT = 1


@dataclass(frozen=True)
class Member(Generic[Genome]):
    """An evaluated genome: its objectives are minimized."""

    genome: Genome
    objectives: tuple[float, ...]


class Problem(Protocol[Genome]):
    """What is evolved. It is pickled to the workers; everything random comes from the generator that is passed."""

    def propose(self, parents: list[Member[Genome]], count: int, rng: np.random.Generator) -> list[Genome]:
        """Return `count` genomes: new ones if there are no parents yet, else parents that shall have children."""
        ...

    def vary(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """Return a child of a parent that was proposed, or its copy; this runs where the child is evaluated."""
        ...

    def evaluate(self, genome: Genome, rng: np.random.Generator) -> Member[Genome]:
        """Return the genome, perhaps improved, with its objectives; inf for one that does not work, never NaN."""
        ...

    def key(self, member: Member[Genome]) -> str:
        """Return what two members must share to be the same individual; the better one is kept."""
        ...

    def to_json(self, genome: Genome) -> Any:
        """Return the genome as JSON that loses nothing."""
        ...

    def from_json(self, value: Any) -> Genome:
        """Return the genome again."""
        ...

    def describe(self) -> dict[str, Any]:
        """Return all settings that decide the outcome, as JSON: a checkpoint of other settings is refused."""
        ...


@dataclass
class State(Generic[Genome]):
    """A run between two generations."""

    generation: int = 0
    evaluations: int = 0
    members: list[Member[Genome]] = field(default_factory=list)

    @property
    def front(self) -> list[Member[Genome]]:
        """The members that nobody dominates, in the order of the last objective; of equal ones the first."""
        if not self.members:
            return []
        ranks = nondominated_ranks(np.array([m.objectives for m in self.members]))
        best: dict[tuple[float, ...], Member[Genome]] = {}
        for member, rank in zip(self.members, ranks, strict=True):
            if rank == 0 and np.isfinite(member.objectives).all():
                best.setdefault(member.objectives, member)
        return sorted(best.values(), key=lambda m: m.objectives[::-1])


@dataclass(frozen=True)
class Settings:
    """Sizes of a run.

    Attributes:
        population: Members kept.
        children: New genomes in each generation.
        generations: Where to stop.
        seconds: Stop after this time too; None for never. Checkpoints are written either way.
        seed: Of everything random.
    """

    population: int = 100
    children: int = 200
    generations: int = 100
    seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse sizes that do nothing."""
        for name in ("population", "children", "generations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, got {getattr(self, name)}: a search needs a budget")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"seconds are positive or None, got {self.seconds}: a search needs a budget")
        if self.seed < 0:
            raise ValueError(f"the seed is not negative, got {self.seed}")


def evolve(
    problem: Problem[Genome],
    settings: Settings,
    *,
    workers: Workers | None = None,
    checkpoint: Path | None = None,
    report: Callable[[State[Genome]], None] | None = None,
    save_every: float = 10.0,
) -> State[Genome]:
    """Evolve genomes until the budget is spent and return the last state.

    A generation's random numbers come from (seed, generation, index of the child), so the outcome depends neither on
    the number of workers nor on where a run was interrupted.

    Args:
        problem: What is evolved.
        settings: Sizes and budget.
        workers: Where genomes are evaluated; this process when None. The caller closes them.
        checkpoint: A JSON file to write, and to go on from if it exists.
        report: Called after each generation.
        save_every: Seconds between checkpoints; the last state is always written.

    Returns:
        The state after the last generation.

    Raises:
        ValueError: If the checkpoint belongs to other settings, or is no checkpoint.

    Example:
        >>> from steepest.evolve import Member, Settings, evolve
        >>> class Line:
        ...     def propose(self, parents, count, rng): return list(rng.uniform(-1, 1, count))
        ...     def vary(self, genome, rng): return genome
        ...     def evaluate(self, genome, rng): return Member(genome, (genome**2, (genome - 1) ** 2))
        ...     def key(self, member): return float(member.genome).hex()
        ...     def to_json(self, genome): return float(genome).hex()
        ...     def from_json(self, value): return float.fromhex(value)
        ...     def describe(self): return {}
        >>> state = evolve(Line(), Settings(population=5, children=9, generations=3))
        >>> all(0 <= member.genome <= 1 for member in state.front)
        True
    """
    pool = workers or Serial()
    state = load(problem, settings, checkpoint) if checkpoint and checkpoint.exists() else State()
    start = saved = time.monotonic()
    while state.generation < settings.generations:
        _step(problem, settings, pool, state)
        now = time.monotonic()
        if checkpoint and now - saved >= save_every:
            save(problem, settings, checkpoint, state)
            saved = now
        if report:
            report(state)
        if settings.seconds is not None and now - start >= settings.seconds:
            break
    if checkpoint:
        save(problem, settings, checkpoint, state)
    return state


def _step(problem: Problem[Genome], settings: Settings, pool: Workers, state: State[Genome]) -> None:
    rng = _generator(settings.seed, state.generation, 0)
    proposed = problem.propose(state.members, settings.children, rng)
    tasks = [(genome, settings.seed, state.generation, i + 1) for i, genome in enumerate(proposed)]
    children = pool.map(functools.partial(_evaluate, problem, bool(state.members)), tasks)
    state.evaluations += len(children)
    merged = list(_distinct(problem, itertools.chain(state.members, children)))
    order = select(np.array([m.objectives for m in merged]), settings.population)
    state.members = [merged[i] for i in order]
    state.generation += 1


def _generator(*words: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def _evaluate(problem: Problem[Genome], vary: bool, task: tuple[Genome, int, int, int]) -> Member[Genome]:
    genome, *words = task
    rng = _generator(*words)
    return problem.evaluate(problem.vary(genome, rng) if vary else genome, rng)


def _distinct(problem: Problem[Genome], members: Iterator[Member[Genome]]) -> Iterator[Member[Genome]]:
    best: dict[str, Member[Genome]] = {}
    for member in members:
        key = problem.key(member)
        if key not in best or member.objectives < best[key].objectives:
            best[key] = member
    return iter(best.values())


def _identity(problem: Problem[Genome], settings: Settings) -> dict[str, Any]:
    sizes = {"population": settings.population, "children": settings.children, "seed": settings.seed}
    return {"format": _FORMAT, "problem": json.loads(json.dumps(problem.describe())), **sizes}


def save(problem: Problem[Genome], settings: Settings, path: Path, state: State[Genome]) -> None:
    """Write a state at once: a reader finds the old file or the new one, even after a crash.

    Args:
        problem: What is evolved.
        settings: Of the run.
        path: The JSON file.
        state: What to write; objectives and genomes are kept to the last bit.

    Raises:
        OSError: If the disk refuses.
    """
    members = [
        {"genome": problem.to_json(m.genome), "objectives": [float(v).hex() for v in m.objectives]}
        for m in state.members
    ]
    counts = {"generation": state.generation, "evaluations": state.evaluations}
    write_json(path, {"run": _identity(problem, settings), **counts, "members": members})


def load(problem: Problem[Genome], settings: Settings, path: Path) -> State[Genome]:
    """Read what `save` wrote.

    Args:
        problem: What is evolved.
        settings: Of the run; only the budget may differ from what was written.
        path: The JSON file.

    Returns:
        The state.

    Raises:
        ValueError: If the file is no checkpoint or belongs to other settings.
    """
    content = read_json(path)
    wanted = _identity(problem, settings)
    written = content.get("run")
    if not isinstance(written, dict):
        raise ValueError(f"{path} is no checkpoint of a search: delete it, or name another file")
    differing = sorted(key for key in wanted if written.get(key) != wanted[key])
    if differing:
        found = ", ".join(f"{key}: {written.get(key)!r} there, {wanted[key]!r} asked" for key in differing)
        raise ValueError(f"{path} belongs to another search ({found}): use the same settings or another file")
    members = [
        Member(problem.from_json(m["genome"]), tuple(float.fromhex(v) for v in m["objectives"]))
        for m in content["members"]
    ]
    return State(content["generation"], content["evaluations"], members)
