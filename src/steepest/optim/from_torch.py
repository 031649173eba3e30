# SPDX-License-Identifier: Apache-2.0
"""Continue what an optimizer of `torch.optim` began."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steepest.optim import compression
from steepest.optim.engine import Engine
from steepest.optim.rule import Directional, Rule, plain_fields
from steepest.optim.sharding import is_sharded, spread_again
from steepest.optim.stepping import GroupStep, work_dtype

#: `adjust_lr_fn` of `torch.optim.Muon`, and what we call it.
_LR_SCALES = {None: "original", "original": "original", "match_rms_adamw": "match_rms"}
_FOREIGN = ("maximize",)


class _Saved(NamedTuple):
    """What `torch.optim` kept for one parameter."""

    state: Mapping[str, Any]
    group: Mapping[str, Any]


@torch.no_grad()
def load_torch_state(optimizer: Engine, state_dict: Mapping[str, Any], *, names: Sequence[str] | None = None) -> None:
    """Give an optimizer the states and settings of `torch.optim`'s Adam, AdamW, SGD or Muon, to go on from there.

    Args:
        optimizer: Of the same method, with parameters of the same shapes; its groups may be finer than those saved.
            Learning rate, weight decay and the method's settings become those that were saved; the options of the
            engine and Muon's polar factor stay.
        state_dict: From `torch.optim.Optimizer.state_dict`. It may hold some of the parameters only, if they are named:
            two optimizers are read by two calls.
        names: Of the saved parameters in their order, for example `[name for name, _ in model.named_parameters()]`,
            where they were not saved with names. None: by the saved names, or else by place.

    Raises:
        ValueError: If parameters, shapes or methods do not fit; nothing is changed then.

    Numerics:
        States take the dtype of the arithmetic here (float32 for 16-bit weights), and the format of the options.

    Example:
        >>> import torch
        >>> from steepest.optim import AdamW
        >>> model = torch.nn.Linear(3, 2)
        >>> old = torch.optim.AdamW(model.parameters(), lr=0.5, betas=(0.8, 0.99))
        >>> model(torch.ones(1, 3)).sum().backward()
        >>> old.step()
        >>> new = AdamW(model)
        >>> load_torch_state(new, old.state_dict(), names=[name for name, _ in model.named_parameters()])
        >>> new.param_groups[0]["lr"], new.state[model.weight]["step"]
        (0.5, 1)
    """
    saved = _by_name_or_place(optimizer, state_dict, names)
    labels = _own_labels(optimizer, by_name=any(isinstance(label, str) for label in saved))
    place, plans = 0, []
    for index, (group, own) in enumerate(zip(optimizer.param_groups, labels, strict=True)):
        rule, members, olds = optimizer.rule_of(index), [], []
        for label, parameter in zip(own, group["params"], strict=True):
            if label in saved:
                one = saved.pop(label)
                _check_state(label, parameter, one.state, rule)
                members.append((place, parameter, one.state))
                olds.append(one.group)
            place += 1
        plans.append((group, rule, _settings(group, rule, olds), members))
    if saved:
        raise ValueError(f"the saved state has {sorted(map(str, saved))[:3]}, which this optimizer does not step")
    for group, rule, settings, members in plans:
        group.update(settings)
        for place, parameter, state in members:
            if state:
                optimizer.state[parameter] = _state(state, parameter, GroupStep(group, rule, 0, 0), place)


def _by_name_or_place(
    optimizer: Engine, state_dict: Mapping[str, Any], names: Sequence[str] | None
) -> dict[str | int, _Saved]:
    groups = state_dict["param_groups"]
    if any("rule" in group for group in groups):
        raise ValueError("the state is of an optimizer of steepest; use load_state_dict")
    numbers = [number for group in groups for number in group["params"]]
    own = [name for group in groups for name in group.get("param_names") or []]
    labels: Sequence[str | int] = names or own or range(len(numbers))
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    if len(labels) != len(numbers) or (not names and not own and count != len(numbers)):
        raise ValueError(
            f"the saved state has {len(numbers)} parameters, there are {len(names) if names else count} here; give "
            "names=, those of the saved parameters in their order"
        )
    owners = [group for group in groups for _ in group["params"]]
    states = state_dict["state"]
    return {
        label: _Saved(states.get(number, {}), group)
        for label, number, group in zip(labels, numbers, owners, strict=True)
    }


def _own_labels(optimizer: Engine, *, by_name: bool) -> list[list[str | int]]:
    """Name of each parameter by group, or its place."""
    places = iter(range(sum(len(group["params"]) for group in optimizer.param_groups)))
    found: list[list[str | int]] = []
    for group in optimizer.param_groups:
        numbers = [next(places) for _ in group["params"]]
        if by_name and "param_names" not in group:
            raise ValueError("this optimizer's parameters have no names; make it of the model or of named parameters")
        found.append(list(group["param_names"]) if by_name else [*numbers])
    return found


def _expected(parameter: Tensor, rule: Rule) -> set[str]:
    shape = torch.view_as_real(parameter).shape if parameter.is_complex() else parameter.shape
    like = torch.empty(shape if rule.works_on == "entries" or isinstance(rule, Directional) else (1, 1, 1))
    made = set(rule.init(like))
    return made | set(rule.init_matrices(like.reshape(1, -1, 1))) if isinstance(rule, Directional) else made


def _check_state(name: Any, parameter: Tensor, state: Mapping[str, Any], rule: Rule) -> None:
    have = {key for key, value in state.items() if key != "step" and value is not None}
    wanted = _expected(parameter, rule)
    if state and have != wanted:
        raise ValueError(
            f"{name}: {rule.name} keeps {sorted(wanted)}, the saved state has {sorted(have)}; make the "
            "optimizer of the method that was saved"
        )
    for key in sorted(have):
        if tuple(state[key].shape) != tuple(parameter.shape):
            raise ValueError(f"{name}: expected {key} of shape {tuple(parameter.shape)}, got {tuple(state[key].shape)}")


def _settings(group: Mapping[str, Any], rule: Rule, saved: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a group of ours takes over from the groups that its parameters were in."""
    found: dict[str, Any] = {}
    for old in saved:
        if any(old.get(key) for key in _FOREIGN):
            raise ValueError(f"{_FOREIGN[0]}=True has no counterpart here; negate the loss instead")
        own = {key: old[key] for key in ("lr", "weight_decay", "initial_lr", *plain_fields(type(rule))) if key in old}
        own = {key: tuple(value) if isinstance(value, list) else value for key, value in own.items()}
        if "decoupled_weight_decay" in old:
            own["decay"] = "decoupled" if old["decoupled_weight_decay"] else "l2"
        if "adjust_lr_fn" in old:
            own["lr_scale"] = _LR_SCALES[old["adjust_lr_fn"]]
        for key, value in own.items():
            if found.setdefault(key, value) != value:
                raise ValueError(
                    f"the parameters of the group {group.get('role')} were saved with {key} of {found[key]} and "
                    f"{value}; give the optimizer groups as fine as those saved"
                )
    return found


def _state(saved: Mapping[str, Any], parameter: Tensor, this: GroupStep, number: int) -> dict[str, Any]:
    state: dict[str, Any] = {"step": int(saved.get("step", 1))}
    for key, value in saved.items():
        if isinstance(value, Tensor) and key != "step":
            part = torch.view_as_real(value) if value.is_complex() else value
            part = part.detach().to(parameter.device, work_dtype(part.dtype), copy=True)
            part = spread_again(part, parameter) if not is_sharded(part) else part
            compression.store(state, key, part, this.codec(number))
    return state
