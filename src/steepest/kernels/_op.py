# SPDX-License-Identifier: Apache-2.0
"""The ways a public function reaches its kernel: directly, through autograd, or as an operator of torch.library.

route(x, ...) is KERNEL    eager CPU tensors that a kernel may read as memory
route(x, ...) is OPERATOR  torch.compile, fake tensors, make_fx and other dispatch modes: call `torch.ops.steepest.*`
route(x, ...) is PLAIN     anything else (other device or dtype, vmap, torch.func, forward mode, subclasses): the
                           same mathematics written in torch, differentiable to any order
"""

from collections.abc import Callable
from enum import Enum
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from steepest.kernels import _llvm
from steepest.kernels._memory import empty_like

_LIBRARY = torch.library.Library("steepest", "FRAGMENT")
#: What a kernel may see; a subclass has its own idea of every operation.
ORDINARY = frozenset((Tensor, torch.nn.Parameter))
_is_transformed: Callable[[Tensor], bool] = getattr(torch._C, "_functorch").is_functorch_wrapped_tensor  # noqa: B009  untyped
_transforms_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active")  # noqa: B009  untyped
_STRIDED = torch.strided
_modes = torch._C._len_torch_dispatch_stack
_tracing = torch._C._is_tracing

#: Dtypes with kernels. float16 needs a CPU that can widen it.
DTYPES: dict[torch.dtype, str] = {torch.float32: "f32", torch.bfloat16: "bf16"}
if _llvm.HAS_FLOAT16:
    DTYPES[torch.float16] = "f16"


class Route(Enum):
    """Where a call goes; see the module's docstring."""

    KERNEL = "kernel"
    OPERATOR = "operator"
    PLAIN = "plain"


KERNEL, OPERATOR, PLAIN = Route.KERNEL, Route.OPERATOR, Route.PLAIN


def route(x: Tensor, *others: Tensor) -> Route:
    """Return how a call with these tensors reaches its kernel.

    Args:
        x: The operand that decides dtype and device.
        *others: The other floating-point operands.

    Returns:
        KERNEL only if every tensor is ordinary strided CPU memory of a supported dtype, seen by no transform.
    """
    # Every line here is paid by the smallest call: 20 to 80 ns each. So the first tensor is no turn of the loop.
    if x.dtype not in DTYPES or not x.is_cpu:
        return PLAIN
    if is_compiling():
        return OPERATOR
    if forward_ad._current_level >= 0:  # a tangent would be dropped
        return PLAIN
    if type(x) not in ORDINARY:
        return OPERATOR if _modes() else PLAIN
    if _is_transformed(x) or x.layout is not _STRIDED or x.is_neg():
        return PLAIN
    for tensor in others:
        if type(tensor) not in ORDINARY:
            return OPERATOR if _modes() else PLAIN
        if _is_transformed(tensor) or tensor.layout is not _STRIDED or tensor.is_neg():
            return PLAIN
    return OPERATOR if _modes() or _tracing() else KERNEL


def needs_grad(*tensors: Tensor) -> bool:
    """Return whether autograd must see this call.

    Args:
        *tensors: Operands.

    Returns:
        Gradient mode and any of them requiring a gradient.
    """
    for tensor in tensors:
        if tensor.requires_grad:
            return torch.is_grad_enabled()
    return False


def applied(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return a function's `apply` without what only `torch.func` needs: a microsecond less.

    Args:
        function: An autograd function with no `setup_context`.

    Returns:
        A callable for ordinary tensors; where a transform is active it is `function.apply`.
    """
    quick: Callable[..., Any] = getattr(super(torch.autograd.Function, function), "apply")  # noqa: B009  untyped

    def apply(*args: Any) -> Any:
        return function.apply(*args) if _transforms_active() else quick(*args)

    return apply


def check_floating(x: object, function: str) -> None:
    """Raise unless x is a real floating-point tensor.

    Args:
        x: The operand.
        function: Public name, for the message.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{function} expects a torch.Tensor, got {type(x).__name__}; wrap it in torch.tensor(...)")
    if not x.is_floating_point():
        raise TypeError(f"{function} expects a floating-point tensor, got {x.dtype}; convert it with .float()")


def define(
    schema: str,
    cpu: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
    vmap: Callable[..., Any] | None = None,
) -> Any:
    """Define `torch.ops.steepest.<name>`: half the call overhead of `torch.library.custom_op`.

    Args:
        schema: As for `torch.library.define`, without the namespace: `"exp(Tensor x) -> Tensor"`.
        cpu: Implementation on real tensors; outputs must be new tensors.
        fake: Shapes, strides and dtypes of the outputs.
        backward: As for `torch.library.register_autograd`; built from differentiable operators.
        setup_context: As for `torch.library.register_autograd`.
        vmap: As for `torch.library.register_vmap`.

    Returns:
        The operator.
    """
    name = schema.partition("(")[0]
    qualified = f"steepest::{name}"
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, cpu, "CPU")
    torch.library.register_fake(qualified, fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(qualified, backward, setup_context=setup_context, lib=_LIBRARY)
    if vmap is not None:
        torch.library.register_vmap(qualified, vmap, lib=_LIBRARY)
    return getattr(torch.ops.steepest, name).default


def like(x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Return a new output laid out as `empty_like(x)`, then every operand in that same layout.

    The layout is dense, so an elementwise kernel may walk all of them as flat memory of `x.numel()` elements. An
    operand is copied only if its strides differ; x itself then shares the output's memory, which a kernel that reads
    element i before writing element i may do.

    Args:
        x: First operand.
        *others: Further operands of the same shape and dtype.

    Returns:
        output, x, *others.
    """
    output = empty_like(x)
    if x.is_contiguous() and all(other.is_contiguous() for other in others):
        return output, x, *others
    strides = output.stride()
    same = x if x.stride() == strides else output.copy_(x)
    return output, same, *(o if o.stride() == strides else torch.empty_like(output).copy_(o) for o in others)
