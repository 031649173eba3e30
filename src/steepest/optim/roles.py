# SPDX-License-Identifier: Apache-2.0
"""What each parameter of a model is: from module types, shapes and use; from names as a last resort."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import nn

from steepest.optim.roles_heads import find_heads
from steepest.optim.roles_modules import Finding, find_role, lora_role
from steepest.optim.roles_overrides import Overrides, override_roles
from steepest.optim.roles_overrides import RoleOverride as RoleOverride
from steepest.optim.roles_parameter import ParameterRole as ParameterRole
from steepest.optim.roles_parameter import Role as Role
from steepest.optim.roles_sites import Site, find_sites, type_name, unwrapped
from steepest.optim.roles_use import Use, observe_use

__all__ = ["ParameterRole", "Role", "RoleOverride", "frozen_parameters", "parameter_roles"]


def parameter_roles(
    model: nn.Module, *, overrides: Overrides | None = None, example_inputs: Any = None
) -> list[ParameterRole]:
    """Return what each trainable parameter of a model is, every parameter once.

    A parameter that is shared stands under its first name, with its other names as aliases. Prefixes of wrappers
    (data-parallel, `torch.compile`, FSDP, activation checkpointing) are not part of a name. Works on the meta device;
    sharded parameters have the shape of the whole tensor.

    Args:
        model: Any module.
        overrides: From patterns over names to roles (or `RoleOverride`), for what was not recognised as it is. A string
            is a shell pattern (`"*.router.weight"`), after `re:` a regular expression.
        example_inputs: Inputs of one forward pass: a tuple of positional arguments, a mapping of keyword arguments, or
            the only argument. With it heads and parameters of unknown modules are recognised by what the pass does with
            them, not by order and name. The pass runs on the meta device where the model can, else for real; it changes
            nothing.

    Returns:
        One entry a parameter, in the order of `model.named_parameters()`.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If a module is lazy and has no shapes yet, a pattern matches nothing, patterns disagree, a role does
            not fit a shape, or the example inputs lead to no output with a gradient.

    Example:
        >>> model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))
        >>> [(entry.name, str(entry.role)) for entry in parameter_roles(model)][:3]
        [('0.weight', 'embedding'), ('1.weight', 'hidden'), ('1.bias', 'bias')]
        >>> parameter_roles(model)[-2].role
        <Role.HEAD: 'head'>
    """
    found = _find(model, example_inputs)
    trainable = [role for role in found if role.trainable]
    frozen = [role for role in found if not role.trainable]
    return override_roles(trainable, overrides or {}, frozen=frozen)


def frozen_parameters(model: nn.Module) -> list[ParameterRole]:
    """Return what the parameters that ask for no gradient are; no optimizer steps them.

    Args:
        model: Any module.

    Returns:
        As from `parameter_roles`, with `trainable` false.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If a module is lazy and has no shapes yet.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> _ = model.weight.requires_grad_(False)
        >>> [entry.name for entry in frozen_parameters(model)]
        ['weight']
    """
    return [role for role in _find(model, None) if not role.trainable]


def _find(model: nn.Module, example_inputs: Any) -> list[ParameterRole]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    sites = find_sites(model)
    model = unwrapped(model)
    uses = None if example_inputs is None else observe_use(model, example_inputs)
    heads = find_heads(model, sites, uses)
    places: dict[int, list[Site]] = {}
    for site in sites:
        places.setdefault(id(site.parameter), []).append(site)
    partners = _lora_partners(sites)
    return [_describe(own, heads, (uses or {}).get(key), partners) for key, own in places.items()]


def _describe(
    own: list[Site], heads: Mapping[int, str], use: Use | None, partners: Mapping[str, tuple[int, ...]]
) -> ParameterRole:
    first = own[0]
    shape = first.shape
    finding = _join([find_role(site, use) for site in own], heads.get(id(first.parameter)), use)
    if finding.role in (Role.LORA_A, Role.LORA_B):
        finding = dataclasses.replace(finding, transposed=_is_lora_transposed(first, partners))
    names = dict.fromkeys(site.name for site in own)
    name, *aliases = names
    return ParameterRole(
        name=name,
        role=finding.role,
        shape=shape,
        blocks=finding.blocks,
        transposed=finding.transposed,
        module_type=type_name(first.module),
        reason=finding.reason,
        aliases=tuple(aliases),
        trainable=first.parameter.requires_grad,
        groups=finding.groups,
    )


def _join(findings: list[Finding], head: str | None, use: Use | None) -> Finding:
    """One finding from those of all places of a parameter."""
    found = {finding.role for finding in findings}
    multiplied = bool(found & {Role.HIDDEN, Role.TIED}) or (use is not None and "product" in use.kinds)
    if Role.EMBEDDING in found and (multiplied or head):
        return Finding(Role.TIED, "It is looked up as an embedding, and outputs are made with it too.")
    if head and found & {Role.HIDDEN, Role.OTHER}:
        kept = next(finding for finding in findings if finding.role in (Role.HIDDEN, Role.OTHER))
        return Finding(Role.HEAD, head, transposed=kept.transposed)
    rank = (Role.VECTOR, Role.OTHER)  # what only shape and name say gives way to what a type says
    return min(findings, key=lambda finding: finding.role in rank)


def _lora_partners(sites: list[Site]) -> dict[str, tuple[int, ...]]:
    """Shape of each low-rank factor, under a key that its partner can form."""
    return {_lora_key(site, role): site.shape for site in sites if (role := lora_role(site))}


def _lora_key(site: Site, role: Role) -> str:
    plain = site.name.lower().replace("lora_down", "lora_a").replace("lora_up", "lora_b")
    for letter in "ab":
        plain = plain.replace(f"lora_{letter}", "lora_?").replace(f"lora_embedding_{letter}", "lora_?")
    return f"{plain} {role}"


def _is_lora_transposed(site: Site, partners: Mapping[str, tuple[int, ...]]) -> bool:
    """Factors are (r, in) and (out, r); stored (in, r) and (r, out) if only then their ranks agree."""
    a = partners.get(_lora_key(site, Role.LORA_A))
    b = partners.get(_lora_key(site, Role.LORA_B))
    return a is not None and b is not None and len(a) == len(b) == 2 and a[0] != b[1] and a[1] == b[0]
