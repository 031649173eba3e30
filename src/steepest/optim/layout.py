# SPDX-License-Identifier: Apache-2.0
"""How a parameter is seen as matrices: convolutions flattened, fused projections split, experts as a batch."""

import dataclasses
import math
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

CONVOLUTIONS = ("conv", "grouped_conv", "depthwise_conv")


@final
@dataclasses.dataclass(frozen=True)
class Layout:
    """The matrices of a parameter, outputs by inputs.

    Args:
        role: The parameter's role; it decides what three and more dimensions mean.
        blocks: Rows (outputs) of each of several projections kept in one matrix; empty for one.
        transposed: Stored as inputs by outputs.
        groups: Groups of a convolution; each is a matrix of its own.
    """

    role: str = "hidden"
    blocks: tuple[int, ...] = ()
    transposed: bool = False
    groups: int = 1

    def check(self, shape: Sequence[int], name: str) -> None:
        """Refuse a shape that this layout does not describe.

        Args:
            shape: Of the parameter.
            name: For the message.

        Raises:
            ValueError: With what to do.
        """
        if 0 in shape:
            raise ValueError(f"{name} is empty, shape {tuple(shape)}; leave it out")
        if len(shape) > 2 and self.role not in (*CONVOLUTIONS, "experts", "other"):
            raise ValueError(
                f"{name} has {len(shape)} dimensions, shape {tuple(shape)}, and a rule for real matrices cannot tell a "
                "convolution from a stack of matrices; give the model instead of its parameters, or a group with "
                "role='conv' or role='experts'"
            )
        rows = shape[-1 if self.transposed else -2] if len(shape) > 1 else 1
        if self.blocks and (self.role in CONVOLUTIONS or sum(self.blocks) != rows):
            raise ValueError(f"{name}: blocks {self.blocks} do not add up to the {rows} outputs of {tuple(shape)}")

    def matrices(self, tensor: Tensor) -> list[Tensor]:
        """Return the batches `(b, m, n)` of the parameter, one for each block; views where that is possible."""
        if tensor.ndim < 2:
            return [tensor.reshape(1, 1, -1)]
        if self.role in CONVOLUTIONS:
            return [self._convolution(tensor)]
        stack = tensor.reshape(-1, *tensor.shape[-2:])
        stack = stack.mT if self.transposed else stack
        return list(stack.split(self.blocks, dim=1)) if self.blocks else [stack]

    def _convolution(self, tensor: Tensor) -> Tensor:
        """Outputs by inputs times taps, for each group."""
        if not self.transposed:
            flat = tensor.flatten(1)
            return flat.reshape(self.groups, -1, flat.shape[1])
        # Stored (in, out / groups, taps...): group g has the rows of its own inputs.
        split = tensor.reshape(self.groups, -1, *tensor.shape[1:])
        return split.transpose(1, 2).flatten(2)

    def write(self, tensor: Tensor, index: int, values: Tensor) -> None:
        """Write one batch of matrices back into the tensor they came from.

        Args:
            tensor: Changed in place; of the parameter's shape.
            index: Which of `matrices(tensor)`.
            values: Shape of that batch.
        """
        batches = self.matrices(tensor)
        batches[index].copy_(values)
        if batches[0].untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr():
            tensor.copy_(self._restore(batches, tensor.shape))

    def _restore(self, batches: list[Tensor], shape: torch.Size) -> Tensor:
        """The inverse of `matrices`."""
        whole = torch.cat(batches, dim=1)
        if self.role in CONVOLUTIONS and self.transposed:
            per_group = whole.shape[0], whole.shape[1], shape[0] // self.groups, *shape[2:]
            return whole.reshape(per_group).transpose(1, 2).reshape(shape)
        return (whole.mT if self.transposed and self.role not in CONVOLUTIONS else whole).reshape(shape)

    def shapes(self, shape: Sequence[int]) -> list[tuple[int, int, int]]:
        """Return (b, m, n) of each batch of matrices for a parameter's shape."""
        batches = self.matrices(torch.empty(tuple(shape), device="meta"))
        return [(batch.shape[0], batch.shape[1], batch.shape[2]) for batch in batches]


def fan(shape: Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of a shape: vectors are one row."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))
