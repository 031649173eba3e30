# SPDX-License-Identifier: Apache-2.0
"""The step of one piece, in three stages."""

from typing import TYPE_CHECKING, final

import torch

from steepest.optim.stepping import Member
from steepest.train.offload.buffers import Buffer
from steepest.train.offload.pieces import Part, Piece

if TYPE_CHECKING:
    from steepest.train.offload.optimizer import Offload


@final
class StepJob:
    """Reads the states of a piece, gradients and weights that are on the disk, steps it, writes states and weights.

    Args:
        offload: Whose piece it is.
        piece: Which.
    """

    def __init__(self, offload: "Offload", piece: Piece) -> None:
        self._offload, self._piece, self.meeting = offload, piece, piece.meeting
        self._buffer: Buffer | None = None
        gradients, self._places = offload.gradients, dict[Part, int]()
        self._nbytes = piece.state_bytes + piece.param_bytes
        for part in piece.parts:
            if gradients.has(part.param):
                self._places[part] = self._nbytes
                self._nbytes += gradients.bytes_on_disk(part)

    def reserve(self) -> None:
        """Take memory for all that is read and written."""
        self._buffer = self._offload.pool.take(self._nbytes)

    def read(self) -> None:
        """Bring states and gradients."""
        offload, buffer = self._offload, self._buffer
        assert buffer is not None
        offload.states.read(self._piece, buffer)
        offload.states.read_weights(self._piece, buffer)
        for part, place in self._places.items():
            offload.gradients.read(part, buffer, place)

    @torch.no_grad()
    def compute(self) -> None:
        """Step the parameters, and copy them into the buffer."""
        offload, piece, buffer = self._offload, self._piece, self._buffer
        assert buffer is not None
        piece.open(buffer, offload.ranks)
        rooms = dict(piece.copies(buffer, piece.state_bytes))
        members = []
        for part, place in self._places.items():
            grad = offload.gradients.take(part, buffer, place).to(part.dtype)
            if offload.coefficient is not None:
                grad = grad * offload.coefficient
            param = rooms[part] if part.stepped_from_disk else part.weights()
            if piece.meeting is not None:
                param, grad = (offload.ranks.wrapped(tensor, part.param) for tensor in (param, grad))
            members.append(Member(param, grad, part.state, part.place))
        offload.optimizer.step_members(members, piece.group)
        piece.close(buffer)
        for part, room in rooms.items():
            if not part.stepped_from_disk:
                room.copy_(part.weights())
            elif not part.away:
                part.weights().copy_(room)
        for part in self._places:
            offload.gradients.used(part)

    def write(self) -> None:
        """Write states and weights."""
        assert self._buffer is not None
        self._offload.states.write(self._piece, self._buffer)

    def release(self) -> None:
        """Give the memory back."""
        if self._buffer is not None:
            self._offload.pool.give(self._buffer)
