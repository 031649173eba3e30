# SPDX-License-Identifier: Apache-2.0
"""One step of one group: by a fused kernel, parameter by parameter, or matrices in batches."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from steepest.geometry.norm import Norm
from steepest.optim import compression
from steepest.optim.apply import Factors, cautious, keep_factor, length_of, move_on_sphere_, subtract_
from steepest.optim.batches import batches_of
from steepest.optim.compiled import compiled
from steepest.optim.layout import CONVOLUTIONS, Layout, fan
from steepest.optim.rule import Directional, Entries, Rule, Settings, State, Step
from steepest.optim.scale import lr_scale_factor
from steepest.optim.sharding import any_sharded, gathered, is_sharded, local, spread_again, spread_like, whole

#: Small matrices are stepped together while their entries are no more than this, or than the largest parameter's.
BATCH_ENTRIES = 1 << 18
_FIXED_INPUTS = ("embedding", "tied", "gain", "bias", "vector")
#: The trailing dimensions that make one matrix.
MATRIX = (-2, -1)

Observer = Callable[["Member", Tensor, Tensor, float, Norm | None], None]


class Member(NamedTuple):
    """A parameter in a step.

    Args:
        param: The parameter.
        grad: Its gradient.
        state: Its state.
        number: Its place in the optimizer.
    """

    param: Tensor
    grad: Tensor
    state: dict[str, Any]
    number: int


@dataclass(frozen=True)
class GroupStep:
    """What is the same for all members of a group in a step.

    Args:
        group: The parameter group.
        rule: Its rule.
        count: Steps that the members have taken, this one included.
        largest: Entries that one batch may have.
        observe: Called with each member, its gradient, direction, the factor of that, and the rule's norm.
        first: Place in the optimizer of the first parameter of the group.
    """

    group: dict[str, Any]
    rule: Rule
    count: int
    largest: int
    observe: Observer | None = None
    first: int = 0

    @property
    def layout(self) -> Layout:
        """How the group's parameters are seen as matrices."""
        group = self.group
        return Layout(group["role"], group["blocks"], group["transposed"], group["groups"])

    def seed(self, number: int) -> int:
        """Return the seed of a parameter in this step: a mixture of the group's seed, the step and its place."""
        mixed = (self.group["seed"] * 0x9E3779B97F4A7C15 + self.count * 0xBF58476D1CE4E5B9 + number) & (2**64 - 1)
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        return (mixed ^ (mixed >> 27)) & (2**63 - 1)

    def step(self, member: Member) -> Step:
        """Return what a rule is told about the step of a parameter."""
        taps = tuple(member.param.shape[2:]) if self.group["role"] in CONVOLUTIONS else ()
        return Step(self.count, self.seed(member.number), taps, self.rule.numbers(self.count), member.number)

    def codec(self, number: int) -> compression.Codec:
        """Return how the states of a parameter are kept."""
        return compression.Codec(self.group["state_dtype"], self.rule, self.group["seed"], self.count, number)

    def factors(self, rows: int, columns: int) -> Factors:
        """Return the numbers with which a direction is applied to matrices of a shape."""
        group = self.group
        # The inputs of an embedding or a vector do not grow with the width.
        fixed = group["lr_scale"] == "mup" and group["role"] in _FIXED_INPUTS
        mode = "none" if fixed else group["lr_scale"]
        scale = lr_scale_factor(mode, rows, columns, base_width=group["base_width"])
        return Factors(group["lr"] * scale * group["lr_factor"], keep_factor(group), group["decay"])

    def entry_factors(self, shape: Sequence[int]) -> Factors:
        """Return the numbers for a parameter that is stepped entry by entry: vectors have no factor of the shape.

        Args:
            shape: Of the parameter.
        """
        if len(shape) < 2:
            return Factors(self.group["lr"] * self.group["lr_factor"], keep_factor(self.group), self.group["decay"])
        rows, columns = fan(shape)
        return self.factors(*((columns, rows) if self.group["transposed"] else (rows, columns)))

    def entry_scale(self, shape: Sequence[int]) -> float:
        """Return the factor of the learning rate alone."""
        return self.entry_factors(shape).step / (self.group["lr"] or 1)

    def is_on_sphere(self, param: Tensor) -> bool:
        """Whether a parameter keeps its length: matrices do, vectors do not."""
        return self.group["hyperball"] and param.ndim > 1

    def call(self, method: str) -> Callable[[Tensor, State, Step], Tensor]:
        """Return a method of the rule, compiled if the group says so."""
        if self.group["compile"]:
            return partial(compiled(getattr(type(self.rule), method)), self.rule)
        return getattr(self.rule, method)


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of the arithmetic for parameters of a dtype."""
    return torch.promote_types(dtype, torch.float32)


def begin(members: list[Member], this: GroupStep) -> None:
    """Make the states of members before their first step, and count the step."""
    for member in members:
        state = member.state
        if not state:
            make_state(member, this)
        state["step"] += 1  # a number: adding to hundreds of small tensors takes longer than stepping them


def make_state(member: Member, this: GroupStep) -> None:
    """Fill the empty state of a member with what it is before the first step."""
    state = member.state
    lengths = radii(member, this) if this.is_on_sphere(member.param) else {}
    state["step"] = 0
    for name, tensor in _fresh(member.param, this):
        compression.store(state, name, tensor, this.codec(member.number))
    state.update(lengths)


def radii(member: Member, this: GroupStep) -> State:
    """Return the lengths to keep: of each matrix where the rule works on matrices, else of the parameter.

    Raises:
        ValueError: If one is zero.
    """
    param = whole(member.param.detach()).to(work_dtype(member.param.dtype))
    if this.rule.works_on == "matrices":
        batches = this.layout.matrices(param)
        names = ["radius" + suffix for suffix in _suffixes(len(batches))]
        found = {name: length_of(batch, MATRIX) for name, batch in zip(names, batches, strict=True)}
    else:
        found = {"radius": length_of(param, tuple(range(param.ndim)))}
    if any((radius == 0).any() for radius in found.values()):
        raise ValueError(
            f"parameter {member.number} of the optimizer, shape {tuple(param.shape)}, is or has a zero matrix, and "
            "hyperball keeps the length of the start; initialize it, or give it a group with hyperball=False"
        )
    return found


def _fresh(param: Tensor, this: GroupStep) -> Iterator[tuple[str, Tensor]]:
    rule, dtype = this.rule, work_dtype(param.dtype)
    if rule.works_on == "entries" or isinstance(rule, Directional):
        yield from rule.init(param.detach().to(dtype)).items()
    if rule.works_on == "matrices":
        make = rule.init_matrices if isinstance(rule, Directional) else rule.init
        batches = this.layout.matrices(whole(param.detach()))
        for suffix, batch in zip(_suffixes(len(batches)), batches, strict=True):
            yield from ((name + suffix, tensor) for name, tensor in make(batch.to(dtype)).items())


def _suffixes(count: int) -> list[str]:
    return [""] if count == 1 else [f".{i}" for i in range(count)]


def step_entries(members: list[Member], this: GroupStep) -> None:
    """Step parameters entry by entry: all at once by the rule's fused kernel, or one by one."""
    group, rule = this.group, this.rule
    clips = group["clip"] != math.inf
    # A kernel counts the entries that caution keeps in a part alone.
    params = [m.param for m in members]
    sharded = any_sharded(params)
    counts = group["cautious"] and sharded
    if not (group["hyperball"] or group["compile"] or counts or this.observe):
        grads = [clipped(m.grad, this, None) if clips else m.grad for m in members]
        states = [m.state for m in members]
        entries = Entries(
            list(map(local, params)) if sharded else params,
            list(map(local, grads)) if sharded else grads,
            [{name: local(t) for name, t in state.items()} for state in states] if sharded else states,
            None
            if group["lr_scale"] == "none" and group["lr_factor"] == 1
            else [this.entry_scale(m.param.shape) for m in members],
            this.step(members[0]),
        )
        coefficient = 1 - keep_factor(group) if group["decay"] == "independent" else group["weight_decay"]
        settings = Settings(group["lr"], coefficient, group["decay"], group["cautious"])
        if rule.step_(entries, settings):
            return
    for member in members:
        _step_one(member, this)


