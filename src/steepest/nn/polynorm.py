# SPDX-License-Identifier: Apache-2.0
"""PolyNorm as a module: one set of coefficients a layer, and groups of features for experts."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steepest.kernels.polynorm import polynorm
from steepest.optim.rule import check

__all__ = ["PolyNorm"]


@final
class PolyNorm(nn.Module):
    r"""$a_0 + \sum_{i=1}^{r} a_i \, x^i / \mathrm{rms}(x^i)$ with one learnable set of $a_i$ a layer.

    The root mean squares are over the last dimension: the activation of one feature depends on the others. Where the
    hidden features of several experts stand side by side, `groups` normalizes each expert's features alone, so that
    what an expert computes does not depend on its neighbours.

    Args:
        order: $r$, at least 1. The coefficients start at $a_0 = 0$ and $a_i = 1/r$.
        eps: Added to each mean square.
        groups: Blocks of equal size, side by side in the last dimension, that are normalized on their own.

    Raises:
        ValueError: If an argument is out of its range.

    Example:
        >>> layer = PolyNorm()
        >>> layer(torch.tensor([[1.0, -1.0, 1.0, -1.0]])).detach().round(decimals=4)
        tensor([[ 1.0000, -0.3333,  1.0000, -0.3333]])

    References:
        Zhuo et al. (2024), Polynomial composition activations: unleashing the dynamics of large language models,
        arXiv 2411.03884, eq. 3. Deviation: the lowest power comes first.
    """

    def __init__(self, order: int = 3, eps: float = 1e-6, *, groups: int = 1) -> None:
        super().__init__()
        check("order", order, 1, float("inf"))
        check("groups", groups, 1, float("inf"))
        check("eps", eps, 0, float("inf"))
        self.order, self.eps, self.groups = order, eps, groups
        self.coefficients = nn.Parameter(torch.empty(order + 1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the coefficients back to where they started."""
        self.coefficients.fill_(1 / self.order)
        self.coefficients[0] = 0.0

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Apply the activation to each row.

        Args:
            x: Hidden features; `width` is a multiple of `groups`.

        Returns:
            The same shape and dtype.

        Raises:
            ValueError: If the groups do not divide the width.
        """
        if self.groups == 1:
            return polynorm(x, self.coefficients, self.eps)
        if x.dim() == 0 or x.shape[-1] % self.groups:
            raise ValueError(
                f"PolyNorm with groups={self.groups} expects a last dimension that they divide, got shape "
                f"{tuple(x.shape)}; change one of them"
            )
        grouped = x.unflatten(-1, (self.groups, x.shape[-1] // self.groups))
        return polynorm(grouped, self.coefficients, self.eps).flatten(-2)

    def extra_repr(self) -> str:
        """Return the settings for `repr`."""
        return f"order={self.order}, eps={self.eps}, groups={self.groups}"
