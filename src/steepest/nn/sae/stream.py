# SPDX-License-Identifier: Apache-2.0
"""Activations of a model as they come out of one of its modules: caught, shuffled, replaced."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steepest.optim.rule import check

__all__ = ["ActivationStream", "input_scale", "replaced"]


class _CaughtError(Exception):
    """Ends a forward pass whose rest nobody needs."""


@final
class ActivationStream:
    """Batches of a module's outputs while a model reads its inputs; nothing is written to disk.

    A buffer is filled with the activations of several inputs and shuffled; half of it is given out before it is filled
    again. So a batch holds positions of many texts. The pass through the model ends at the module, and has no
    gradients.

    Args:
        model: Any module; its mode is left as it is.
        site: Name of the module, as `model.named_modules()` has it. Of an output that is a tuple the first part is
            taken.
        inputs: What the model takes, one by one; a tuple is several arguments. Read once an iteration.
        batch: Rows of a batch.
        buffer: Rows of the buffer, at least twice `batch`.
        scale: Factor of the activations (`input_scale`).
        seed: Of the shuffling.

    Raises:
        ValueError: If the model has no such module or a number is out of its range.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> stream = ActivationStream(model, "1", [torch.randn(10, 4)] * 5, batch=16, buffer=40)
        >>> [tuple(batch.shape) for batch in stream]
        [(16, 8), (16, 8), (16, 8)]
    """

    def __init__(
        self,
        model: nn.Module,
        site: str,
        inputs: Iterable[Any],
        *,
        batch: int,
        buffer: int = 1 << 16,
        scale: float = 1.0,
        seed: int = 0,
    ) -> None:
        check("batch", batch, 1, float("inf"))
        check("buffer", buffer, 2 * batch, float("inf"))
        check("scale", scale, 0, float("inf"), closed="()")
        self._module = _find(model, site)
        self._model, self._inputs, self._batch, self._buffer = model, inputs, batch, buffer
        self._scale, self._seed = scale, seed

    def __iter__(self) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Yield shuffled batches until the inputs end; rows that do not fill a last batch are left out."""
        generator = torch.Generator().manual_seed(self._seed)
        rows, held = [], 0
        for part in self.rows():
            rows.append(part)
            held += len(part)
            if held >= self._buffer:
                mixed = _shuffled(rows, generator)
                given = len(mixed) // 2 // self._batch * self._batch
                yield from mixed[:given].split(self._batch)
                rows, held = [mixed[given:]], len(mixed) - given
        if held >= self._batch:
            mixed = _shuffled(rows, generator)
            yield from mixed[: len(mixed) // self._batch * self._batch].split(self._batch)

    def rows(self) -> Iterator[Float[Tensor, "rows d_in"]]:
        """Yield the activations of each input in order, positions as rows, scaled."""
        for given in self._inputs:
            caught: list[Tensor] = []

            def catch(module: nn.Module, args: Any, output: Any, caught: list[Tensor] = caught) -> None:
                caught.append(_part(output).detach())
                raise _CaughtError

            handle = self._module.register_forward_hook(catch)
            try:
                with torch.no_grad():
                    self._model(*given) if isinstance(given, tuple) else self._model(given)
            except _CaughtError:
                pass
            finally:
                handle.remove()
            if not caught:
                raise ValueError("the model never called that module; choose a site that its forward pass reaches")
            yield caught[0].flatten(0, -2) * self._scale


def input_scale(activations: Iterable[Tensor], *, batches: int = 20) -> float:
    """Return the factor that makes the mean square of an activation's entry 1.

    Args:
        activations: Batches of shape (batch, d_in); the first of them are read.
        batches: How many.

    Returns:
        The factor, for `ActivationStream` and `SparseAutoencoder.fold_input_scale_`.

    Raises:
        ValueError: If there is nothing, or nothing but zeros.

    Example:
        >>> input_scale([torch.full((10, 4), 2.0)])
        0.5
    """
    square, count = 0.0, 0
    for x in itertools.islice(activations, batches):
        square += x.double().square().sum().item()
        count += x.numel()
    if not square > 0:
        raise ValueError("the activations are empty or all zero, so no factor brings their mean square to 1")
    return (count / square) ** 0.5


@contextmanager
def replaced(model: nn.Module, site: str, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put a function of a module's output in the place of that output, while the `with` block lasts.

    Args:
        model: Any module.
        site: Name of the module in it. Of an output that is a tuple the first part is replaced.
        function: From the output to what stands in its place, same shape.

    Raises:
        ValueError: If the model has no such module.
    """

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        return (function(output[0]), *output[1:]) if isinstance(output, tuple) else function(output)

    handle = _find(model, site).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _find(model: nn.Module, site: str) -> nn.Module:
    modules = dict(model.named_modules())
    if site not in modules:
        known = [name for name in modules if name][:20]
        raise ValueError(f"the model has no module {site!r}; there are {', '.join(known)}, ...")
    return modules[site]


def _part(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _shuffled(rows: list[Tensor], generator: torch.Generator) -> Tensor:
    whole = torch.cat(rows)
    return whole[torch.randperm(len(whole), generator=generator).to(whole.device)]
