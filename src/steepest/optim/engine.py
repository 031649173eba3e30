# SPDX-License-Identifier: Apache-2.0
"""The engine: one `torch.optim.Optimizer` that takes the steps of every rule."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from steepest.kernels.untraced import untraced
from steepest.kernels.updates import Decay
from steepest.optim.batches import batches_of
from steepest.optim.compiled import require_compiler
from steepest.optim.finite import step_is_left_out
from steepest.optim.groups import param_groups
from steepest.optim.layout import Layout
from steepest.optim.options import Options
from steepest.optim.rule import Rule, check, plain_fields
from steepest.optim.stepping import (
    BATCH_ENTRIES,
    GroupStep,
    Member,
    Observer,
    begin,
    make_state,
    step_entries,
    step_matrices,
)
from steepest.optim.stepping_flat import flat_dtype, step_flat
from steepest.optim.stepping_part import step_part

Params = nn.Module | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]


class StatesElsewhere(Protocol):
    """What takes the steps of an engine whose states are not in memory; see `steepest.train.offload`."""

    def finish(self) -> None:
        """Take what is left of the step."""
        ...

    def loaded(self) -> None:
        """Take over the states that `load_state_dict` put into the engine."""
        ...


class Engine(torch.optim.Optimizer):
    r"""Steps parameters by rules.

    Each parameter group has a rule; what is plain in it (numbers, flags, texts) stands in the group and may be changed
    there at any time, as learning rate schedulers do. Gradients are never changed.

    Args:
        params: A model (each parameter gets a rule from its role, see `param_groups`), parameters, named parameters, or
            parameter groups. A group may have its own `rule`, `role`, `blocks`, `transposed`, `groups` (see `Layout`)
            and any setting.
        rule: For groups that name none.
        lr: Learning rate above 0, a number or a tensor of one; None takes the rule's default.
        weight_decay: At least 0; None takes the rule's default.
        options: What is done around the rules.

    Raises:
        TypeError: If a parameter is not a real floating-point tensor (or complex, where the rule works entry by entry),
            or a group has an unknown setting.
        ValueError: If a number is out of range, a parameter occurs twice or has a shape that the rule cannot step.

    Numerics:
        16-bit parameters are stepped in float32 and rounded once; real and imaginary parts are entries of their own. A
        step is all or nothing: every gradient is looked at before the first parameter moves. A resumed run continues
        with the same bits, random numbers included.
    """

    default_decay: ClassVar[Decay] = "decoupled"

    def __init__(
        self,
        params: Params,
        rule: Rule,
        *,
        lr: float | None = None,
        weight_decay: float | None = None,
        options: Options | None = None,
    ) -> None:
        self._rules: list[Rule] = []
        self._rule, self._lr, self._weight_decay = rule, lr, weight_decay
        self._options = options or Options()
        self._largest = 0
        self._observe: Observer | None = None
        self.elsewhere: StatesElsewhere | None = None
        self.skipped = 0
        super().__init__(param_groups(params, rule) if isinstance(params, nn.Module) else params, {})
        # Schedulers that turn momentum look here for its name; groups get theirs from their own rule.
        self.defaults = {field: getattr(rule, field) for field in plain_fields(type(rule))}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, with the engine's settings where it has none of its own.

        Args:
            param_group: `params` and settings.

        Raises:
            TypeError: As the class does.
            ValueError: As the class does.
        """
        given = dict(param_group)
        params = given["params"]
        given["params"] = params = [params] if isinstance(params, Tensor) else list(params)
        if len({id(p[1] if isinstance(p, tuple) else p) for p in params}) < len(params):
            raise ValueError("a parameter occurs more than once in its group; give each one once")
        own = "rule" not in given
        rule = given.pop("rule", None) or self._rule.for_role(given.get("role", "hidden")) or self._rule
        for key, value in {**vars(rule), "options": self._options}.items():
            # ZeroRedundancyOptimizer writes all arguments of the constructor into its groups.
            if key in given and given[key] is value and key not in plain_fields(type(rule)):
                del given[key]
        defaults: dict[str, Any] = {
            "rule": rule.name,
            "lr": self._lr if own and self._lr is not None else rule.lr,
            "weight_decay": self._weight_decay if own and self._weight_decay is not None else rule.weight_decay,
            **dataclasses.asdict(Layout()),
            **{field: getattr(rule, field) for field in plain_fields(type(rule))},
            **dataclasses.asdict(self._options),
        }
        if defaults["lr_scale"] is None:
            defaults["lr_scale"] = rule.lr_scale
        if defaults["decay"] is None:
            defaults["decay"] = self.default_decay
        _check_lr(lr := given.get("lr", defaults["lr"]))
        defaults["base_lr"] = float(lr)
        unknown = set(given) - set(defaults) - {"params", "param_names", "peak_lr", "initial_lr"}
        if unknown:
            raise TypeError(
                f"unknown settings {sorted(unknown)} in a group of {rule.name}; there are {sorted(defaults)}"
            )
        _check_group(defaults | {k: v for k, v in given.items() if k != "params"}, rule)
        if {**defaults, **given}["compile"]:
            require_compiler()
        self._rules.append(rule)
        kept, self.defaults = self.defaults, {}
        try:
            super().add_param_group({**defaults, **given})
        finally:
            self.defaults = kept
        group = self.param_groups[-1]
        for name, parameter in _named(group):
            self._largest = max(self._largest, parameter.numel())
            _check_parameter(name, parameter, group, rule)
        if rule.works_on == "all parameters":
            rule.admit(sum(p.numel() for p in group["params"]), flat_dtype(group["params"]))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Computes the loss and the gradients again, if given.

        Returns:
            What the closure returned; None without one.

        Raises:
            ValueError: If a gradient is sparse, or is not finite where `nonfinite="raise"`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._take()
        return loss

    @untraced
    def _take(self) -> None:
        if self.elsewhere is not None:
            self.elsewhere.finish()
            return
        if step_is_left_out(self.param_groups):
            self.skipped += 1
            return
        stepped, number = [], 0
        for group in self.param_groups:  # all gradients are looked at before the first parameter moves
            stepped.append(self._members(group["params"], number))
            number += len(group["params"])
        for index, members in enumerate(stepped):
            if members:
                self.step_members(members, index)

    def step_members(self, members: list[Member], index: int) -> None:
        """Step some parameters of a group.

        The parameters get the bits of a whole step if each batch (see `batches`) is among them as a whole, as far as
        its parameters have gradients.

        Args:
            members: Of this group, in its order.
            index: Of the group.
        """
        rule, group = self._current_rule(index), self.param_groups[index]
        if isinstance(group["lr"], Tensor):
            group = {**group, "lr": float(group["lr"])}
        largest, number = max(self._largest, BATCH_ENTRIES), sum(len(g["params"]) for g in self.param_groups[:index])
        if rule.works_on == "all parameters":
            state = self.state[group["params"][0]]
            count = int(state["step"]) + 1 if "step" in state else 1
            step_flat(members, GroupStep(group, rule, count, largest, self._observe), state, number)
            return
        take = {"entries": step_entries, "matrices": step_matrices}[rule.works_on]
        for (_, count), alike in _by_dtype_and_count(members).items():
            this = GroupStep(group, rule, count, largest, self._observe, number)
            begin(alike, this)
            take([member for member in alike if not step_part(member, this)], this)

    def make_states(self, members: list[Member], index: int) -> None:
        """Fill the empty states of some parameters of a group with what they are before the first step.

        Args:
            members: Of this group.
            index: Of the group.
        """
        this = GroupStep(self.param_groups[index], self._current_rule(index), 1, max(self._largest, BATCH_ENTRIES))
        for member in members:
            make_state(member, this)

    def batches(self, index: int) -> list[list[int]]:
        """Return which parameters of a group are always stepped together, by their places in it.

        Args:
            index: Of the group.
        """
        largest = max(self._largest, BATCH_ENTRIES)
        return batches_of(self.param_groups[index]["params"], self._current_rule(index), largest)

    def _current_rule(self, index: int) -> Rule:
        """The rule with the numbers that stand in its group now."""
        rule, group = self._rules[index], self.param_groups[index]
        changed = {f: group[f] for f in plain_fields(type(rule)) if group[f] != getattr(rule, f)}
        if changed:
            self._rules[index] = rule = dataclasses.replace(rule, **changed)
        return rule

    def _members(self, params: list[Tensor], number: int) -> list[Member]:
        state, members = self.state, []
        for i, parameter in enumerate(params, number):
            grad = parameter.grad
            if grad is None or not parameter.numel():
                continue
            if grad.layout is not torch.strided:
                raise ValueError(f"expected dense gradients, got {grad.layout}; make the embedding with sparse=False")
            own = state[parameter]
            if parameter.is_complex():  # real and imaginary parts are entries
                parameter, grad = torch.view_as_real(parameter), torch.view_as_real(grad)
            members.append(Member(parameter, grad, own, i))
        return members

    @property
    def rule(self) -> Rule:
        """The rule that the optimizer was made with."""
        return self._rule

    def rule_of(self, group: int) -> Rule:
        """Return the rule of a parameter group, with the numbers that stand in the group now.

        Args:
            group: Index of the group.
        """
        return self._current_rule(group)

    @contextmanager
    def observed(self, observer: Observer) -> Iterator[None]:
        """Call a function with what each step within does to each parameter.

        Args:
            observer: Takes the member, its gradient, the direction, the direction's factor and the rule's norm.
        """
        before, self._observe = self._observe, observer
        try:
            yield
        finally:
            self._observe = before

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state.

        Args:
            state_dict: From `state_dict` of an optimizer with the same rules and groups.

        Raises:
            ValueError: If a group was stepped by another rule, the groups differ in number or size, or a number is out
                of its range.
        """
        saved = [group.get("rule") for group in state_dict["param_groups"]]
        here = [group["rule"] for group in self.param_groups]
        if saved and not any(saved):
            raise ValueError("the saved state is not of steepest; steepest.optim.load_torch_state reads torch.optim's")
        if saved != here:
            raise ValueError(f"the saved state is of the rules {saved}, this optimizer has {here}")
        for group, now, rule in zip(state_dict["param_groups"], self.param_groups, self._rules, strict=True):
            # A schedule may have ended at a learning rate of zero.
            _check_group({**now, **group, "lr": group.get("lr") or now["lr"] or 1.0}, rule)
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for key, value in group.items():
                if isinstance(value, list) and key not in ("params", "param_names"):
                    group[key] = tuple(value)
        # torch gives states the dtype of the parameter; ours have their own.
        old = [i for group in state_dict["param_groups"] for i in group["params"]]
        new = [p for group in self.param_groups for p in group["params"]]
        for i, parameter in zip(old, new, strict=True):
            for key, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, Tensor) and self.state[parameter][key].dtype != value.dtype:
                    self.state[parameter][key] = value.to(parameter.device, copy=True)
        if self.elsewhere is not None:
            self.elsewhere.loaded()

    def __getstate__(self) -> dict[str, Any]:
        """Return what copies and pickles need, the rules among it."""
        if self.elsewhere is not None:
            raise TypeError("the optimizer's states are not in memory: save its state_dict(), which reads them")
        own = ("_rules", "_rule", "_lr", "_weight_decay", "_options", "_largest", "skipped")
        return {
            **super().__getstate__(),
            **{name: getattr(self, name) for name in own},
            "_observe": None,
            "elsewhere": None,
        }


def _by_dtype_and_count(members: list[Member]) -> dict[tuple[torch.dtype, int], list[Member]]:
    keys = [(p.dtype, int(state["step"]) + 1 if state else 1) for p, _, state, _ in members]
    first = keys[0]
    if keys.count(first) == len(keys):
        return {first: members}
    alike: dict[tuple[torch.dtype, int], list[Member]] = {}
    for key, member in zip(keys, members, strict=True):
        alike.setdefault(key, []).append(member)
    return alike


def _check_group(group: dict[str, Any], rule: Rule) -> None:
    _check_lr(group["lr"])
    check("weight_decay", group["weight_decay"], 0, math.inf)
    dataclasses.replace(rule, **{f: group[f] for f in plain_fields(type(rule))})
    Options(**{f.name: group[f.name] for f in dataclasses.fields(Options)})


def _check_lr(lr: Any) -> None:
    check("lr", lr.item() if isinstance(lr, Tensor) and lr.numel() == 1 else lr, 0, math.inf, closed="()")


def _check_parameter(name: str, parameter: Tensor, group: dict[str, Any], rule: Rule) -> None:
    by_entry = rule.works_on == "entries" and group["lr_scale"] == "none" and not group["hyperball"]
    fits = parameter.is_floating_point() or (parameter.is_complex() and by_entry)
    if not fits or parameter.layout != torch.strided:
        raise TypeError(
            f"{name}: expected a real floating-point tensor, got {parameter.dtype}, {parameter.layout}; methods that "
            "work entry by entry take complex ones too, without lr_scale and hyperball"
        )
    if rule.works_on == "matrices":
        if parameter.ndim < 2 and group["role"] == "hidden":
            raise ValueError(
                f"{name}: {rule.name} steps real matrices, got shape {tuple(parameter.shape)}; give the model instead "
                "of its parameters, so that vectors go to another rule, or a group with the role they have"
            )
        Layout(group["role"], group["blocks"], group["transposed"], group["groups"]).check(parameter.shape, name)


def _named(group: dict[str, Any]) -> Iterable[tuple[str, Tensor]]:
    names = group.get("param_names") or [f"parameter {i}" for i in range(len(group["params"]))]
    return zip(names, group["params"], strict=True)
