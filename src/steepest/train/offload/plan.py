# SPDX-License-Identifier: Apache-2.0
"""Choosing what lives where, so that a step is fastest under a limit of memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from steepest.train.offload.cost import Way
from steepest.train.offload.options import OffloadOptions
from steepest.train.offload.plan_facts import Choice, Facts, Moment
from steepest.train.report.units import decimal_size

_ROUNDED_TO = 10_000_000


class NothingFitsError(ValueError):
    """No choice fits under the limit.

    Args:
        message: For people.
        minimum: Bytes of the smallest limit under which something fits.
    """

    def __init__(self, message: str, minimum: int) -> None:
        super().__init__(message)
        self.minimum = minimum


@final
@dataclass(frozen=True, kw_only=True)
class Alternative:
    """What was not chosen.

    Args:
        choice: Where things would live.
        peak: Bytes of memory; 0 if the way was not open.
        seconds: Of a step.
        reason: Why it lost.
    """

    choice: Choice
    peak: int
    seconds: float
    reason: str


@final
@dataclass(frozen=True, kw_only=True)
class Plan:
    """What lives where.

    Args:
        choice: It.
        limit: Bytes under which it was looked for.
        peak: Predicted most bytes of memory.
        moment: Where the peak is.
        on_disk: Predicted bytes on the disk.
        parts: Predicted seconds of a step by part.
        alternatives: The best of each other way, and of other places for activations.
        facts: What it was made from.
    """

    choice: Choice
    limit: int
    peak: int
    moment: Moment
    on_disk: int
    parts: dict[str, float]
    alternatives: list[Alternative]
    facts: Facts

    @property
    def seconds(self) -> float:
        """Predicted time of a step."""
        return sum(self.parts.values())

    def options(self, max_norm: float, buffer_bytes: int) -> OffloadOptions | None:
        """Return how the states are kept; None if they stay in memory.

        Args:
            max_norm: To which the gradient is clipped as a whole; infinity for not.
            buffer_bytes: As the facts have it.
        """
        way = self.choice.way
        if way == "memory":
            return None
        return OffloadOptions(
            overlap=way == "overlapped",
            gradients="disk" if way == "gradients on disk" else "memory",
            max_norm=max_norm,
            buffer_bytes=buffer_bytes,
        )


def choose(facts: Facts, limit: int) -> Plan:
    """Return the choice whose step is predicted to be fastest among those that fit.

    Blocks are alike, so a choice is a way for states and gradients and how many blocks keep, compute again or swap
    their activations; all of them are looked at. Of equally fast ones the one that moves least is taken.

    Args:
        facts: Bytes and seconds.
        limit: Bytes of memory.

    Returns:
        The plan.

    Raises:
        NothingFitsError: If there is none; says what the least limit is and what sets it.

    References:
        Rajbhandari et al. (2021), ZeRO-Infinity, arXiv 2104.07857. Liao et al. (2024), Fuyou, arXiv 2403.06504.
    """
    timed = [(sum(facts.seconds(choice).values()), choice) for choice in facts.choices()]
    timed = [(s, c) for s, c in timed if facts.on_disk(c) <= facts.disk_free or not facts.on_disk(c)]
    best = _first_fitting(facts, sorted(timed), limit)
    if best is None:
        raise _nothing_fits(facts, [choice for _, choice in timed], limit)
    return plan_of(facts, best, limit, _alternatives(facts, sorted(timed), best, limit))


def plan_of(facts: Facts, choice: Choice, limit: int, alternatives: Sequence[Alternative] = ()) -> Plan:
    """Return the plan of a given choice.

    Args:
        facts: Bytes and seconds.
        choice: Where things live.
        limit: Bytes of memory; nothing is compared with it.
        alternatives: What was not chosen.
    """
    return Plan(
        choice=choice,
        limit=limit,
        peak=facts.peak(choice),
        moment=_largest(facts, choice),
        on_disk=facts.on_disk(choice),
        parts=facts.seconds(choice),
        alternatives=list(alternatives),
        facts=facts,
    )


def minimum(facts: Facts) -> int:
    """Return the smallest limit, in bytes, under which something fits."""
    fitting = [c for c in facts.choices() if facts.on_disk(c) <= facts.disk_free or not facts.on_disk(c)]
    return min(map(facts.peak, fitting))


def _first_fitting(facts: Facts, timed: list[tuple[float, Choice]], limit: int) -> Choice | None:
    found: list[tuple[float, int, int, int, Choice]] = []
    for seconds, choice in timed:
        if found and seconds > found[0][0]:
            break
        peak = facts.peak(choice)
        if peak <= limit:
            found.append((seconds, facts.on_disk(choice), choice.recompute + choice.swap, peak, choice))
    return min(found)[-1] if found else None


def _largest(facts: Facts, choice: Choice) -> Moment:
    return max(facts.moments(choice), key=lambda moment: moment.total)


def _nothing_fits(facts: Facts, choices: list[Choice], limit: int) -> NothingFitsError:
    least, choice = min((facts.peak(choice), choice) for choice in choices)
    moment, way = _largest(facts, choice), facts.ways[choice.way]
    buffers = way.buffers + (facts.activations.buffers if choice.swap else 0)
    parts = {
        "the process itself": facts.baseline,
        "weights": facts.weights,
        "optimizer states": way.states,
        "gradients": moment.gradients,
        "activations": moment.activations + moment.working,
        "buffers": buffers,
    }
    listed = ", ".join(
        f"{name} {decimal_size(size)}" for name, size in sorted(parts.items(), key=lambda p: -p[1]) if size
    )
    helps = [] if facts.disk_free else ["--offload DIR to use a disk"]
    helps += ["a smaller train.batch, more train.accumulation, a shorter model.context or a smaller model"]
    rounded = -(-least // _ROUNDED_TO) * _ROUNDED_TO
    return NothingFitsError(
        f"nothing fits into --memory-limit {decimal_size(limit)}: the least is {rounded // 1_000_000}MB ({listed}, in "
        f"the {moment.phase}); raise it, or try {', or '.join(helps)}",
        least,
    )


def _alternatives(facts: Facts, timed: list[tuple[float, Choice]], best: Choice, limit: int) -> list[Alternative]:
    ways: tuple[Way, ...] = ("memory", "pipelined", "overlapped", "gradients on disk")
    found = []
    for way in ways:
        if way in facts.excluded:
            found.append(Alternative(choice=Choice(way, 0, 0, 0), peak=0, seconds=0.0, reason=facts.excluded[way]))
            continue
        own = [(seconds, choice) for seconds, choice in timed if choice.way == way]
        if not own:
            continue
        if way == best.way:
            fastest = _first_fitting(facts, own, 1 << 62)
            tried = [fastest] if fastest and fastest != best else []
        else:
            tried = [_first_fitting(facts, own, limit) or min((facts.peak(c), c) for _, c in own)[1]]
        found += [_judged(facts, choice, best, limit) for choice in tried]
    return found


def _judged(facts: Facts, choice: Choice, best: Choice, limit: int) -> Alternative:
    seconds, peak = sum(facts.seconds(choice).values()), facts.peak(choice)
    ours = sum(facts.seconds(best).values())
    if peak > limit:
        reason = f"{decimal_size(peak - limit)} too much"
    elif seconds > ours:
        reason = f"{seconds / ours - 1:.0%} slower"
    else:
        reason = "as fast, moves more"
    return Alternative(choice=choice, peak=peak, seconds=seconds, reason=reason)
