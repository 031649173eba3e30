# SPDX-License-Identifier: Apache-2.0
"""Activations as modules: those without parameters, and the choice of any of them by name."""

from collections.abc import Callable
from typing import final

from torch import Tensor, nn

from steepest import functional
from steepest.nn.polynorm import PolyNorm
from steepest.nn.polyrelu import PolyReLU
from steepest.nn.swish import Swish
from steepest.optim.options import one_of

__all__ = ["Activation", "activation"]

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, "tanh"),
    "silu": functional.silu,
}
_WITH_PARAMETERS: dict[str, Callable[[], nn.Module]] = {"swish": Swish, "polyrelu": PolyReLU, "polynorm": PolyNorm}

#: Names that `activation` knows.
ACTIVATIONS = (*_FUNCTIONS, *_WITH_PARAMETERS)


@final
class Activation(nn.Module):
    r"""An activation without parameters: `"relu"`, `"gelu"`, `"gelu_tanh"` or `"silu"`.

    Args:
        kind: Its name.

    Raises:
        ValueError: If there is no such activation.

    Example:
        >>> import torch
        >>> Activation("relu")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        one_of("kind", kind, tuple(_FUNCTIONS))
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation elementwise; shape and dtype stay."""
        return _FUNCTIONS[self.kind](x)

    def extra_repr(self) -> str:
        """Return the name for `repr`."""
        return self.kind


def activation(kind: str) -> nn.Module:
    """Return a new activation module by its name.

    Args:
        kind: One of `"relu"`, `"gelu"`, `"gelu_tanh"`, `"silu"`; or, with parameters of its own, `"swish"`,
            `"polyrelu"`, `"polynorm"`.

    Returns:
        The module.

    Raises:
        ValueError: If there is no such activation; the names are given.

    Example:
        >>> activation("polynorm").coefficients.shape
        torch.Size([4])
    """
    one_of("kind", kind, ACTIVATIONS)
    return _WITH_PARAMETERS[kind]() if kind in _WITH_PARAMETERS else Activation(kind)
