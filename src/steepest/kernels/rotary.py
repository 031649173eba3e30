# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding in the half-split layout, from strided heads to contiguous ones in one sweep."""

from typing import Any

import torch
from torch import Tensor

from steepest.kernels._elementwise import MEMORY, same
from steepest.kernels._llvm import f32_pointer, fma
from steepest.kernels._op import DTYPES, KERNEL, OPERATOR, check_floating, define, needs_grad, route
from steepest.kernels._pool import spread
from steepest.kernels._registry import specialize

pointer: Any = f32_pointer
widen: Any = same
narrow: Any = same

__all__ = ["rotary"]


def _rotary(
    x_address, cos_address, sin_address, y_address, distance, head_distance, heads, half, angles, angle_width, sign,
    start, stop,
):  # fmt: skip
    x, cos, sin, y = pointer(x_address), f32_pointer(cos_address), f32_pointer(sin_address), pointer(y_address)
    for row in range(start, stop):
        c = (row % angles) * angle_width
        for head in range(heads):
            a, b = row * distance + head * head_distance, (row * heads + head) * 2 * half
            for i in range(half):
                first, second = widen(x[a + i]), widen(x[a + half + i])
                turn = sign * sin[c + i]
                y[b + i] = narrow(fma(first, cos[c + i], -second * turn))
                y[b + half + i] = narrow(fma(second, cos[c + i], first * turn))


_KERNELS = {
    d: specialize(_rotary, f"void({10 * 'intp, '}float32, intp, intp)", f"rotary_{s}", **MEMORY[s])
    for d, s in DTYPES.items()
}


def _positions(x: Tensor) -> tuple[Tensor, int]:
    """Return x and the distance between its (batch, time) positions, copied only if they have none in common."""
    distance = span = None
    for size, stride in zip(reversed(x.shape[:-2]), reversed(x.stride()[:-2]), strict=True):
        if size != 1:
            if distance is None:
                distance = stride
            elif stride != span:
                break
            span = stride * size
    else:
        if x.stride(-1) == 1:
            return x, distance or 0
    return x.contiguous(), x.shape[-1] * x.shape[-2]


def _run(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> Tensor:
    y = torch.empty(x.shape, dtype=x.dtype, device="cpu")
    if not x.numel():
        return y
    x, distance = _positions(x)
    heads, size = x.shape[-2:]
    cos, sin = cos.float().contiguous(), sin.float().contiguous()
    addresses = (t.data_ptr() for t in (x, cos, sin, y))
    shape = (distance, x.stride(-2), heads, size // 2, cos.numel() // cos.shape[-1], cos.shape[-1])
    rows = x.numel() // (heads * size)
    spread(_KERNELS[x.dtype].run, rows, 0.25 * heads * size, *addresses, *shape, -1.0 if inverse else 1.0)
    return y


def _plain(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> Tensor:
    half = x.shape[-1] // 2
    wide = x if x.dtype == torch.float64 else x.float()
    first, second = wide[..., :half], wide[..., half:]
    cos, sin = (t[..., :half].unsqueeze(-2).to(wide.dtype) for t in (cos, sin))
    sin = -sin if inverse else sin
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return turned.to(x.dtype).contiguous()


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:3])
    ctx.inverse = inputs[3]


def _operator_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return torch.ops.steepest.rotary(grad, *ctx.saved_tensors, not ctx.inverse), None, None, None


def _batched(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    each = [
        torch.ops.steepest.rotary(*(a if d is None else a.select(d, i) for a, d in zip(args, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    return torch.stack(each), 0


_OPERATOR = define(
    "rotary(Tensor x, Tensor cos, Tensor sin, bool inverse=False) -> Tensor",
    lambda x, cos, sin, inverse=False: _run(x, cos, sin, inverse),
    fake=lambda x, cos, sin, inverse=False: x.new_empty(x.shape),
    backward=_operator_backward,
    setup_context=_save,
    vmap=_batched,
)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.inverse = inverse
        return _run(x, cos, sin, inverse)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        # Rotation is linear and its adjoint is the rotation back, so this is right to any order.
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, not ctx.inverse), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> Tensor:
    way = route(x, cos, sin)
    if way is KERNEL:
        return _Function.apply(x, cos, sin, inverse) if needs_grad(x) else _run(x, cos, sin, inverse)  # pyright: ignore[reportReturnType]
    return _OPERATOR(x, cos, sin, inverse) if way is OPERATOR else _plain(x, cos, sin, inverse)


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    r"""Rotate the pairs $(x_i, x_{i + d/2})$ of each head by the angles of its position.

    $y_i = x_i \cos_i - x_{i + d/2} \sin_i$ and $y_{i + d/2} = x_{i + d/2} \cos_i + x_i \sin_i$ for $i < d/2$: the
    layout of Llama in the transformers library.

    Args:
        x: Queries or keys (..., time, heads, head_size), head_size even. A view into a packed projection, such as
            `qkv.unflatten(-1, (3, heads, head_size))[:, :, 0]`, is read where it is.
        cos: Cosines (time, head_size / 2), or with x's batch dimensions in front; or of last dimension head_size with
            equal halves, of which the first is read. A constant: no gradient is computed for it.
        sin: Sines, like cos.

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If shapes or devices do not fit, or cos or sin requires a gradient.

    Numerics:
        Angles are read as float32, arithmetic is float32 with one fused step, rounded once for 16-bit x; float64 x is
        computed in float64. The backward pass is the inverse rotation and keeps cos and sin alone.

    Example:
        >>> import torch
        >>> from steepest.functional import rotary
        >>> angle = torch.tensor([[0.0], [torch.pi / 2]])
        >>> rotary(torch.ones(2, 1, 2), angle.cos(), angle.sin())[:, 0]
        tensor([[ 1.,  1.],
                [-1.,  1.]])

    References:
        Su et al. (2021), RoFormer: enhanced transformer with rotary position embedding, arXiv 2104.09864, eq. 34.
        Deviation: halves in place of interleaved pairs, a permutation of the head's dimensions.
    """
    for operand in (x, cos, sin):
        check_floating(operand, "rotary")
    if x.dim() < 3 or x.shape[-1] % 2:
        raise ValueError(f"rotary expects x (..., time, heads, head_size) with even head_size, got {tuple(x.shape)}")
    size, leading = x.shape[-1], x.shape[:-2]
    if (
        cos.shape != sin.shape
        or cos.shape[-1] not in {size, size // 2}
        or cos.shape[:-1] not in {leading, leading[-1:]}
    ):
        raise ValueError(
            f"rotary expects cos and sin of shape {(*leading[-1:], size // 2)}, with x's batch dimensions or not, got "
            f"{tuple(cos.shape)} and {tuple(sin.shape)}; expand or slice them"
        )
    if cos.device != x.device or sin.device != x.device:
        raise ValueError(f"rotary expects cos and sin on {x.device}, got {cos.device} and {sin.device}; move them")
    if cos.requires_grad or sin.requires_grad:
        raise ValueError("rotary takes cos and sin as constants, got one that requires a gradient; detach it")
    return _turn(x, cos, sin, False)
