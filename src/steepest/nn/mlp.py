# SPDX-License-Identifier: Apache-2.0
"""A multilayer perceptron."""

import itertools
from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class MLP(nn.Module):
    r"""Linear layers with an activation between them, $x \mapsto W_L\, \phi(W_{L-1} \cdots \phi(W_1 x))$.

    Args:
        sizes: Inputs, hidden widths, outputs: two numbers or more, all above 0.
        activation: $\phi$, entry by entry.
        bias: Whether layers add one.

    Raises:
        ValueError: If there are fewer than two sizes, or one is below 1.

    Example:
        >>> MLP((64, 128, 128, 10))(torch.zeros(5, 8, 8)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self, sizes: Sequence[int], *, activation: Callable[[Tensor], Tensor] = torch.relu, bias: bool = True
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes: expected inputs, hidden widths and outputs, each at least 1, got {tuple(sizes)}")
        self.sizes, self.activation = tuple(sizes), activation
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs, bias=bias) for inputs, outputs in pairs)

    def forward(self, x: Float[Tensor, "batch first *rest"]) -> Float[Tensor, "batch outputs"]:
        """Return the outputs.

        Args:
            x: Batch; the dimensions after the first are flattened to the number of inputs.

        Raises:
            ValueError: If an example does not have as many numbers as the first layer has inputs.
        """
        x = x.flatten(1)
        if x.shape[1] != self.sizes[0]:
            raise ValueError(f"an example has {x.shape[1]} numbers, and this MLP has {self.sizes[0]} inputs")
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)
