# SPDX-License-Identifier: Apache-2.0
"""What one parameter is to its model: role, blocks, layout, and the matrices it holds."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import final


class Role(StrEnum):
    """What a parameter is to its model; an optimizer chooses the rule by it."""

    HIDDEN = "hidden"
    """A matrix between two layers of activations."""
    EMBEDDING = "embedding"
    """A table whose rows are looked up."""
    TIED = "tied"
    """A table that is looked up at the input and is also the output head."""
    HEAD = "head"
    """The matrix that makes the outputs."""
    CONV = "conv"
    """A convolution over all channels."""
    DEPTHWISE_CONV = "depthwise_conv"
    """A convolution of each channel alone: filters, not a matrix to orthogonalize."""
    GROUPED_CONV = "grouped_conv"
    """A convolution of several groups of channels: one matrix a group."""
    EXPERTS = "experts"
    """A stack of matrices in one tensor."""
    GAIN = "gain"
    """The scale of a normalization."""
    BIAS = "bias"
    """What a layer adds."""
    VECTOR = "vector"
    """Any other vector or number."""
    LORA_A = "lora_a"
    """The low-rank factor that reads the input."""
    LORA_B = "lora_b"
    """The low-rank factor that writes the output."""
    OTHER = "other"
    """A tensor of two or more dimensions that is not known to act as a matrix."""


VECTOR_ROLES = frozenset({Role.GAIN, Role.BIAS, Role.VECTOR})
CONV_ROLES = frozenset({Role.CONV, Role.DEPTHWISE_CONV, Role.GROUPED_CONV})


@final
@dataclass(frozen=True)
class ParameterRole:
    """A parameter, what it is to its model, and why.

    Args:
        name: First name of the parameter in the model, without the prefixes of wrappers.
        role: What it is.
        shape: Shape of the whole tensor as stored (of the whole tensor too when it is sharded).
        blocks: Output sizes of the projections that are stored as one, in order; () when it is whole. They are rows, or
            columns when `transposed`; for `experts`, of each matrix.
        transposed: Stored (in, out) instead of (out, in). True for embeddings: a token's number goes in, a row comes
            out.
        module_type: Class of the module that holds it.
        reason: One sentence that says why it has this role.
        aliases: The other names of the same parameter.
        trainable: Whether it asks for a gradient.
        groups: Groups of a convolution; experts that a stack of biases belongs to.

    Example:
        >>> qkv = ParameterRole("qkv.weight", Role.HIDDEN, (96, 64), (64, 16, 16), False, "Linear", "An example.")
        >>> qkv.matrix_shapes, qkv.fan_in
        (((64, 64), (16, 64), (16, 64)), 64)
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    blocks: tuple[int, ...]
    transposed: bool
    module_type: str
    reason: str
    aliases: tuple[str, ...] = ()
    trainable: bool = True
    groups: int = 1

    @property
    def matrix_shapes(self) -> tuple[tuple[int, int], ...]:
        """Shape (out, in) of the matrix of each block; one entry when the parameter is whole.

        A convolution's kernel counts as inputs, and each group of a convolution is one matrix; a vector of n entries is
        (n, 1), for its input is the number one.
        """
        rows, columns = self._rows_and_columns()
        return tuple((block, columns) for block in self.blocks) or ((rows, columns),)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Shape (out, in) of one matrix: the first block's (the queries', where blocks differ)."""
        return self.matrix_shapes[0]

    @property
    def fan_in(self) -> int:
        """Numbers that one output is a sum over, equal for all blocks."""
        return self.matrix_shape[1]

    @property
    def fan_out(self) -> int:
        """Outputs of one matrix: of the first block, in one group of a convolution."""
        return self.matrix_shape[0]

    @property
    def stack(self) -> int:
        """Independent matrices (or biases) of equal shape before the split into blocks: experts, groups."""
        if self.role == Role.EXPERTS:
            return math.prod(self.shape[:-2])
        return self.groups if self.role in CONV_ROLES or self.role == Role.BIAS else 1

    def _rows_and_columns(self) -> tuple[int, int]:
        shape = self.shape
        if self.role in VECTOR_ROLES or len(shape) < 2:
            return math.prod(shape) // self.stack, 1
        if self.role == Role.EXPERTS:
            first, second = shape[-2:]
        elif self.role in CONV_ROLES:
            taps = math.prod(shape[2:])
            if self.transposed:
                return shape[1], shape[0] // self.groups * taps
            return shape[0] // self.groups, shape[1] * taps
        else:
            while len(shape) > 2 and shape[0] == 1:
                shape = shape[1:]
            first, second = shape[0], math.prod(shape[1:])
        return (second, first) if self.transposed else (first, second)