def _step_one(member: Member, this: GroupStep) -> None:
    param = local(member.param)
    grad = local(with_l2(clipped(member.grad.to(work_dtype(param.dtype)), this, None), member.param, this))
    with compression.opened(member.state, this.rule.entry_states, this.codec(member.number)) as state:
        plain = {name: local(tensor) for name, tensor in state.items()}
        direction = this.call("update")(grad, plain, this.step(member))
    if direction is None:
        return
    if this.group["cautious"]:
        own, seen = gathered(direction, member.param), gathered(grad, member.param)
        direction = spread_like(cautious(own, seen, tuple(range(own.ndim))), member.param)
    factors = this.entry_factors(member.param.shape)
    if this.is_on_sphere(param):
        move_whole_on_sphere_(member, gathered(direction, member.param), this)
    else:
        subtract_([param], [direction], factors)
    if this.observe:
        this.observe(member, grad, direction, factors.step, this.rule.norm())


def move_whole_on_sphere_(member: Member, direction: Tensor, this: GroupStep) -> None:
    """Move a parameter as one element of fixed length, by a whole direction, in place."""
    full, dims = whole(member.param), tuple(range(direction.ndim))
    move_on_sphere_(full, direction, member.state["radius"], this.group["lr"], dims)
    if is_sharded(member.param):
        local(member.param).copy_(spread_like(full, member.param))


