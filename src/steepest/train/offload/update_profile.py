# SPDX-License-Identifier: Apache-2.0
"""Seconds and temporary bytes of an optimizer's step, measured on pieces of a small model."""

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import final

import torch

from steepest.optim.engine import Engine
from steepest.optim.stepping import Member
from steepest.train.offload.allocations import Allocations
from steepest.train.offload.pieces import Part, Piece
from steepest.train.offload.ranks import Ranks

#: What is measured of one kind has so many entries, so that it does not stay in the caches.
_ENTRIES = 1 << 23

Kind = tuple[str, tuple[int, ...]]


def kind_of(engine: Engine, piece: Piece) -> Kind:
    """Return what decides how long an entry of a piece takes: the rule, and the shape where it sees matrices."""
    rule = engine.rule_of(piece.group)
    shape = tuple(piece.parts[0].param.shape) if rule.works_on == "matrices" else ()
    return rule.name, shape


@final
class UpdateProfile:
    """How long an optimizer steps, by kind of piece.

    Args:
        engine: Steps a small model; its weights change.
        pieces: From `cut`.
    """

    def __init__(self, engine: Engine, pieces: Sequence[Piece]) -> None:
        self._seconds: dict[tuple[Kind, bool], float] = {}
        self._temporary: dict[Kind, float] = {}
        kinds: dict[Kind, list[Piece]] = defaultdict(list)
        for piece in sorted(pieces, key=_entries, reverse=True):
            kinds[kind_of(engine, piece)].append(piece)
        for kind, found in kinds.items():
            chosen, entries = list[Piece](), 0
            for piece in found:
                if entries < _ENTRIES:
                    chosen.append(piece)
                    entries += _entries(piece)
            self._measure(engine, kind, chosen)

    @torch.no_grad()
    def _measure(self, engine: Engine, kind: Kind, pieces: list[Piece]) -> None:
        engine.step_members(*_members(engine, pieces[0]))  # compiles kernels
        with Allocations() as tracker:
            one = _members(engine, pieces[0])
            tracker.mark("begin")
            engine.step_members(*one)
            tracker.mark("end")
        work = [one, *(_members(engine, piece) for piece in pieces[1:])]
        first = max(1, _entries(pieces[0]))
        self._temporary[kind] = (tracker.most("begin", "end") - tracker.at("begin")) / first
        threads, entries = torch.get_num_threads(), max(1, sum(map(_entries, pieces)))

        @torch.no_grad()
        def step(members: list[Member], group: int) -> None:
            torch.set_num_threads(threads)
            engine.step_members(members, group)

        start = time.perf_counter()
        for members, group in work:
            engine.step_members(members, group)
        self._seconds[kind, False] = (time.perf_counter() - start) / entries
        with ThreadPoolExecutor(1) as pool:  # as a `Pipeline` does it
            pool.submit(step, *work[0]).result()
            start = time.perf_counter()
            for members, group in work:
                pool.submit(step, members, group).result()
            self._seconds[kind, True] = (time.perf_counter() - start) / entries

    def seconds(self, engine: Engine, pieces: Sequence[Piece], *, pipeline: bool = False) -> float:
        """Return the seconds of a step.

        Args:
            engine: Of the whole model; may be without memory.
            pieces: Of it.
            pipeline: In the thread of a pipeline, which sets its number of threads anew for every piece.
        """
        usual = max(self._seconds.values())
        each = (self._seconds.get((kind_of(engine, piece), pipeline), usual) * _entries(piece) for piece in pieces)
        return sum(each)

    def temporary(self, engine: Engine, pieces: Sequence[Piece]) -> int:
        """Return the most bytes of tensors that come and go while a piece is stepped.

        Args:
            engine: Of the whole model; may be without memory.
            pieces: Of it.
        """
        usual = max(self._temporary.values())
        return int(max(self._temporary.get(kind_of(engine, piece), usual) * _entries(piece) for piece in pieces))


def _members(engine: Engine, piece: Piece) -> tuple[list[Member], int]:
    """A piece with gradients and fresh states, and the index of its group."""
    generator = torch.Generator().manual_seed(0)
    fresh = Piece(piece.group, [Part(p.param, p.place, p.name, p.span) for p in piece.parts])
    for (index, key), tensor in fresh.make_states(engine, Ranks(())).items():
        fresh.parts[index].state[key] = tensor
    members = []
    for part in fresh.parts:
        param = part.param if part.span is None else part.weights()
        grad = torch.empty_like(param).normal_(0, 1e-3, generator=generator)
        members.append(Member(param, grad, part.state, part.place))
    return members, piece.group


def _entries(piece: Piece) -> int:
    return sum(part.entries for part in piece.parts)
