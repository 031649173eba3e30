# SPDX-License-Identifier: Apache-2.0
"""What is read, stepped and written at a time: small parameters, a part of a large one, or a batch of matrices."""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from steepest.optim.engine import Engine
from steepest.optim.sharding import is_sharded, local
from steepest.optim.stepping import Member
from steepest.train.offload.buffers import Buffer, blocks
from steepest.train.offload.ranks import Ranks, entries_here, most_entries

#: Parameters of fewer entries travel together, and their gradients stay in memory.
SMALL = 1 << 14
_ALIGNED = 64
_HALVES = (torch.bfloat16, torch.float16)
_DEPENDS_ON_THE_WHOLE = ("cautious", "hyperball", "compile")


@final
@dataclass(eq=False)
class Part:
    """A parameter, or a range of its entries; of a sharded one what this process has.

    Args:
        param: The parameter.
        place: Of it in the optimizer.
        name: Of the parameter.
        span: First entry and the one after the last; None for all of it.
        state: Its numbers, such as the count of steps; while it is stepped its tensors too.
        master: Whether the disk has its weights in float32, of which the parameter is a rounded copy.
        away: Whether the parameter is without memory between its uses, and the disk alone has its weights.
    """

    param: Tensor
    place: int
    name: str
    span: tuple[int, int] | None = None
    state: dict[str, Any] = field(default_factory=dict)
    master: bool = False
    away: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights on the disk."""
        return torch.float32 if self.master else self.param.dtype

    @property
    def shape(self) -> torch.Size:
        """Of it, in this process."""
        return local(self.param.detach()).shape if self.span is None else torch.Size((self.entries,))

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights on the disk."""
        return self.entries * self.dtype.itemsize

    @property
    def stepped_from_disk(self) -> bool:
        """Whether a step begins with the weights that the disk has, not with those of the parameter."""
        return self.master or self.away

    @property
    def label(self) -> str:
        """Name and range, for people."""
        return self.name if self.span is None else f"{self.name}[{self.span[0]}:{self.span[1]}]"

    @property
    def entries(self) -> int:
        """How many entries it has."""
        return entries_here(self.param) if self.span is None else self.span[1] - self.span[0]

    def of(self, tensor: Tensor) -> Tensor:
        """Return this part of a tensor of the shape that the parameter has in this process, sharing its memory."""
        return tensor if self.span is None else tensor.view(-1)[slice(*self.span)]

    def weights(self) -> Tensor:
        """Return this part of the parameter."""
        return self.of(local(self.param.detach()))


class StateField(NamedTuple):
    """Where a state lies in the bytes of its piece.

    Args:
        part: Which part of the piece it belongs to.
        key: Its name in the state.
        offset: In bytes.
        shape: Of the tensor.
        stride: Of the tensor.
        dtype: Of the tensor, such as `"float32"`.
        sharded: Whether it is cut as its parameter is; other tensors are the same in all processes.
    """

    part: int
    key: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    sharded: bool = False

    def tensor(self, buffer: Buffer) -> Tensor:
        """Return the tensor whose memory is the buffer's."""
        return buffer.tensor(self.offset, self.shape, self.stride, getattr(torch, self.dtype))


class Share(NamedTuple):
    """Weights that are read and written together.

    Args:
        parts: Of one piece.
        offset: Bytes before them in the weights of the piece.
        nbytes: In whole blocks.
    """

    parts: list[Part]
    offset: int
    nbytes: int

    def copies(self, buffer: Buffer, start: int) -> Iterator[tuple[Part, Tensor]]:
        """Yield each part with the room for its weights in a buffer, in the shape of the weights.

        Args:
            buffer: At least `start + nbytes` long.
            start: Bytes before the first one.
        """
        for part in self.parts:
            flat = buffer.tensor(start, (part.entries,), (1,), part.dtype)
            yield part, flat.view(part.shape)
            start += _aligned(part.weight_bytes)