def step_matrices(members: list[Member], this: GroupStep) -> None:
    """Step the matrices of a group, parameters of equal shape in batches of bounded size."""
    here = {member.number - this.first: member for member in members if not _step_fused(member, this)}
    # Who is stepped with whom must not depend on who has a gradient: sums of another order would round otherwise.
    for batch in batches_of(this.group["params"], this.rule, this.largest) if here else []:
        present = [here[i] for i in batch if i in here]
        if present:
            _step_batch(present, this)


def _step_fused(member: Member, this: GroupStep) -> bool:
    """Take the step of one parameter by the rule's own kernel, if it has one and nothing else is asked for."""
    group, layout, param = this.group, this.layout, member.param
    other = group["cautious"] or group["hyperball"] or group["compile"] or this.observe or group["clip"] != math.inf
    decays_otherwise = group["weight_decay"] and group["decay"] in ("l2", "cautious")
    if other or decays_otherwise or is_sharded(param) or len(member.state) > 1 or member.grad.dtype != param.dtype:
        return False
    views = layout.matrices(param)
    if views[0].untyped_storage().data_ptr() != param.untyped_storage().data_ptr():
        return False
    factors = [this.factors(*view.shape[-2:]) for view in views]
    grads = layout.matrices(member.grad)
    steps = zip(views, grads, factors, strict=True)
    return all(this.rule.step_matrices_(view, grad, keep=f.keep, step=f.step) for view, grad, f in steps)


def _step_batch(members: list[Member], this: GroupStep) -> None:
    layout, rule = this.layout, this.rule
    grads = [_member_grad(member, this) for member in members]
    targets = grads
    if isinstance(rule, Directional):
        targets = [_accumulate(member, grad, this) for member, grad in zip(members, grads, strict=True)]
        targets = [whole(target) for target in targets]
    wants_grads = this.group["cautious"] or this.observe is not None
    shapes = layout.shapes(members[0].param.shape)
    sources = [[layout.matrices(t) for t in targets], [layout.matrices(whole(g)) for g in grads] if wants_grads else []]
    for m, n in dict.fromkeys((m, n) for _, m, n in shapes):
        units = [(member, index) for member in range(len(members)) for index, s in enumerate(shapes) if s[1:] == (m, n)]
        target, grad = (_stack([parts[i][j] for i, j in units]) if parts else None for parts in sources)
        assert target is not None
        states = _Stacked([(members[i], _suffixes(len(shapes))[j]) for i, j in units], this)
        step = this.step(members[units[0][0]])
        direction = this.call("direct" if isinstance(rule, Directional) else "update")(target, states.batch, step)
        states.write()
        if direction is None:
            continue
        if this.group["cautious"] and grad is not None:
            direction = cautious(direction, grad, MATRIX)
        parts = direction.split([shapes[j][0] for _, j in units]) if len(units) > 1 else (direction,)
        _apply([(members[i], j) for i, j in units], list(parts), this)
        if this.observe and grad is not None:
            pieces = grad.split([shapes[j][0] for _, j in units])
            for (i, _), piece, part in zip(units, pieces, parts, strict=True):
                this.observe(members[i], piece, part, this.factors(m, n).step, rule.norm())


