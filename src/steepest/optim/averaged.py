# SPDX-License-Identifier: Apache-2.0
"""Averages of the weights over a run: exponential, or of all steps alike."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, final, get_args

import torch
from torch import Tensor, nn

from steepest.optim.options import one_of
from steepest.optim.rule import check

AverageKind = Literal["ema", "polyak"]
Buffers = Literal["average", "keep"]


@final
class Averaged:
    r"""An average of the weights beside those that train, to evaluate with and to ship.

    $\bar W_t = \bar W_{t-1} + c_t (W_t - \bar W_{t-1})$ with $c_t = 1/t$ (`"polyak"`: all steps alike) or
    $c_t = (1 - d)/(1 - d^t)$ (`"ema"`: weights that fall as $d$ to the age, and sum to one from the first update on, so
    that the start of the run does not hang on). The average is one of updated weights alone.

    Args:
        target: A model, or parameters: call `update` after each step. Or an optimizer: it is called after each of its
            steps by itself.
        kind: `"ema"` or `"polyak"`.
        decay: $d$ in [0, 1), of `"ema"` alone; about $1/(1 - d)$ steps count.
        start: Updates to pass over before the average begins, at least 0 (averaging a tail).
        buffers: What becomes of a model's floating-point buffers, such as BatchNorm's statistics. `"average"`: they
            are averaged as the weights are, which is near what the averaged weights would produce. `"keep"`: those of
            the training model stand; then recalibrate inside `swapped`, where changes last for the block alone:
            `torch.optim.swa_utils.update_bn(batches, model)`. Integer buffers stay as they are.

    Raises:
        ValueError: If a value is out of its range, or there is nothing to average.

    Numerics:
        Averages of 16-bit weights are kept in float32: in bfloat16 they would stop moving. One copy of the weights.

    Example:
        >>> import torch
        >>> from steepest.optim import SGD
        >>> w = torch.nn.Parameter(torch.zeros(1))
        >>> optimizer = SGD([w], lr=1.0)
        >>> averaged = Averaged(optimizer, kind="polyak")
        >>> for _ in range(3):
        ...     w.grad = -torch.ones(1)
        ...     optimizer.step()
        >>> with averaged.swapped():
        ...     print(w.item())
        2.0
        >>> w.item()
        3.0

    References:
        Polyak and Juditsky (1992), Acceleration of stochastic approximation by averaging. Morales-Brotons et al.
        (2024), Exponential moving average of weights in deep learning. The correction of the start is that of Kingma
        and Ba (2015).
    """

    def __init__(
        self,
        target: nn.Module | torch.optim.Optimizer | Iterable[Tensor],
        *,
        kind: AverageKind = "ema",
        decay: float = 0.999,
        start: int = 0,
        buffers: Buffers = "average",
    ) -> None:
        one_of("kind", kind, get_args(AverageKind))
        one_of("buffers", buffers, get_args(Buffers))
        check("decay", decay, 0, 1)
        check("start", start, 0, math.inf)
        self.kind, self.decay, self.start = kind, decay, start
        self.seen = 0
        self._swapped = False
        self._buffers = list(target.buffers()) if isinstance(target, nn.Module) else []
        averaged_buffers = [b for b in self._buffers if b.is_floating_point()] if buffers == "average" else []
        self._live = [p.detach() for p in (*_parameters(target), *averaged_buffers)]
        if not self._live:
            raise ValueError("there are no parameters to average")
        self._averages = [p.to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in self._live]
        if isinstance(target, torch.optim.Optimizer):
            target.register_step_post_hook(lambda *_: self.update())

    @property
    def count(self) -> int:
        """How many updates are in the average."""
        return max(0, self.seen - self.start)

    def weight(self) -> float:
        """Return $c_t$ of the newest update; 1 for the first."""
        t = max(1, self.count)
        if self.kind == "polyak":
            return 1 / t
        # 1 - d^t loses its digits where d is near 1.
        return (1 - self.decay) / -math.expm1(t * math.log(self.decay)) if self.decay else 1.0

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights of now into the average.

        Raises:
            RuntimeError: Inside `swapped`, where the weights are the average.
        """
        if self._swapped:
            raise RuntimeError("the weights are the averages inside swapped(); update after the block")
        self.seen += 1
        if not self.count:
            return
        now = [live.to(average.dtype) for live, average in zip(self._live, self._averages, strict=True)]
        torch._foreach_lerp_(self._averages, now, self.weight())  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Hold the averages in the parameters inside the block, and the same weights and buffers as before after it.

        Before the first update the weights stay as they are.

        Raises:
            RuntimeError: If the averages are in the parameters already.
        """
        if self._swapped:
            raise RuntimeError("the averages are in the parameters already")
        changing = [*self._live, *(b for b in self._buffers if not any(b is live for live in self._live))]
        kept = [tensor.clone() for tensor in changing]
        self._swapped = True
        try:
            with torch.no_grad():
                if self.count:
                    for live, average in zip(self._live, self._averages, strict=True):
                        live.copy_(average)
            yield
        finally:
            with torch.no_grad():
                for tensor, values in zip(changing, kept, strict=True):
                    tensor.copy_(values)
            self._swapped = False

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to continue; the tensors are shared."""
        return {"kind": self.kind, "decay": self.decay, "seen": self.seen, "averages": list(self._averages)}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state.

        Args:
            state_dict: From `state_dict` of averages of the same kind over the same parameters.

        Raises:
            ValueError: If it is of another kind, decay, number or shape of tensors.
        """
        saved = state_dict["averages"]
        if (state_dict["kind"], state_dict["decay"]) != (self.kind, self.decay):
            raise ValueError(
                f"the saved average is {state_dict['kind']} with decay {state_dict['decay']}, this one is {self.kind} "
                f"with {self.decay}"
            )
        if [a.shape for a in saved] != [a.shape for a in self._averages]:
            raise ValueError(
                f"the saved average has {len(saved)} tensors, this one {len(self._averages)}, or their shapes differ"
            )
        for average, values in zip(self._averages, saved, strict=True):
            average.copy_(values)
        self.seen = state_dict["seen"]


def _parameters(target: nn.Module | torch.optim.Optimizer | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(target, nn.Module):
        return list(target.parameters())
    if isinstance(target, torch.optim.Optimizer):
        return [p for group in target.param_groups for p in group["params"]]
    return list(target)
