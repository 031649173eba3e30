# SPDX-License-Identifier: Apache-2.0
"""Schedule-free learning: an average of the iterates takes the place of a falling learning rate."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

from steepest.kernels.untraced import untraced
from steepest.optim.engine import Engine
from steepest.optim.finite import step_is_left_out
from steepest.optim.rule import State, check


@dataclasses.dataclass
class _Weights:
    """The weights of the average of one group: how many, their sum, and the largest learning rate."""

    count: int = 0
    total: float = 0.0
    largest: float = 0.0


@final
class ScheduleFree(torch.optim.Optimizer):
    r"""Makes any optimizer of the library schedule-free.

    $y = (1 - \beta) z + \beta x$; the gradient is taken at $y$, the optimizer steps $z$, and $x$ is the average of $z$:
    $x \leftarrow (1 - c_t)\, x + c_t z$, $c_t = w_t / \sum_{i \le t} w_i$, $w_t = t^r \eta_{\max}^p$ with the largest
    learning rate so far, so that warm-up steps count little.

    `train()` holds $y$ in the parameters, where gradients belong and `step` is allowed; `eval()` holds $x$: evaluate,
    and ship, those. Switching loses nothing: after `eval()` and `train()` the bits are the same.

    Args:
        optimizer: What steps $z$. Its own momentum is seldom needed: `AdamW(..., betas=(0.0, 0.999))`, `SGD(...)`. Its
            weight decay acts at $z$.
        momentum: $\beta$ in (0, 1].
        weight_decay: $\lambda$ of at least 0, acting at $y$: $z \leftarrow z - \eta \lambda y$ besides its step.
        warmup: Steps over which the learning rate rises linearly to the group's, at least 0.
        lr_power: $p$, at least 0.
        step_power: $r$, at least 0.

    Raises:
        TypeError: If the optimizer is not one of this library.
        ValueError: If a number is out of range.

    Numerics:
        One more copy of the weights, in their dtype; of 16-bit weights $x$ is kept too, in float32, since it cannot be
        recovered from a rounded $y$. `eval()` keeps one more copy until `train()`. BatchNorm's statistics belong to
        $y$: recalibrate them after `eval()` with `torch.optim.swa_utils.update_bn`.

    Example:
        >>> import torch
        >>> from steepest.optim import SGD
        >>> w = torch.nn.Parameter(torch.tensor([1.0]))
        >>> optimizer = ScheduleFree(SGD([w], lr=0.5))
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     (w.square() / 2).sum().backward()
        ...     optimizer.step()
        >>> optimizer.eval()
        >>> abs(w.item()) < 0.1
        True

    References:
        Defazio et al. (2024), The road less scheduled, arXiv 2405.15682.
    """

    def __init__(
        self,
        optimizer: Engine,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        warmup: int = 0,
        lr_power: float = 2.0,
        step_power: float = 0.0,
    ) -> None:
        if not isinstance(optimizer, Engine):
            raise TypeError(f"expected an optimizer of steepest.optim, got {type(optimizer).__name__}")
        check("momentum", momentum, 0, 1, closed="(]")
        for name, value in (("weight_decay", weight_decay), ("warmup", warmup)):
            check(name, value, 0, math.inf)
        for name, value in (("lr_power", lr_power), ("step_power", step_power)):
            check(name, value, 0, math.inf)
        self.optimizer = optimizer
        self.momentum, self.weight_decay, self.warmup = momentum, weight_decay, warmup
        self.lr_power, self.step_power = lr_power, step_power
        self.training = True
        self._weights: list[_Weights] = []
        self._points: dict[Tensor, State] = {}
        super().__init__(optimizer.param_groups, {})

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the wrapped optimizer; learning rate schedulers may change them."""
        return self.optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The wrapped optimizer owns them; torch's constructor sets an empty list here."""

    @property
    def state(self) -> Any:
        """The state of the wrapped optimizer."""
        return self.optimizer.state

    @state.setter
    def state(self, state: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The wrapped optimizer owns it."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the wrapped optimizer.

        Args:
            param_group: See `Engine.add_param_group`.
        """
        if not any(param_group is group for group in self.param_groups):
            self.optimizer.add_param_group(param_group)
        self._weights.append(_Weights())

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step.

        Args:
            closure: Computes the loss and the gradients again, at $y$, if given.

        Returns:
            What the closure returned; None without one.

        Raises:
            RuntimeError: After `eval()`: gradients at $x$ are not those of the method.
            ValueError: As the wrapped optimizer does.
        """
        if not self.training:
            raise RuntimeError(
                "the parameters hold the average x; call train() before computing gradients and stepping"
            )
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._take()
        return loss

    @untraced
    def _take(self) -> None:
        if step_is_left_out(self.param_groups):
            self.optimizer.skipped += 1
            return
        moving = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        full = [group["lr"] for group in self.param_groups]
        for group, weights in zip(self.param_groups, self._weights, strict=True):
            ramp = min(1.0, (weights.count + 1) / self.warmup) if self.warmup else 1.0
            group["lr"] = float(group["lr"]) * ramp  # not in place: it may be a tensor
        shares = [0.0] * len(moving)
        for group, members in zip(self.param_groups, moving, strict=True):
            for p in members:
                self._show_z(p, group["lr"])
        try:
            self.optimizer.step()
            shares = [self._next_share(index) if members else 0.0 for index, members in enumerate(moving)]
        finally:
            for group, lr, members, share in zip(self.param_groups, full, moving, shares, strict=True):
                group["lr"] = lr
                for p in members:
                    self._show_y(p, share)

    def _next_share(self, index: int) -> float:
        """$c_t$ of a group."""
        weights, lr = self._weights[index], self.param_groups[index]["lr"]
        weights.count += 1
        weights.largest = max(weights.largest, lr)
        weight = weights.count**self.step_power * weights.largest**self.lr_power
        weights.total += weight
        return weight / weights.total if weights.total else 0.0

    def _show_z(self, p: Tensor, lr: float) -> None:
        """Put z into the parameter; x goes to where z was, unless it has a place of its own."""
        points = self._points.setdefault(p, {})
        if not points:
            points["z"] = p.detach().clone()
            wide = torch.promote_types(p.dtype, torch.float32)
            if wide != p.dtype:
                points["x"] = p.detach().to(wide)
        z = points["z"]
        decayed = z.add(p, alpha=-lr * self.weight_decay) if self.weight_decay else None
        if "x" in points:
            p.copy_(z if decayed is None else decayed)
            return
        x = p.lerp(z, 1 - 1 / self.momentum)
        p.copy_(z if decayed is None else decayed)
        z.copy_(x)

    def _show_y(self, p: Tensor, share: float) -> None:
        """Take the new z out of the parameter into the average, and put y there."""
        points = self._points[p]
        x = points.get("x", points["z"])
        z = p.to(x.dtype, copy=True)
        x.lerp_(z, share)
        p.copy_(x.lerp(z, 1 - self.momentum))
        points["z"].copy_(z)

    @torch.no_grad()
    def eval(self) -> None:
        """Hold the average $x$ in the parameters. Call it before evaluating, and before saving a model to keep."""
        if self.training:
            for p, points in self._points.items():
                points["y"] = p.detach().clone()
                p.copy_(points["x"] if "x" in points else p.lerp(points["z"], 1 - 1 / self.momentum))
        self.training = False

    @torch.no_grad()
    def train(self) -> None:
        """Hold $y$ in the parameters, bit for bit as before `eval`."""
        if not self.training:
            for p, points in self._points.items():
                p.copy_(points.pop("y"))
        self.training = True

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs, in either mode; save the model in the same mode."""
        numbers = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}
        own = {
            "training": self.training,
            "weights": [dataclasses.asdict(weights) for weights in self._weights],
            "points": {numbers[p]: dict(points) for p, points in self._points.items()},
        }
        return {**self.optimizer.state_dict(), "schedule_free": own}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state; the parameters must be those of the model saved with it.

        Args:
            state_dict: From `state_dict`, in either mode; this optimizer is in that mode then.

        Raises:
            ValueError: If it was saved without `ScheduleFree`, or the wrapped optimizer refuses it.
        """
        if "schedule_free" not in state_dict:
            raise ValueError("the state was saved by an optimizer without ScheduleFree")
        own = state_dict["schedule_free"]
        self.optimizer.load_state_dict({key: value for key, value in state_dict.items() if key != "schedule_free"})
        params = [p for group in self.param_groups for p in group["params"]]
        self._weights = [_Weights(**weights) for weights in own["weights"]]
        self._points = {
            params[i]: {name: value.detach().to(params[i].device, copy=True) for name, value in points.items()}
            for i, points in own["points"].items()
        }
        self.training = own["training"]

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles need."""
        own = ("optimizer", "momentum", "weight_decay", "warmup", "lr_power", "step_power", "training", "defaults")
        return {name: getattr(self, name) for name in (*own, "_weights", "_points")}
