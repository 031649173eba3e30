# SPDX-License-Identifier: Apache-2.0
"""How many bytes of gradients are there, at most, in the course of a backward pass."""

from collections import deque
from collections.abc import Callable, Sequence

from torch import Tensor

from steepest.train.offload.pieces import SMALL, Piece

#: Jobs on their way in a `Pipeline`; the backward pass waits when there are more.
DEPTH = 8

Stages = Sequence[Sequence[Tensor]]


def kept(stages: Stages, rounds: int) -> tuple[int, ...]:
    """Return the bytes after each stage where gradients stay until the step.

    Args:
        stages: Parameters in the order in which their gradients come: of the head, of each block from the last one on,
            and of the embedding.
        rounds: Whose gradients add up; the earlier ones are there from the start.
    """
    if rounds > 1:
        return (sum(map(_bytes, _all(stages))),) * len(stages)
    total, found = 0, []
    for stage in stages:
        total += sum(map(_bytes, stage))
        found.append(total)
    return tuple(found)


def put_away(stages: Stages, rounds: int) -> tuple[int, ...]:
    """Return the bytes after each stage where large gradients go to the disk: the small ones, and one that goes.

    Args:
        stages: As for `kept`.
        rounds: A later round brings back what an earlier one has put away.
    """
    small, found = 0, []
    for stage in stages:
        small += sum(_bytes(param) for param in stage if param.numel() <= SMALL)
        going = max((_bytes(param) for param in stage if param.numel() > SMALL), default=0)
        found.append(small + going * min(rounds, 2))
    return (small + max(f - small for f in found),) * len(found) if rounds > 1 else tuple(found)


def used(stages: Stages, pieces: Sequence[Piece], rounds: int) -> tuple[int, ...]:
    """Return the most bytes after each stage where each piece is stepped as soon as it can be, and its gradients freed.

    The disk may be slow, so every piece waits until the pipeline has no room for another one.

    Args:
        stages: As for `kept`.
        pieces: In which they are stepped.
        rounds: In all but the last one gradients stay.
    """
    if rounds > 1:
        return kept(stages, rounds)
    waiting = {piece: len({part.param for part in piece.parts}) for piece in pieces}
    pieces_of: dict[Tensor, list[Piece]] = {}
    for piece in pieces:
        for param in {part.param: None for part in piece.parts}:
            pieces_of.setdefault(param, []).append(piece)
    left = {param: len(own) for param, own in pieces_of.items()}
    on_their_way, alive, found = deque[Piece](), 0, list[int]()

    def finish(piece: Piece) -> int:
        freed = 0
        for param in {part.param: None for part in piece.parts}:
            left[param] -= 1
            freed += 0 if left[param] else _bytes(param)
        return freed

    for stage in stages:
        most = alive
        for param in stage:
            alive += _bytes(param)
            most = max(most, alive)
            for piece in pieces_of.get(param, ()):
                waiting[piece] -= 1
                if not waiting[piece]:
                    if len(on_their_way) == DEPTH:
                        alive -= finish(on_their_way.popleft())
                    on_their_way.append(piece)
        found.append(most)
    return tuple(found)


def stages_of(named: Sequence[tuple[str, Tensor]], block_of: Callable[[str], int | None], blocks: int) -> Stages:
    """Return parameters in the order in which their gradients come.

    Args:
        named: Parameters by name, each once.
        block_of: The index of the block that a name is in, None for none.
        blocks: How many there are.
    """
    inside: list[list[Tensor]] = [[] for _ in range(blocks)]
    head, embedding = list[Tensor](), list[Tensor]()
    for name, param in named:
        index = block_of(name)
        if index is not None:
            inside[index].insert(0, param)
        elif "embed" in name:
            embedding.append(param)
        else:
            head.append(param)
    return [head, *reversed(inside), embedding]


def _all(stages: Stages) -> list[Tensor]:
    return [param for stage in stages for param in stage]


def _bytes(param: Tensor) -> int:
    return param.numel() * param.element_size()
