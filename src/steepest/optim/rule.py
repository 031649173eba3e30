# SPDX-License-Identifier: Apache-2.0
"""What a method is: the state it keeps for a tensor, and the direction it makes of a gradient."""

import abc
import dataclasses
import functools
import math
import types
import typing
import zlib
from typing import Any, ClassVar, Literal, NamedTuple, final

import torch
from jaxtyping import Float
from torch import Tensor

from steepest.geometry.norm import Norm
from steepest.kernels.updates import Decay
from steepest.optim.scale import LrScale
from steepest.optim.sharding import Part

State = dict[str, Tensor]
#: Roles of parameters that are linear maps between hidden spaces.
MATRIX_ROLES = ("hidden", "conv", "grouped_conv", "experts", "lora_a", "lora_b")
Works = Literal["entries", "matrices", "all parameters"]


@final
@dataclasses.dataclass(frozen=True)
class Step:
    """Where in a run an update happens.

    Args:
        count: Steps that the parameter has taken, this one included.
        seed: Differs for each parameter and step, the same on every machine: the seed of whatever a rule draws.
        taps: Kernel size of a convolution whose weight was flattened to a matrix, (k,), (k, k), ...; empty otherwise.
        numbers: What `Rule.numbers` made of the count, where the engine asked it.
        place: Of the parameter in the optimizer; of the first one in a batch.
    """

    count: int
    seed: int
    taps: tuple[int, ...] = ()
    numbers: tuple[float, ...] = ()
    place: int = 0

    def generator(self, device: torch.device) -> torch.Generator:
        """Return a fresh generator for this parameter and step."""
        return torch.Generator(device).manual_seed(self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule(abc.ABC):
    r"""One method. Its fields are its hyperparameters; the engine does everything that methods share.

    The engine hands a rule a batch of equally shaped gradients and their state, and applies what comes back:
    $W \leftarrow W - \eta\, s\, u$ with the learning rate $\eta$, the scale $s$ of the shape, weight decay and clipping
    as its groups say. A rule never touches the parameter or the gradient.

    Fields that are numbers, flags and texts stand in the parameter groups, where schedulers may change them; other
    fields (norms, polar factors) belong to the rule alone.
    """

    works_on: ClassVar[Works] = "entries"
    """`"entries"`: any shape, entry by entry. `"matrices"`: a batch `(b, m, n)`. `"all parameters"`: one vector
    `(1, d)` of a whole group."""
    lr: ClassVar[float]
    """Default learning rate."""
    lr_scale: ClassVar[LrScale] = "none"
    """Default factor of the learning rate by shape."""
    weight_decay: ClassVar[float] = 0.0
    """Default weight decay."""
    entry_states: ClassVar[tuple[str, ...]] = ()
    """States with one number for each entry of the parameter: they may be kept in fewer bits, and shard as it does."""
    unsigned_states: ClassVar[tuple[str, ...]] = ()
    """Those of them that are nowhere negative, like averages of squares."""
    batch_entries: ClassVar[int | None] = None
    """Small matrices are stepped in batches of at most so many entries; None leaves it to the engine. Fewer where large
    states make a batch cost more than it saves."""
    cost: ClassVar[str] = "O(mn)"
    """Arithmetic of a step for an m x n matrix."""
    needs: ClassVar[str] = ""
    """What the method needs beyond gradients, in a few words."""

    @property
    def name(self) -> str:
        """The rule with its settings that are no plain numbers: what a checkpoint is checked against."""
        own = type(self).__name__.removesuffix("Rule").lower()
        plain = set(plain_fields(type(self)))
        rest = [f"{f.name}={_label(getattr(self, f.name))}" for f in dataclasses.fields(self) if f.name not in plain]
        return f"{own}({', '.join(rest)})" if rest else own

    @abc.abstractmethod
    def init(self, like: Float[Tensor, "*shape"]) -> State:
        """Return the state before the first step.

        Args:
            like: What the first gradient will look like, in the dtype of the arithmetic: a parameter (`"entries"`), a
                batch of matrices, or one long vector.

        Returns:
            Tensors by name; for a batch of matrices each has the batch's first dimension.
        """

    @abc.abstractmethod
    def update(self, grad: Float[Tensor, "*shape"], state: State, step: Step) -> Float[Tensor, "*shape"] | None:
        """Change the state in place and return the direction to subtract.

        Args:
            grad: Gradients, never changed.
            state: As `init` made it and earlier steps left it; in-place changes alone are kept.
            step: Where in the run.

        Returns:
            A new tensor, or one that the caller may read but not write. None leaves the parameter as it is in this
            step, weight decay included.
        """

    def numbers(self, count: int) -> tuple[float, ...]:
        """Return numbers of a step that take a loop to compute, by default none; they come back in `Step.numbers`.

        They are computed outside what `torch.compile` sees, which would unroll the loop.

        Args:
            count: Number of the step, from 1.
        """
        del count
        return ()

    def norm(self) -> Norm | None:
        """Return the norm whose steepest descent this is, for clipping and diagnostics; None for the plain length."""
        return None

    def for_role(self, role: str) -> "Rule | None":
        """Return the rule for parameters of a role, None to leave them to another method.

        Args:
            role: See `steepest.optim.roles`.
        """
        return self if self.works_on != "matrices" or role in MATRIX_ROLES else None

    def admit(self, entries: int, dtype: torch.dtype) -> None:
        """Refuse a group whose vector is too long; called for rules on `"all parameters"` when a group is added.

        Args:
            entries: Of all its parameters together.
            dtype: Of the arithmetic.

        Raises:
            ValueError: With what to do.
        """
        del entries, dtype

    def step_matrices_(self, params: Tensor, grads: Tensor, *, keep: float, step: float) -> bool:
        r"""Apply $W \leftarrow \text{keep} \cdot W - \text{step} \cdot u$ to a batch of matrices, where the rule can.

        Asked only of rules without state, and where nothing else is to happen to the direction.

        Args:
            params: `(b, m, n)`, changed in place.
            grads: Same shape and dtype, not changed.
            keep: What the weights are multiplied by.
            step: Factor of the direction.

        Returns:
            Whether it was done; False leaves all to `update`.
        """
        del params, grads, keep, step
        return False

    def update_part(self, grad: Float[Tensor, "m n"], part: Part) -> Float[Tensor, "m n"] | None:
        """Return the direction of this process's part of a matrix, where the rule needs less than the whole of it.

        Asked only of rules without state, in all processes alike, before the matrix is gathered.

        Args:
            grad: The local part, possibly empty; not changed.
            part: Where it stands, and sums over all parts.

        Returns:
            A new tensor; None leaves all to `update`.
        """
        del grad, part
        return None

    def step_(self, entries: "Entries", settings: "Settings") -> bool:
        """Take the whole step in one sweep, where the rule has a fused kernel for this case.

        Args:
            entries: Parameters, gradients and states, to be changed in place.
            settings: What the engine would have applied.

        Returns:
            Whether it was done; False leaves all to `update`.
        """
        del entries, settings
        return False


class Entries(NamedTuple):
    """The members of a group that are stepped together by a fused kernel.

    Args:
        params: Contiguous or not, of one dtype.
        grads: In the same order; not to be changed.
        states: In the same order.
        lr_scales: Factor of the learning rate of each; None for one.
        step: Of all of them; the seed is that of the first.
    """

    params: list[Tensor]
    grads: list[Tensor]
    states: list[State]
    lr_scales: list[float] | None
    step: Step


class Settings(NamedTuple):
    """What the engine applies around a rule.

    Args:
        lr: Learning rate of this step.
        weight_decay: Coefficient of the decay.
        decay: See `steepest.optim.Options`; for `"independent"` the coefficient is that of this step.
        cautious: Whether entries that would climb are dropped.
    """

    lr: float
    weight_decay: float
    decay: Decay
    cautious: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Directional(Rule):
    """A rule in two parts: an average over time, entry by entry, and a direction made of the whole matrix.

    Sharded parameters keep the averages sharded; only the target is gathered.
    """

    works_on: ClassVar[Works] = "matrices"
    entry_states: ClassVar[tuple[str, ...]] = ("momentum_buffer",)

    def init(self, like: Tensor) -> State:
        """Return zeros for each entry state, in the shape of the parameter."""
        return {name: torch.zeros_like(like) for name in self.entry_states}

    def init_matrices(self, like: Float[Tensor, "batch m n"]) -> State:
        """Return the states of `direct` before the first step, by default none.

        Args:
            like: A batch of targets.
        """
        del like
        return {}

    def update(self, grad: Tensor, state: State, step: Step) -> Tensor:
        """Return `direct` of `accumulate`."""
        return self.direct(self.accumulate(grad, state), state, step)

    @abc.abstractmethod
    def accumulate(self, grad: Float[Tensor, "*shape"], state: State) -> Float[Tensor, "*shape"]:
        """Change the entry states in place and return the target, entry by entry; the caller will not write to it."""

    @abc.abstractmethod
    def direct(self, target: Float[Tensor, "batch m n"], state: State, step: Step) -> Float[Tensor, "batch m n"]:
        """Return the direction for whole targets."""


def _label(value: Any) -> str:
    """A short text that is the same in every process and differs where the value does."""
    if callable(value) and hasattr(value, "__qualname__"):
        return value.__qualname__
    text = repr(value)
    name = getattr(value, "name", None)
    return f"{name}#{zlib.crc32(text.encode()):08x}" if isinstance(name, str) else text


@functools.cache
def plain_fields(kind: type[Rule]) -> tuple[str, ...]:
    """Return the names of a rule's fields that are numbers, flags, texts or tuples of them."""
    hints = typing.get_type_hints(kind)
    return tuple(f.name for f in dataclasses.fields(kind) if _is_plain(hints[f.name]))


def _is_plain(hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal or hint is Ellipsis:
        return True
    if origin in (tuple, types.UnionType, typing.Union):
        return all(_is_plain(argument) for argument in arguments)
    return hint in (int, float, bool, str, types.NoneType)


_LARGEST_EXPONENT = 1023


def check(name: str, value: Any, low: float, high: float, *, closed: str = "[)") -> None:
    """Refuse a number outside an interval.

    Args:
        name: Of the setting, for the message.
        value: The number.
        low: Lower end.
        high: Upper end.
        closed: `"[)"`, `"()"`, `"(]"` or `"[]"`: which ends belong to it.

    Raises:
        ValueError: If it is outside, or no number.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if number and isinstance(value, int) and value.bit_length() > _LARGEST_EXPONENT:
        raise ValueError(f"{name}: expected a number below 2^{_LARGEST_EXPONENT}, got one of {value.bit_length()} bits")
    above = number and (value >= low if closed[0] == "[" else value > low)
    below = number and (value <= high if closed[1] == "]" else value < high)
    if not (above and below):
        end = "inf)" if high == math.inf else f"{high:g}{closed[1]}"
        raise ValueError(f"{name}: expected a number in {closed[0]}{low:g}, {end}, got {value!r}")


def check_betas(betas: Any) -> None:
    """Refuse anything but two rates of averages in [0, 1).

    Args:
        betas: The setting.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise ValueError(f"betas: expected two numbers in [0, 1), got {betas!r}")
    for i, beta in enumerate(betas):
        check(f"betas[{i}]", beta, 0, 1)
