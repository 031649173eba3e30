# SPDX-License-Identifier: Apache-2.0
"""Momentum as matrix methods keep it: an exponential average of the gradient, with or without look-ahead."""

from jaxtyping import Float
from torch import Tensor


def average_gradient_(
    grad: Float[Tensor, "*shape"], momentum_buffer: Float[Tensor, "*shape"], *, momentum: float, nesterov: bool
) -> Float[Tensor, "*shape"]:
    r"""Update the average in place and return what the step is made of.

    $B \leftarrow \mu B + (1 - \mu) G$; the result is $\mu B + (1 - \mu) G$ with Nesterov's look-ahead, $B$ without.

    Args:
        grad: Gradients $G$; not changed.
        momentum_buffer: $B$, changed in place.
        momentum: $\mu$ in [0, 1).
        nesterov: Look one step ahead.

    Returns:
        A tensor that the caller may read but not write.
    """
    momentum_buffer.lerp_(grad, 1 - momentum)
    return grad.lerp(momentum_buffer, momentum) if nesterov else momentum_buffer