@final
@dataclass(eq=False)
class Piece:
    """Parts of one group that are read, stepped and written at a time.

    Args:
        group: Index of the group.
        parts: In the order of the group.
        fields: Where its states lie.
        before: The numbers of the parts before the step that is going on.
        meeting: Its number among the pieces for whose step all processes must meet, as it needs whole parameters; None
            if each process steps its shards alone.
    """

    group: int
    parts: list[Part]
    fields: list[StateField] = field(default_factory=list)
    before: list[dict[str, Any]] = field(default_factory=list)
    meeting: int | None = None

    @property
    def label(self) -> str:
        """The parameters, for people."""
        first = self.parts[0].label
        return first if len(self.parts) == 1 else f"{first} and {len(self.parts) - 1} more"

    @property
    def state_bytes(self) -> int:
        """Bytes of the states, in whole blocks."""
        if not self.fields:
            return 0
        last = self.fields[-1]
        return blocks(last.offset + math.prod(last.shape) * getattr(torch, last.dtype).itemsize)

    @property
    def param_bytes(self) -> int:
        """Bytes of the parameters, in whole blocks."""
        return sum(share.nbytes for share in self.shares())

    def shares(self) -> list["Share"]:
        """Return what of the weights is read by itself: each large part, and small ones that follow each other."""
        runs: list[list[Part]] = []
        for part in self.parts:
            if not runs or part.entries > SMALL or runs[-1][-1].entries > SMALL:
                runs.append([])
            runs[-1].append(part)
        found, offset = [], 0
        for parts in runs:
            nbytes = blocks(sum(_aligned(part.weight_bytes) for part in parts))
            found.append(Share(parts, offset, nbytes))
            offset += nbytes
        return found

    def describe(self) -> dict[str, Any]:
        """Return what must be the same where a store is opened again, as plain values."""
        parts = [[part.name, list(part.param.shape), str(part.dtype), part.span] for part in self.parts]
        return {"group": self.group, "parts": parts}

    def make_states(self, engine: Engine, ranks: Ranks) -> dict[tuple[int, str], Tensor]:
        """Make the states before the first step; keep their numbers and their layout, and return the tensors.

        Where parameters are gathered for it, all processes must call this.
        """
        members = []
        for part in self.parts:
            param = part.weights().float() if part.master else part.weights()
            param = param if part.span else ranks.wrapped(param, part.param)
            members.append(Member(param, param, part.state, part.place))
        engine.make_states(members, self.group)
        tensors, offset = {}, 0
        for index, part in enumerate(self.parts):
            for key in [key for key, value in part.state.items() if isinstance(value, Tensor)]:
                made = part.state.pop(key)
                tensor = tensors[index, key] = _dense(local(made))
                sharded = is_sharded(made) or (part.span is not None and is_sharded(part.param))
                dtype = str(tensor.dtype).removeprefix("torch.")
                found = StateField(index, key, offset, tuple(tensor.shape), tensor.stride(), dtype, sharded)
                self.fields.append(found)
                offset += _aligned(tensor.numel() * tensor.element_size())
        return tensors

    def open(self, buffer: Buffer, ranks: Ranks) -> None:
        """Put the states that are in a buffer into the parts."""
        for place in self.fields:
            part, tensor = self.parts[place.part], place.tensor(buffer)
            if place.sharded and self.meeting is not None:
                tensor = ranks.wrapped(tensor, part.param)
            part.state[place.key] = tensor

    def close(self, buffer: Buffer) -> None:
        """Take the states out of the parts again, into the buffer.

        Raises:
            RuntimeError: If the rule has made a state of another form.
        """
        for place in self.fields:
            state, home = local(self.parts[place.part].state.pop(place.key)), place.tensor(buffer)
            if state.shape != home.shape or state.dtype != home.dtype:
                raise RuntimeError(
                    f"{self.label}: the state {place.key} was {tuple(home.shape)}, {home.dtype} and became "
                    f"{tuple(state.shape)}, {state.dtype}; states on a disk keep their form"
                )
            if state.numel() and state.data_ptr() != home.data_ptr():
                home.copy_(state)
        new = [key for part in self.parts for key, value in part.state.items() if isinstance(value, Tensor)]
        if new:
            raise RuntimeError(f"{self.label}: the states {new} were made after the start; they cannot go to a disk")

    def copies(self, buffer: Buffer, start: int) -> Iterator[tuple[Part, Tensor]]:
        """Yield each part with the room for its weights in a buffer, in the shape of the weights.

        Args:
            buffer: At least `start + param_bytes` long.
            start: Bytes before the first one.
        """
        for share in self.shares():
            yield from share.copies(buffer, start + share.offset)


