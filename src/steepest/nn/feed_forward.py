# SPDX-License-Identifier: Apache-2.0
"""The feed-forward of a transformer block, gated or not, with a choice of what is kept for backward."""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from steepest import functional
from steepest.nn.activation import ACTIVATIONS, activation
from steepest.optim.options import one_of
from steepest.optim.rule import check

__all__ = ["FeedForward", "GatedFeedForward", "feed_forward", "gated_width"]

Memory = Literal["save", "recompute"]

_GATES: dict[str, Callable[..., Tensor]] = {
    "glu": functional.glu,
    "bilinear": functional.bilinear,
    "reglu": functional.reglu,
    "geglu": functional.geglu,
    "geglu_tanh": lambda gate, up=None: functional.geglu(gate, up, "tanh"),
    "swiglu": functional.swiglu,
}

#: Kinds of `GatedFeedForward` and of `FeedForward`.
GATED, UNGATED = tuple(_GATES), ACTIVATIONS

_innermost_transform: Callable[[], object] = getattr(torch._C, "_functorch").peek_interpreter_stack  # noqa: B009  untyped

#: float16 holds less than 2^16; a row is scaled down so far that rounding cannot take it there.
_FLOAT16_EXPONENT = 15


def gated_width(width: int, *, ungated: int | None = None, multiple_of: int = 32) -> int:
    """Return the inner width at which a gated feed-forward has as many parameters as an ungated one.

    The gated one has three matrices instead of two, so it gets two thirds of the width.

    Args:
        width: Size of the residual stream.
        ungated: Inner width of the ungated one; None means 4 x `width`.
        multiple_of: The result is rounded up to a multiple of this, for the matrix multiplication's sake.

    Returns:
        The smallest multiple of `multiple_of` not below 2/3 x `ungated`.

    Example:
        >>> gated_width(768), gated_width(4096, multiple_of=256)
        (2048, 11008)

    References:
        Shazeer (2020), GLU variants improve Transformer, arXiv 2002.05202, section 2.
    """
    inner = 4 * width if ungated is None else ungated
    return -(-2 * inner // (3 * multiple_of)) * multiple_of


class _Block(nn.Module, ABC):
    """What both kinds share: sizes, checks, and what is kept for backward between the first products and the last."""

    down_proj: nn.Linear

    def __init__(self, kind: str, width: int, hidden: int, memory: Memory) -> None:
        super().__init__()
        one_of("memory", memory, ("save", "recompute"))
        check("width", width, 1, float("inf"))
        check("hidden", hidden, 1, float("inf"))
        self.kind, self.width, self.hidden, self.memory = kind, width, hidden, memory

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """Apply the feed-forward to each position.

        Args:
            x: Floating-point activations; any layout, empty batches too.

        Returns:
            The same shape, in the dtype of the products.

        Raises:
            ValueError: If the last dimension is not `width`.
            TypeError: If x is not floating-point or has another dtype than the weights without autocast.
        """
        _check_input(x, self.width, self.down_proj, self.kind)
        return _remember(self.memory, self._finish, *self._begin(x))

    @abstractmethod
    def _begin(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the first products."""

    @abstractmethod
    def _activate(self, *hidden: Tensor) -> Tensor:
        """Return what the last product reads."""

    def _finish(self, *hidden: Tensor) -> Tensor:
        return _project(self.down_proj, self._activate, *hidden)


@final
class FeedForward(_Block):
    r"""Ungated feed-forward, $W_2\, a(W_1 x)$.

    Args:
        kind: Activation $a$: `"relu"`, `"gelu"`, `"gelu_tanh"`, `"silu"`, or with learnable coefficients of its own
            `"swish"`, `"polyrelu"`, `"polynorm"`.
        width: Size of the residual stream.
        hidden: Inner width; None means 4 x `width`.
        bias: Add biases; T5 and Llama have none.
        memory: What is kept for backward besides the input. `"save"`: what the activation read and what it gave, 2
            `hidden` numbers a position. `"recompute"`: the first alone, half of it, for one more sweep of the
            activation (no matrix product is repeated); the gradients have the same bits.

    Raises:
        ValueError: If the kind or the policy is unknown or a size is below 1.

    Numerics:
        With float16 the activation is computed and scaled in float32, so a hidden value beyond 65504 does no harm if
        the output fits; the product with $W_1$ itself must stay below that.

    Example:
        >>> FeedForward("relu", 8)(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 8])

    References:
        Vaswani et al. (2017), Attention is all you need, arXiv 1706.03762. Raffel et al. (2019), Exploring the limits
        of transfer learning with a unified text-to-text transformer, arXiv 1910.10683 (without biases).
    """

    def __init__(
        self, kind: str, width: int, hidden: int | None = None, *, bias: bool = False, memory: Memory = "save"
    ) -> None:
        hidden = 4 * width if hidden is None else hidden
        super().__init__(kind, width, hidden, memory)
        self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.activation = activation(kind)
        self.down_proj = nn.Linear(hidden, width, bias=bias)

    def _begin(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.up_proj(x),)

    def _activate(self, *hidden: Tensor) -> Tensor:
        return self.activation(*hidden)

    def extra_repr(self) -> str:
        """Return the memory policy for `repr`."""
        return f"memory={self.memory!r}"


@final
class GatedFeedForward(_Block):
    r"""Gated feed-forward, $W_2 (a(W_g x) \odot W_u x)$.

    `state_dict()` has `gate_proj`, `up_proj` and `down_proj`, as Hugging Face's Llama; packed, `gate_up_proj`, whose
    upper half of rows is the gate. Either layout loads into either module.

    Args:
        kind: Gate's activation $a$: `"glu"` (sigmoid), `"bilinear"` (none), `"reglu"`, `"geglu"`, `"geglu_tanh"`,
            `"swiglu"`.
        width: Size of the residual stream.
        hidden: Inner width; None means `gated_width(width, multiple_of=multiple_of)`, which gives the parameters of an
            ungated feed-forward of 4 x `width`.
        multiple_of: The default inner width is rounded up to a multiple of this.
        packed: One projection for gate and up: one matrix product, one tensor.
        bias: Add biases.
        memory: What is kept for backward besides the input. `"save"`: gate, up and their product, 3 `hidden` numbers a
            position. `"recompute"`: gate and up alone, a third less, for one more sweep (no matrix product is
            repeated); the gradients have the same bits.

    Raises:
        ValueError: If the kind or the policy is unknown or a size is below 1.

    Numerics:
        With float16 the product of gate and up is computed and scaled in float32, so a value beyond 65504 does no harm
        if the output fits; gate and up themselves must stay below that.

    Example:
        >>> layer = GatedFeedForward("swiglu", 96)
        >>> sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in FeedForward("relu", 96).parameters())
        True

    References:
        Shazeer (2020), GLU variants improve Transformer, arXiv 2002.05202. The activation is on $W_g$ (its W), where
        Dauphin et al. (2017), Language modeling with gated convolutional networks, arXiv 1612.08083, have it on the
        other projection.
    """

    def __init__(
        self,
        kind: str,
        width: int,
        hidden: int | None = None,
        *,
        multiple_of: int = 32,
        packed: bool = False,
        bias: bool = False,
        memory: Memory = "save",
    ) -> None:
        one_of("kind", kind, GATED)
        check("multiple_of", multiple_of, 1, float("inf"))
        hidden = gated_width(width, multiple_of=multiple_of) if hidden is None else hidden
        super().__init__(kind, width, hidden, memory)
        self.packed = packed
        if packed:
            self.gate_up_proj = nn.Linear(width, 2 * hidden, bias=bias)
        else:
            self.gate_proj = nn.Linear(width, hidden, bias=bias)
            self.up_proj = nn.Linear(width, hidden, bias=bias)
        self.down_proj = nn.Linear(hidden, width, bias=bias)
        self.register_load_state_dict_pre_hook(_translate)

    def _begin(self, x: Tensor) -> tuple[Tensor, ...]:
        return (self.gate_up_proj(x),) if self.packed else (self.gate_proj(x), self.up_proj(x))

    def _activate(self, *hidden: Tensor) -> Tensor:
        return _GATES[self.kind](*hidden)

    def extra_repr(self) -> str:
        """Return the settings for `repr`."""
        return f"{self.kind}, packed={self.packed}, memory={self.memory!r}"


def feed_forward(kind: str, width: int, hidden: int | None = None, **settings: Any) -> FeedForward | GatedFeedForward:
    """Return a gated or ungated feed-forward by the name of its kind.

    Args:
        kind: One of `GATED` or `UNGATED`.
        width: Size of the residual stream.
        hidden: Inner width; None as the classes say.
        settings: Further arguments of the class.

    Returns:
        The module.

    Raises:
        ValueError: If there is no such kind; the near names are given.

    Example:
        >>> feed_forward("reglu", 64).hidden, feed_forward("relu", 64).hidden
        (192, 256)
    """
    check_kind(kind)
    return (GatedFeedForward if kind in GATED else FeedForward)(kind, width, hidden, **settings)


def check_kind(kind: str, name: str = "kind") -> None:
    """Refuse what is no kind of feed-forward.

    Args:
        kind: What was given.
        name: Of the setting, for the message.

    Raises:
        ValueError: With the near names.
    """
    known = (*GATED, *UNGATED)
    if kind not in known:
        near = difflib.get_close_matches(str(kind), known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {kind!r}{hint}")


def _check_input(x: Tensor, width: int, layer: nn.Module, kind: str) -> None:
    if not x.is_floating_point():
        raise TypeError(f"{kind} feed-forward expects floating-point activations, got {x.dtype}; convert them")
    if x.dim() == 0 or x.shape[-1] != width:
        raise ValueError(
            f"{kind} feed-forward of width {width} expects (..., {width}), got shape {tuple(x.shape)}; "
            "transpose it, or make the layer for its last dimension"
        )
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.is_floating_point() and weight.dtype != x.dtype and not _casts(x):
        raise TypeError(
            f"{kind} feed-forward has weights in {weight.dtype}, got activations in {x.dtype}; convert one of them, or "
            "use torch.autocast"
        )


def _casts(x: Tensor) -> bool:
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def _remember(memory: str, function: Callable[..., Tensor], *hidden: Tensor) -> Tensor:
    """Return function(*hidden), with what it computes on the way kept for backward, or computed again there."""
    if memory == "save" or not torch.is_grad_enabled() or _innermost_transform() is not None:
        # torch.func keeps everything: its transforms allow no hooks on saved tensors.
        return function(*hidden)
    result = checkpoint(function, *hidden, use_reentrant=False, preserve_rng_state=False)
    assert isinstance(result, Tensor)
    return result


def _project(down: nn.Module, function: Callable[..., Tensor], *hidden: Tensor) -> Tensor:
    if hidden[0].dtype != torch.float16:
        return down(function(*hidden))
    wide = function(*(part.float() for part in hidden))
    # Exact: a power of two for each row, 1 where the row fits.
    largest = wide.detach().abs().amax(-1, keepdim=True)
    exponent = torch.frexp(largest)[1] - _FLOAT16_EXPONENT
    scale = torch.ldexp(torch.ones_like(largest), exponent.clamp(min=0)).where(largest.isfinite(), 1.0)
    out = down((wide / scale).half())
    bias = getattr(down, "bias", None)
    shift = 0.0 if bias is None else bias.float()
    return ((out.float() - shift) * scale + shift).to(out.dtype).where(scale > 1, out)


def _translate(module: nn.Module, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Bring gate and up into the layout of the module: together if it is packed, apart if not."""
    assert isinstance(module, GatedFeedForward)
    for kind in ("weight", "bias"):
        gate, up, both = (f"{prefix}{name}_proj.{kind}" for name in ("gate", "up", "gate_up"))
        if module.packed and gate in state and up in state:
            state[both] = torch.cat((state.pop(gate), state.pop(up)))
        elif not module.packed and both in state:
            state[gate], state[up] = state.pop(both).chunk(2)
