# SPDX-License-Identifier: Apache-2.0
"""Muon: steepest descent under the spectral norm, with momentum, on matrices of equal shape at once."""

import math
import sys
from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.geometry.polar_iteration import published_iteration

Polar = Callable[[Tensor], Tensor]


def muon_direction_(
    grad: Float[Tensor, "batch m n"],
    momentum_buffer: Float[Tensor, "batch m n"],
    *,
    momentum: float,
    nesterov: bool = True,
) -> Float[Tensor, "batch m n"]:
    r"""Update the momentum in place and return the matrices whose polar factor is the step.

    $B \leftarrow \mu B + (1 - \mu) G$; the result is $\mu B + (1 - \mu) G$ with Nesterov's look-ahead, $B$ without.

    Args:
        grad: Gradients $G$; not changed.
        momentum_buffer: $B$, changed in place.
        momentum: $\mu$ in [0, 1).
        nesterov: Look one step ahead.

    Returns:
        Shape of `grad`.

    References:
        Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks.
    """
    momentum_buffer.lerp_(grad, 1 - momentum)
    return grad.lerp(momentum_buffer, momentum) if nesterov else momentum_buffer.clone()


def spectral_lr_scale(rows: int, columns: int) -> float:
    r"""Return $\sqrt{\max(1, m/n)}$, which gives steps of a tall matrix the size that suits a square one.

    Args:
        rows: Outputs $m$ of the layer.
        columns: Inputs $n$ of the layer.
    """
    return math.sqrt(max(1.0, rows / columns))


@final
class Muon(torch.optim.Optimizer):
    r"""Steepest descent under the spectral norm with momentum, for the hidden matrices of a network.

    $W \leftarrow (1 - \eta \lambda) W - \eta \sqrt{\max(1, m/n)}\, \mathrm{polar}(\mu B + (1 - \mu) G)$. Matrices of
    the same shape are stepped together. Sharded matrices (FSDP2) are gathered one group at a time, for a polar factor
    needs the whole matrix.

    Args:
        params: Two-dimensional parameters, or parameter groups of them.
        lr: Learning rate $\eta$ above 0.
        momentum: $\mu$ in [0, 1).
        weight_decay: $\lambda$, decoupled, times the learning rate.
        nesterov: Look one step ahead.
        polar: Polar factor of a batch of matrices; None takes five Newton-Schulz steps with Muon's published
            coefficients in bfloat16.

    Raises:
        ValueError: If a number is out of range, or a parameter is not a real floating-point matrix.

    References:
        Jordan et al. (2024), Muon: an optimizer for hidden layers in neural networks. Deviation: matrices of equal
        shape are one batch.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        nesterov: bool = True,
        polar: Polar | None = None,
    ) -> None:
        if not 0 < lr < math.inf:
            raise ValueError(f"lr: expected a finite number above 0, got {lr}")
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum: expected a number in [0, 1), got {momentum}")
        if not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay: expected a finite number of at least 0, got {weight_decay}")
        self.polar = polar or published_iteration("muon").with_compute(torch.bfloat16)
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2 or not parameter.is_floating_point():
                    raise ValueError(
                        f"Muon steps real matrices, got a parameter of shape {tuple(parameter.shape)} and "
                        f"{parameter.dtype}; give vectors, embeddings and convolutions to another optimizer"
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Computes the loss and the gradients again, if given.

        Returns:
            What the closure returned; None without one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for members in _by_shape(p for p in group["params"] if p.grad is not None):
                self._step_together(members, group)
        return loss

    def _step_together(self, parameters: list[Any], group: dict[str, Any]) -> None:
        targets = []
        for parameter in parameters:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            assert parameter.grad is not None
            target: Any = muon_direction_(
                parameter.grad, state["momentum_buffer"], momentum=group["momentum"], nesterov=group["nesterov"]
            )
            targets.append(target.full_tensor() if _is_sharded(target) else target)
        directions = self.polar(torch.stack(targets))
        scale = group["lr"] * spectral_lr_scale(*parameters[0].shape)
        for parameter, direction in zip(parameters, directions, strict=True):
            if group["weight_decay"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            if _is_sharded(parameter):
                mesh, placements = parameter.device_mesh, parameter.placements
                direction = _dtensor().distribute_tensor(direction, mesh, placements, src_data_rank=None)
            parameter.add_(direction, alpha=-scale)


def _dtensor() -> Any:
    """The module of distributed tensors if anybody has imported it (it takes half a second), else None."""
    return sys.modules.get("torch.distributed.tensor")


def _is_sharded(tensor: Any) -> bool:
    module = _dtensor()
    return module is not None and isinstance(tensor, module.DTensor)


def _by_shape(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    groups: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
    for parameter in parameters:
        groups.setdefault((parameter.shape, parameter.dtype), []).append(parameter)
    return list(groups.values())
