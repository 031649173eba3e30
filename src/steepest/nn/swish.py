# SPDX-License-Identifier: Apache-2.0
"""Swish with a learnable slope, as a module."""

from typing import final

import torch
from torch import Tensor, nn

from steepest.kernels.swish import swish

__all__ = ["Swish"]


@final
class Swish(nn.Module):
    r"""$x \, \sigma(\beta x)$ with one learnable $\beta$ a layer.

    $\beta = 1$ is SiLU; $\beta \to 0$ gives $x / 2$, $\beta \to \infty$ gives ReLU.

    Args:
        beta: Where $\beta$ starts.

    Example:
        >>> Swish()(torch.tensor([0.0, 2.0]))
        tensor([0.0000, 1.7616], grad_fn=<_FunctionBackward>)

    References:
        Ramachandran, Zoph and Le (2017), Searching for activation functions, arXiv 1710.05941.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.initial = float(beta)
        self.beta = nn.Parameter(torch.tensor(self.initial))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the slope back to where it started."""
        self.beta.fill_(self.initial)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation elementwise; shape and dtype stay."""
        return swish(x, self.beta)

    def extra_repr(self) -> str:
        """Return the starting slope for `repr`."""
        return f"beta={self.initial}"