def cut(engine: Engine, tile_entries: int, *, master: bool = False, planned: bool = False) -> list[Piece]:
    """Cut all parameters of an optimizer into pieces that can be stepped one after another with the same bits.

    Args:
        engine: The optimizer.
        tile_entries: Most entries of a piece whose parameters are stepped entry by entry.
        master: Keep float32 weights on the disk for parameters of 16 bits.
        planned: The parameters are without memory and are only counted.

    Raises:
        ValueError: If something of it cannot be stepped in pieces; says what.
    """
    pieces: list[Piece] = []
    place = 0
    for index, group in enumerate(engine.param_groups):
        _check(engine, index, planned=planned)
        names = group.get("param_names") or [f"parameter {i} of group {index}" for i in range(len(group["params"]))]
        parts = [
            Part(p, place + i, names[i], master=master and p.dtype in _HALVES) for i, p in enumerate(group["params"])
        ]
        place += len(parts)
        if engine.rule_of(index).works_on == "matrices":
            pieces += [Piece(index, [parts[i] for i in batch]) for batch in engine.batches(index)]
        else:
            pieces += _entrywise(index, parts, tile_entries, whole=depends_on_the_whole(group))
    meetings = (piece for piece in pieces if _needs_all_processes(engine, piece))
    for number, piece in enumerate(meetings):
        piece.meeting = number
    return pieces


def _needs_all_processes(engine: Engine, piece: Piece) -> bool:
    group = engine.param_groups[piece.group]
    whole = engine.rule_of(piece.group).works_on == "matrices" or depends_on_the_whole(group)
    return whole and any(is_sharded(part.param) for part in piece.parts)


def _entrywise(index: int, parts: list[Part], tile_entries: int, *, whole: bool) -> Iterator[Piece]:
    # By the largest shard, so that all processes make pieces of the same parameters in the same order.
    together: list[Part] = []
    for part in parts:
        entries = most_entries(part.param)
        if entries <= SMALL:
            if together and sum(most_entries(p.param) for p in together) + entries > tile_entries:
                yield Piece(index, together)
                together = []
            together.append(part)
        elif whole or entries <= tile_entries or not part.entries or not part.weights().is_contiguous():
            yield Piece(index, [part])
        else:
            for first in range(0, part.entries, tile_entries):
                span = (first, min(first + tile_entries, part.entries))
                yield Piece(index, [dataclasses.replace(part, span=span, state={})])
    if together:
        yield Piece(index, together)


def depends_on_the_whole(group: dict[str, Any]) -> bool:
    """Whether the step of an entry depends on the parameter that it is in: on its shape or its other entries."""
    return any(group[key] for key in _DEPENDS_ON_THE_WHOLE) or group["clip"] != math.inf or group["lr_scale"] != "none"


def _check(engine: Engine, index: int, *, planned: bool) -> None:
    group, rule = engine.param_groups[index], engine.rule_of(index)
    if rule.works_on == "all parameters":
        raise ValueError(f"{rule.name} steps all parameters as one vector, so its states cannot be on a disk in pieces")
    if group["state_dtype"] != "float32":
        raise ValueError(
            f"state_dtype={group['state_dtype']!r} draws its roundings by the place in a step of all parameters; "
            "states on a disk keep float32"
        )
    for param in group["params"]:
        if param.device.type != ("meta" if planned else "cpu"):
            raise ValueError(f"states on a disk are for parameters in memory, got one on {param.device}")


def _dense(tensor: Tensor) -> Tensor:
    """The tensor, or a copy without gaps and overlaps in its memory."""
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor if tensor.numel() in (0, span) else tensor.contiguous()


def _aligned(nbytes: int) -> int:
    return -(-nbytes // _ALIGNED) * _ALIGNED
