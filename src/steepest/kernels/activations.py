# SPDX-License-Identifier: Apache-2.0
"""ReLU, JumpReLU, Swish with a learnable slope, SiLU and both forms of GELU, forward and backward in one sweep each.

16-bit tensors are computed in float32 and rounded once; autocast changes nothing; float64 and other devices take the
same mathematics in torch. The backward pass keeps the inputs alone.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from steepest.kernels import _gates
from steepest.kernels._elementwise import MEMORY, Elementwise, same
from steepest.kernels._erf import gelu_f32
from steepest.kernels._fused import Fused
from steepest.kernels._llvm import copysign, f32_pointer, fabs, fma, min_or_second, select
from steepest.kernels._op import DTYPES, check_floating
from steepest.kernels._pool import spread
from steepest.kernels._registry import device, specialize
from steepest.kernels._rows import RUN, accumulate, as_rows

__all__ = ["gelu", "jumprelu", "relu", "silu", "swish"]


@device
def _relu_gradient(grad, x):
    return select(x > _gates.F32(0), grad, _gates.F32(0))


@device
def _silu_gradient(grad, x):
    return grad * _gates.silu_slope(x)[1]


@device
def _gelu_gradient(grad, x):
    return grad * _gates.gelu_slope(x)[1]


@device
def _gelu_tanh_gradient(grad, x):
    return grad * _gates.gelu_tanh_slope(x)[1]


_RELU = Elementwise(
    "relu",
    value=_gates.relu,
    gradient=_relu_gradient,
    plain=torch.relu,
    plain_slope=lambda x: (x > 0).to(x.dtype),
)
_SILU = Elementwise(
    "silu",
    value=_gates.silu,
    gradient=_silu_gradient,
    plain=_gates.plain_silu,
    plain_slope=_gates.plain_silu_slope,
)
_GELU = Elementwise(
    "gelu",
    value=gelu_f32,
    gradient=_gelu_gradient,
    plain=_gates.plain_gelu,
    plain_slope=_gates.plain_gelu_slope,
)
_GELU_TANH = Elementwise(
    "gelu_tanh",
    value=_gates.gelu_tanh,
    gradient=_gelu_tanh_gradient,
    plain=_gates.plain_gelu_tanh,
    plain_slope=_gates.plain_gelu_tanh_slope,
)

# A function of x and one parameter, either a number for all or one an element of the last dimension.
pointer: Any = f32_pointer
widen: Any = same
narrow: Any = same
value: Any = same
slope: Any = same


@device
def _jump(x, threshold, unused):
    # NaN is not above the threshold, but it must not be hidden.
    return select(x <= threshold, _gates.F32(0), x)


@device
def _jump_slope(x, threshold, bandwidth):
    near = fabs(x - threshold) < _gates.F32(0.5) * bandwidth
    return (
        select(x > threshold, _gates.F32(1), _gates.F32(0)),
        select(near, -threshold / bandwidth, _gates.F32(0)),
    )


@device
def _swish(x, beta, unused):
    inside = copysign(min_or_second(_gates.F32(130), fabs(beta * x)), beta * x)
    s, _ = _gates.sigmoid_parts(inside)
    return select(s == _gates.F32(0), copysign(s, x), x * s)


@device
def _swish_slope(x, beta, unused):
    inside = copysign(min_or_second(_gates.F32(130), fabs(beta * x)), beta * x)
    s, rest = _gates.sigmoid_parts(inside)
    both = s * rest
    pull = select(both == _gates.F32(0), both, x * both)
    return fma(inside, both, s), select(both == _gates.F32(0), both, x * pull)


def _with_parameter(x_address, parameter_address, y_address, distance, width, single, extra, start, stop):
    x, y, parameter = pointer(x_address), pointer(y_address), f32_pointer(parameter_address)
    for row in range(start, stop):
        a, b = row * distance, row * width
        if single:
            p = parameter[0]
            for i in range(width):
                y[b + i] = narrow(value(widen(x[a + i]), p, extra))
        else:
            for i in range(width):
                y[b + i] = narrow(value(widen(x[a + i]), parameter[i], extra))


def _with_parameter_gradient(
    grad_address, x_address, parameter_address, out_address, partial_address, distance, width, rows, block_rows, single,
    extra, start, stop,
):  # fmt: skip
    grad, x, parameter = pointer(grad_address), pointer(x_address), f32_pointer(parameter_address)
    out, partial = pointer(out_address), f32_pointer(partial_address)
    for block in range(start, stop):
        e = block * width
        if not single:
            for i in range(width):
                partial[e + i] = _gates.F32(0)
        total = 0.0
        for row in range(block * block_rows, min((block + 1) * block_rows, rows)):
            a, b = row * distance, row * width
            if single:
                p = parameter[0]
                for first in range(0, width, RUN):
                    lanes = _gates.F32(0)
                    for i in range(first, min(first + RUN, width)):
                        g = widen(grad[b + i])
                        by_x, by_p = slope(widen(x[a + i]), p, extra)
                        out[b + i] = narrow(g * by_x)
                        lanes = accumulate(lanes, g, by_p)
                    total += lanes
            else:
                for i in range(width):
                    g = widen(grad[b + i])
                    by_x, by_p = slope(widen(x[a + i]), parameter[i], extra)
                    out[b + i] = narrow(g * by_x)
                    partial[e + i] = fma(g, by_p, partial[e + i])
        if single:
            partial[block] = _gates.F32(total)


_ELEMENTS_PER_BLOCK = 1 << 16


class WithParameter:
    """An elementwise function of x and a learnable parameter, on every route.

    Args:
        name: Public name.
        value: Device function (x, parameter, extra) -> value, float32.
        slope: Device function (x, parameter, extra) -> (derivative by x, derivative by parameter).
        plain: (x, parameter, extra) in torch, differentiable to any order.
        parameter: Name of the parameter.
    """

    def __init__(self, name: str, *, value: Any, slope: Any, plain: Any, parameter: str) -> None:
        forward = f"void({6 * 'intp, '}float32, intp, intp)"
        backward = f"void({10 * 'intp, '}float32, intp, intp)"
        self._value = {
            d: specialize(_with_parameter, forward, f"{name}_{s}", value=value, **MEMORY[s]) for d, s in DTYPES.items()
        }
        self._slope = {
            d: specialize(_with_parameter_gradient, backward, f"{name}_gradient_{s}", slope=slope, **MEMORY[s])
            for d, s in DTYPES.items()
        }
        self.fused = Fused(
            name,
            tensors=("x", parameter),
            constants=("float extra",),
            run=self.run,
            run_gradient=self.run_gradient,
            plain=lambda x, p, extra: plain(x, p, extra).to(x.dtype).contiguous(),
            fake=lambda x, p, extra: x.new_empty(x.shape),
            fake_gradient=lambda grad, x, p, extra: (x.new_empty(x.shape), p.new_empty(p.shape)),
        )
        self.name, self.parameter = name, parameter

    def run(self, x: Tensor, parameter: Tensor, extra: float) -> Tensor:
        """Return the value by the kernel, without autograd."""
        y = x.new_empty(x.shape)
        x, distance, width = self._rows(x, parameter)
        kept = parameter.float().contiguous()
        run, single = self._value[x.dtype].run, int(parameter.dim() == 0)
        addresses = (x.data_ptr(), kept.data_ptr(), y.data_ptr())
        spread(run, x.numel() // max(width, 1), 0.7 * width, *addresses, distance, width, single, extra)
        return y

    def run_gradient(self, grad: Tensor, x: Tensor, parameter: Tensor, extra: float) -> tuple[Tensor, Tensor]:
        """Return both gradients by the kernel, without autograd."""
        out, grad = x.new_empty(x.shape), grad.contiguous()
        x, distance, width = self._rows(x, parameter)
        kept, single = parameter.float().contiguous(), parameter.dim() == 0
        rows = x.numel() // max(width, 1)
        block = max(1, _ELEMENTS_PER_BLOCK // max(width, 1)) if single else 32
        blocks = -(-rows // block)
        partial = torch.empty((blocks,) if single else (blocks, width), dtype=torch.float32)
        addresses = (t.data_ptr() for t in (grad, x, kept, out, partial))
        run = self._slope[x.dtype].run
        spread(run, blocks, 0.9 * width * block, *addresses, distance, width, rows, block, int(single), extra)
        return out, partial.sum(0, dtype=torch.float64).to(parameter.dtype)

    @staticmethod
    def _rows(x: Tensor, parameter: Tensor) -> tuple[Tensor, int, int]:
        if parameter.dim() == 0 and (x.dim() < 2 or x.is_contiguous()):
            # Any split into rows will do: pieces of 4096 where they fit.
            x = x.contiguous()
            width = next((w for w in (4096, 1024, 256) if x.numel() and x.numel() % w == 0), x.numel())
            return x, width, width
        x, distance = as_rows(x)
        return x, distance, x.shape[-1]

    def __call__(self, x: Tensor, parameter: Tensor | float, extra: float) -> Tensor:
        """Return the function, after checking its operands."""
        check_floating(x, self.name)
        if not isinstance(parameter, Tensor):
            parameter = torch.tensor(float(parameter), dtype=torch.promote_types(x.dtype, torch.float32)).to(x.device)
        check_floating(parameter, self.name)
        if parameter.dim() and (parameter.dim() != 1 or x.dim() == 0 or parameter.shape != x.shape[-1:]):
            raise ValueError(
                f"{self.name} expects {self.parameter} to be a number, a tensor without dimensions, or one of shape "
                f"{tuple(x.shape[-1:])} (one for each feature of x), got shape {tuple(parameter.shape)}; reshape it"
            )
        if parameter.device != x.device:
            raise ValueError(f"{self.name} expects {self.parameter} on {x.device}, got {parameter.device}; move it")
        return self.fused(x, parameter, extra)


class _PlainJump(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        return torch.where(x <= threshold, torch.zeros_like(x), x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])
        ctx.bandwidth = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, threshold = ctx.saved_tensors
        by_x, by_threshold = _plain_jump_slopes(x, threshold, ctx.bandwidth)
        return grad * by_x, (grad * by_threshold).sum_to_size(threshold.shape), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, threshold = ctx.saved_tensors
        slopes = _plain_jump_slopes(x, threshold, ctx.bandwidth)
        return sum((s * t for s, t in zip(slopes, tangents, strict=False) if t is not None), torch.zeros_like(x))


def _plain_jump_slopes(x: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
    near = ((x - threshold).abs() < 0.5 * bandwidth).to(x.dtype)
    return (x > threshold).to(x.dtype), near * (-threshold / bandwidth)


_JUMPRELU = WithParameter("jumprelu", value=_jump, slope=_jump_slope, plain=_PlainJump.apply, parameter="threshold")
_SWISH = WithParameter(
    "swish", value=_swish, slope=_swish_slope, plain=lambda x, beta, _: _gates.plain_swish(x, beta), parameter="beta"
)


def relu(x: Tensor) -> Tensor:
    r"""Return $\max(x, 0)$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Exact. NaN stays NaN. The slope at 0 is 0.

    Example:
        >>> import torch
        >>> from steepest.functional import relu
        >>> relu(torch.tensor([-1.0, 0.0, 2.0]))
        tensor([0., 0., 2.])
    """
    return _RELU(x)


def jumprelu(x: Tensor, threshold: Tensor | float, bandwidth: float = 1e-3) -> Tensor:
    r"""Return x where $x > \theta$ and 0 elsewhere, with a straight-through gradient for the threshold.

    The true derivative by the threshold is 0 almost everywhere. What is returned for it is the derivative of the
    expected loss estimated with a rectangle kernel: $-\frac{\theta}{\varepsilon} 1[|x - \theta| < \varepsilon / 2]$.

    Args:
        x: Floating-point tensor (..., features).
        threshold: $\theta$, a number, a tensor without dimensions, or one of shape (features,).
        bandwidth: Width $\varepsilon$ of the rectangle, positive.

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If the threshold's shape or device does not fit, or the bandwidth is not positive and finite.

    Numerics:
        Exact; NaN stays NaN. x equal to the threshold gives 0. The threshold is read as float32 for 16-bit x; its
        gradient is added in float32 over blocks and in float64 across them, the same bits for any number of threads.

    Example:
        >>> import torch
        >>> from steepest.functional import jumprelu
        >>> jumprelu(torch.tensor([-1.0, 0.5, 2.0]), 0.5)
        tensor([0., 0., 2.])

    References:
        Rajamanoharan et al. (2024), Jumping ahead: improving reconstruction fidelity with JumpReLU sparse autoencoders,
        arXiv 2407.14435, eq. 11.
    """
    if not 0 < bandwidth < float("inf"):
        raise ValueError(f"jumprelu expects a positive finite bandwidth, got {bandwidth}")
    return _JUMPRELU(x, threshold, float(bandwidth))


def swish(x: Tensor, beta: Tensor | float = 1.0) -> Tensor:
    r"""Return $x \, \sigma(\beta x)$ with a learnable $\beta$.

    Args:
        x: Floating-point tensor (..., features).
        beta: A number, a tensor without dimensions, or one of shape (features,).

    Returns:
        A new contiguous tensor of x's shape and dtype.

    Raises:
        TypeError: If an operand is not a floating-point tensor.
        ValueError: If beta's shape or device does not fit.

    Numerics:
        The rounding of beta x adds |beta x| / 2 ulp for negative beta x; otherwise within 4 ulp in float32. beta's
        gradient is added in float32 over blocks and in float64 across them, the same bits for any number of threads.

    Example:
        >>> import torch
        >>> from steepest.functional import swish
        >>> swish(torch.tensor([-1.0, 0.0, 2.0]), torch.tensor(2.0))
        tensor([-0.1192,  0.0000,  1.9640])

    References:
        Ramachandran, Zoph and Le (2017), Searching for activation functions, arXiv 1710.05941.
    """
    return _SWISH(x, beta, 0.0)


def silu(x: Tensor) -> Tensor:
    r"""Return $x / (1 + e^{-x})$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.

    Numerics:
        Within 2 ulp of the exact value for every float32 x, tails and subnormal results included; -0 at -inf.

    Example:
        >>> import torch
        >>> from steepest.functional import silu
        >>> silu(torch.tensor([-100.0, 0.0, 1.0]))
        tensor([-3.7835e-42,  0.0000e+00,  7.3106e-01])
    """
    return _SILU(x)


def gelu(x: Tensor, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    r"""Return $x \, \Phi(x)$, or its tanh form $x (1 + \tanh(\sqrt{2 / \pi} (x + 0.044715 x^3))) / 2$, elementwise.

    Args:
        x: Floating-point tensor of any shape, layout and device.
        approximate: "none" or "tanh".

    Returns:
        A new tensor of x's shape, dtype and layout.

    Raises:
        TypeError: If x is not a floating-point tensor.
        ValueError: If approximate is not one of the two.

    Numerics:
        Within 2 ulp of the exact value of either form for every float32 x, tails and subnormal results included: the
        first is computed as $x \, \mathrm{erfc}(-x / \sqrt 2) / 2$, the second as $x$ times a sigmoid. -0 at -inf.

    Example:
        >>> import torch
        >>> from steepest.functional import gelu
        >>> gelu(torch.tensor([-10.0, 0.0, 1.0]))
        tensor([-7.6199e-23,  0.0000e+00,  8.4134e-01])

    References:
        Hendrycks and Gimpel (2016), Gaussian error linear units, arXiv 1606.08415.
    """
    if approximate not in {"none", "tanh"}:
        raise ValueError(f"gelu expects approximate='none' or 'tanh', got {approximate!r}")
    return (_GELU if approximate == "none" else _GELU_TANH)(x)
