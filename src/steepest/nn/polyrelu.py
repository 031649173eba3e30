# SPDX-License-Identifier: Apache-2.0
"""PolyReLU as a module: one set of coefficients a layer."""

from typing import final

import torch
from torch import Tensor, nn

from steepest.kernels.polyrelu import polyrelu
from steepest.optim.rule import check

__all__ = ["PolyReLU"]


@final
class PolyReLU(nn.Module):
    r"""$\sum_{i=0}^{r} a_i \max(x, 0)^i$ with one learnable set of $a_i$ a layer.

    It acts on each element alone, so it serves any layout of a feed-forward as it is, experts included. With
    $a = (0, 1, 0, \dots)$ it is ReLU.

    Args:
        order: $r$, at least 1. The coefficients start at $a_0 = 0$ and $a_i = 1/r$.

    Raises:
        ValueError: If the order is below 1.

    Numerics:
        float32 inside; a float16 result above 65504 is infinite (an input of 60 does that at order 3).

    Example:
        >>> layer = PolyReLU()
        >>> layer(torch.tensor([-1.0, 3.0])).tolist()
        [0.0, 13.0]

    References:
        Zhuo et al. (2024), Polynomial composition activations: unleashing the dynamics of large language models,
        arXiv 2411.03884, eq. 2. Deviation: the lowest power comes first.
    """

    def __init__(self, order: int = 3) -> None:
        super().__init__()
        check("order", order, 1, float("inf"))
        self.order = order
        self.coefficients = nn.Parameter(torch.empty(order + 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the coefficients back to where they started."""
        self.coefficients.fill_(1 / self.order)
        self.coefficients[0] = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation elementwise; shape and dtype stay."""
        return polyrelu(x, self.coefficients)

    def extra_repr(self) -> str:
        """Return the order for `repr`."""
        return f"order={self.order}"