def _apply(units: list[tuple[Member, int]], directions: list[Tensor], this: GroupStep) -> None:
    layout, factors = this.layout, this.factors(*directions[0].shape[-2:])
    params: list[Tensor] = []
    parts: list[Tensor] = []
    for (member, index), direction in zip(units, directions, strict=True):
        param = member.param
        if this.is_on_sphere(param):
            radius = member.state["radius" + _suffixes(len(layout.shapes(param.shape)))[index]]
            full = whole(param)
            view = layout.matrices(full)[index]
            move_on_sphere_(view, direction, radius, this.group["lr"], MATRIX)
            layout.write(full, index, view)
            if is_sharded(param):
                local(param).copy_(spread_like(full, param))
            continue
        if is_sharded(param):
            # A block at a time: what the others leave at zero must not decay here.
            full = torch.zeros(param.shape, dtype=direction.dtype, device=direction.device)
            layout.write(full, index, direction)
            params.append(local(param))
            parts.append(spread_like(full, param))
            continue
        view = layout.matrices(param)[index]
        shares = view.untyped_storage().data_ptr() == param.untyped_storage().data_ptr()
        if shares:
            params.append(view)
            parts.append(direction)
            continue
        subtract_([view], [direction], factors)
        layout.write(param, index, view)
    if params:
        subtract_(params, parts, factors)


def _accumulate(member: Member, grad: Tensor, this: GroupStep) -> Tensor:
    rule = cast("Directional", this.rule)
    with compression.opened(member.state, rule.entry_states, this.codec(member.number)) as state:
        return rule.accumulate(grad, state)


def _member_grad(member: Member, this: GroupStep) -> Tensor:
    """The gradient in the shape of the parameter and the dtype of the arithmetic: regularized and clipped."""
    rule, layout, grad = this.rule, this.layout, member.grad.to(work_dtype(member.param.dtype))
    if not isinstance(rule, Directional):
        grad = whole(grad)
    if this.group["clip"] != math.inf:
        full = whole(grad).clone()
        for index, batch in enumerate(layout.matrices(full)):
            layout.write(full, index, clipped(batch, this, MATRIX))
        grad = spread_again(full, grad)
    if this.group["decay"] != "l2" or not this.group["weight_decay"]:
        return grad  # without gathering the parameter
    return with_l2(grad, member.param if is_sharded(grad) else whole(member.param), this)


def with_l2(grad: Tensor, param: Tensor, this: GroupStep) -> Tensor:
    """Return the gradient with weight decay added, where the group's decay acts so."""
    if this.group["decay"] != "l2" or not this.group["weight_decay"]:
        return grad
    return grad.add(param.to(grad.dtype), alpha=this.group["weight_decay"])


def clipped(grad: Tensor, this: GroupStep, dims: tuple[int, ...] | None) -> Tensor:
    """Return the gradient scaled down to the group's largest dual norm; the plain length where the rule has no norm.

    Without `dims` all of it is one element, which only a norm of vectors measures.
    """
    limit = this.group["clip"]
    if limit == math.inf:
        return grad
    norm, full = this.rule.norm(), whole(grad).to(work_dtype(grad.dtype))
    if dims is None:
        entries = full.flatten()
        fits = norm is not None and norm.element_dims == 1
        size = norm.dual(entries) if norm is not None and fits else length_of(entries, (0,)).squeeze()
    else:
        size = length_of(full, dims) if norm is None else norm.dual(full)[..., None, None]
    return grad * (limit / size.clamp_min(limit)).to(grad.dtype)


def _stack(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Stacked:
    """The matrix states of several units as one batch, and back."""

    def __init__(self, units: list[tuple[Member, str]], this: GroupStep) -> None:
        self._units, self._this = units, this
        member, suffix = units[0]
        skip = {"step", "radius", *(this.rule.entry_states if isinstance(this.rule, Directional) else ())}
        keys = [key for key in member.state if key.endswith(suffix) and not compression.is_part(key)]
        self._names = [name for name in (key.removesuffix(suffix) for key in keys) if name not in skip]
        self.batch: State = {
            name: _stack([compression.load(m.state, name + s, this.codec(m.number)) for m, s in units])
            for name in self._names
        }

    def write(self) -> None:
        """Put the batch back where it came from."""
        for name in self._names:
            batch, count = self.batch[name], len(self.batch[name]) // len(self._units)
            parts = batch.split(count) if len(self._units) > 1 else [batch]
            for (member, suffix), part in zip(self._units, parts, strict=True):
                compression.store(member.state, name + suffix, part, self._this.codec(member.number))
