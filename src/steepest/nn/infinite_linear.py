# SPDX-License-Identifier: Apache-2.0
"""The exact limit of infinite width of a linear network with one hidden layer in the maximal update parametrization."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn


@final
class InfiniteLinear:
    r"""The network $f(x) = v^\top W x / n$ as $n \to \infty$, trained by gradient descent at learning rate $\eta n$.

    With $v, W_0$ standard normal, the weights stay in the span of what they started from: $v_t = a\, v_0 + W_0 b$ and
    $W_t = W_0 C + v_0 e^\top$. In the limit $v_0^\top v_0 / n \to 1$, $W_0^\top W_0 / n \to I$ and
    $W_0^\top v_0 / n \to 0$, so that $f(x) = (a e + C^\top b)^\top x$, and the $d^2 + 2d + 1$ numbers follow gradient
    descent by themselves. With $g$ the gradient of the loss in $f$, times x and averaged:
    $b \leftarrow b - \eta C g$, $a \leftarrow a - \eta e^\top g$, $C \leftarrow C - \eta b g^\top$,
    $e \leftarrow e - \eta a g$, all from the old values. The loss is $\frac12 (f - y)^2$.

    Args:
        inputs: d, at least 1.

    Numerics:
        float64.

    Example:
        >>> net = InfiniteLinear(2)
        >>> x, y = torch.eye(2), torch.tensor([1.0, -1.0])
        >>> for _ in range(200):
        ...     net.step(x, y, lr=0.2)
        >>> net(x).round(decimals=3)
        tensor([ 1., -1.], dtype=torch.float64)

    References:
        Yang and Hu (2021), Tensor Programs IV, arXiv 2011.14522, section 6 (the maximal update limit); the closed state
        is worked out here.
    """

    def __init__(self, inputs: int) -> None:
        if inputs < 1:
            raise ValueError(f"inputs: expected at least 1, got {inputs}")
        double = torch.float64
        self.a, self.b = torch.ones((), dtype=double), torch.zeros(inputs, dtype=double)
        self.c, self.e = torch.eye(inputs, dtype=double), torch.zeros(inputs, dtype=double)

    def __call__(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, " batch"]:
        """Return the outputs in float64."""
        return x.double() @ self.slope

    @property
    def slope(self) -> Float[Tensor, " inputs"]:
        r"""The linear function that the network is: $a e + C^\top b$."""
        return self.a * self.e + self.c.mT @ self.b

    def step(self, x: Float[Tensor, "batch inputs"], y: Float[Tensor, " batch"], *, lr: float) -> None:
        r"""Take a step of gradient descent on the mean of $\frac12 (f - y)^2$.

        Args:
            x: Inputs.
            y: What they should give.
            lr: $\eta$ above 0.
        """
        x = x.double()
        g = lr * (x.mT @ (self(x) - y.double())) / len(x)
        a, b, c, e = self.a, self.b, self.c, self.e
        self.b, self.a = b - c @ g, a - e @ g
        self.c, self.e = c - torch.outer(b, g), e - a * g


@final
class FiniteLinear(nn.Module):
    r"""The same network of finite width, $f(x) = v^\top W x / n$ with standard normal weights.

    Gradient descent with learning rate $\eta n$ (`lr` times `width`) is the maximal update parametrization.

    Args:
        inputs: d, at least 1.
        width: n, at least 1.
        generator: Source of the weights; torch's global one when None.

    Example:
        >>> FiniteLinear(3, 16)(torch.zeros(2, 3))
        tensor([0., 0.], grad_fn=<DivBackward0>)
    """

    def __init__(self, inputs: int, width: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.hidden = nn.Parameter(torch.randn(width, inputs, generator=generator))
        self.head = nn.Parameter(torch.randn(width, generator=generator))

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, " batch"]:
        """Return the outputs."""
        return (x @ self.hidden.mT) @ self.head / len(self.head)
