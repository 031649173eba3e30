# SPDX-License-Identifier: Apache-2.0
"""What takes the place of Hugging Face's normalizations, activations and gated feed-forwards, one forward each.

A patched module keeps its parameters, hooks and attributes. Its class becomes a subclass of the one it had, with
another `forward`, so `isinstance`, `state_dict` and the module's name are as before.
"""

import copyreg
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steepest.kernels.activations import gelu, relu, silu
from steepest.kernels.gated import geglu, glu, reglu, swiglu
from steepest.kernels.layer_norm import layer_norm
from steepest.kernels.rms_norm import rms_norm


class Patched:
    """Mixin of every patched module's class; subclasses define `forward`."""

    steepest_original: type[nn.Module]
    steepest_part: "type[Patched]"

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # The class is made at run time, so copies and pickles name the two classes it is made of.
        rebuild, arguments, *rest = super().__reduce_ex__(protocol)  # pyright: ignore[reportGeneralTypeIssues]
        if rebuild is not copyreg.__newobj__ or len(arguments) != 1:  # pyright: ignore[reportAttributeAccessIssue]
            raise TypeError(f"steepest.patch cannot copy a {type(self).__name__} that has its own way of being copied")
        return (_blank, (self.steepest_original, self.steepest_part), *rest)


@functools.cache
def patched_class(original: type[nn.Module], part: type[Patched]) -> type[nn.Module]:
    """Return the subclass of a module's class with the part's forward.

    Args:
        original: Class of a module.
        part: What changes.

    Returns:
        A class of the original's name and module, the same one on every call.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(part, "forward", original.forward)(self, *args, **kwargs)

    # transformers reads the signature: which inputs a model takes decides what `generate` and the trainer give it.
    forward.__signature__ = inspect.signature(original.forward)  # pyright: ignore[reportFunctionMemberAccess]
    body = {name: getattr(original, name) for name in ("__module__", "__qualname__", "__doc__")}
    body |= {"forward": forward, "steepest_original": original, "steepest_part": part}
    return type(original.__name__, (part, original), body)


def _blank(original: type[nn.Module], part: type[Patched]) -> nn.Module:
    cls = patched_class(original, part)
    return cls.__new__(cls)


def has_hooks(module: nn.Module) -> bool:
    """Return whether somebody listens to a module's calls, so that its forward must not be bypassed.

    Args:
        module: Any module.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks)


def product_dtype(x: Tensor, otherwise: torch.dtype) -> torch.dtype:
    """Return the dtype in which a matrix product would read x.

    Args:
        x: Its operand.
        otherwise: The answer where autocast is off, or does not touch x.
    """
    device = x.device.type
    if device != "meta" and x.dtype != torch.float64 and torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return otherwise


class RMSNorm(Patched):
    """Llama's normalization: gain times the normalized row, in the wider dtype of the two."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the rows of x, shape (..., width)."""
        return rms_norm(x, self.weight, self.variance_epsilon, out_dtype=self._out_dtype(x))

    def _out_dtype(self, x: Tensor) -> torch.dtype:
        return torch.promote_types(x.dtype, self.weight.dtype)


class RMSNormBeforeProduct(RMSNorm):
    """The same where only matrix products read the output: under autocast it is written in their dtype."""

    def _out_dtype(self, x: Tensor) -> torch.dtype:
        return product_dtype(x, super()._out_dtype(x))


class GemmaRMSNorm(Patched):
    """Gemma's normalization, whose gain is 1 + weight, in x's dtype."""

    weight: nn.Parameter
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the rows of x, shape (..., width)."""
        gain = 1.0 + self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        return rms_norm(x, gain, self.eps, out_dtype=self._out_dtype(x))

    def _out_dtype(self, x: Tensor) -> torch.dtype:
        return x.dtype


class GemmaRMSNormBeforeProduct(GemmaRMSNorm):
    """The same where only matrix products read the output."""

    def _out_dtype(self, x: Tensor) -> torch.dtype:
        return product_dtype(x, x.dtype)


class LayerNorm(Patched):
    """`torch.nn.LayerNorm` over the last dimension."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    eps: float

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the rows of x, shape (..., width)."""
        return layer_norm(x, self.weight, self.bias, self.eps, out_dtype=self._out_dtype(x))

    def _out_dtype(self, x: Tensor) -> torch.dtype:
        return x.dtype


class LayerNormBeforeProduct(LayerNorm):
    """The same where only matrix products read the output."""

    def _out_dtype(self, x: Tensor) -> torch.dtype:
        return product_dtype(x, x.dtype)


class SiLU(Patched):
    """SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return silu(x)."""
        return silu(x)


class ReLU(Patched):
    """ReLU, out of place."""

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(x)."""
        return relu(x)


class GELU(Patched):
    """GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return gelu(x)."""
        return gelu(x)


class GELUTanh(Patched):
    """GELU's tanh form."""

    def forward(self, x: Tensor) -> Tensor:
        """Return gelu(x) in its tanh form."""
        return gelu(x, "tanh")


GATES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": swiglu,
    "gelu": geglu,
    "gelu_tanh": lambda gate, up: geglu(gate, up, "tanh"),
    "relu": reglu,
    "sigmoid": glu,
}
_PARTS: dict[str, type[Patched]] = {"silu": SiLU, "gelu": GELU, "gelu_tanh": GELUTanh, "relu": ReLU}


def activation_name(module: Any) -> str | None:
    """Return which of our activations a module computes.

    Args:
        module: An activation module, patched or not.

    Returns:
        A key of the gates, or None for another activation.
    """
    original = getattr(module, "steepest_original", type(module))
    name = original.__name__
    if original.__module__ == "transformers.activations":
        if name == "GELUActivation":
            return "gelu" if module.act is F.gelu else None
        if name == "GELUTanh":
            return "gelu_tanh" if isinstance(module.act, functools.partial) else None
        return {"SiLUActivation": "silu", "NewGELUActivation": "gelu_tanh"}.get(name)
    if original is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    return {nn.SiLU: "silu", nn.ReLU: "relu", nn.Sigmoid: "sigmoid"}.get(original)


def activation_part(module: nn.Module) -> type[Patched] | None:
    """Return what takes an activation module's place, or None where there is no kernel for it.

    Args:
        module: An activation module.
    """
    name = activation_name(module)
    return None if name is None or getattr(module, "inplace", False) else _PARTS.get(name)


class GatedMLP(Patched):
    """`down_proj(act(gate_proj(x)) * up_proj(x))` with activation and product in one sweep each way."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module
    act_fn: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """Apply the feed-forward to each position of x, shape (..., width)."""
        name = None if has_hooks(self.act_fn) else activation_name(self.act_fn)
        gate, up = self.gate_proj(x), self.up_proj(x)
        if name is None or gate.dtype != up.dtype:
            return self.down_proj(self.act_fn(gate) * up)
        return self.down_proj(GATES[name](gate, up))
