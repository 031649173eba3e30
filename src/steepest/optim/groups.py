# SPDX-License-Identifier: Apache-2.0
"""Which parameter of a model gets which rule."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from steepest.optim.adam_rule import AdamRule
from steepest.optim.roles import parameter_roles
from steepest.optim.roles_overrides import Overrides
from steepest.optim.roles_parameter import VECTOR_ROLES, ParameterRole
from steepest.optim.roles_sites import find_sites
from steepest.optim.rule import MATRIX_ROLES, Rule

#: Where a matrix method steps the matrices, AdamW steps the rest with this learning rate.
OTHERS_LR = 3e-3


def param_groups(
    model: nn.Module,
    rule: Rule | None = None,
    *,
    others: Rule | None = None,
    others_lr: float = OTHERS_LR,
    overrides: Overrides | None = None,
    example_inputs: Any = None,
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    r"""Return parameter groups for a model: each trainable parameter once, by what it is.

    Parameters for which the optimizer's rule is meant (matrices and convolutions for a matrix method, all for an
    entrywise one) are left to the optimizer; the rest gets `others`. Gains, biases and other vectors do not decay.
    Every optimizer of this library that is given a model calls this; call it yourself to change something:

    `Muon(param_groups(model, others_lr=1e-3, overrides={"router.*": "head"}), lr=0.02)`

    Args:
        model: Its trainable parameters are taken, shared ones once.
        rule: Decides which roles the optimizer steps; None: hidden matrices, convolutions, experts, low-rank factors.
        others: Rule of the rest; None takes Adam with betas (0.9, 0.95).
        others_lr: Its learning rate, above 0.
        overrides: See `parameter_roles`: from patterns of names to roles.
        example_inputs: See `parameter_roles`: recognise heads by one forward pass.
        lr_factors: Factor of the learning rate by name of parameter, 1 for those that are not there; see
            `steepest.nn.WidthScaling`.

    Returns:
        Groups with `params`, `param_names`, `role`, `blocks`, `transposed`, `groups`, and where needed `rule`, `lr`,
        `lr_factor` and `weight_decay`.

    Raises:
        TypeError: If `model` is not a module.
        ValueError: If it has no trainable parameter, or an override does not fit (see `parameter_roles`), or a
            factor is given for a name that is none of its trainable parameters or for a rule that steps all as one.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 50))
        >>> [(group["role"], group["param_names"]) for group in param_groups(model)]
        [('embedding', ['0.weight']), ('hidden', ['1.weight']), ('bias', ['1.bias', '3.bias']), ('head', ['3.weight'])]
    """
    roles = parameter_roles(model, overrides=overrides, example_inputs=example_inputs)
    if not roles:
        raise ValueError(f"{type(model).__name__} has no trainable parameters")
    factors = _checked(lr_factors or {}, roles, rule)
    parameters = {site.name: site.parameter for site in find_sites(model)}
    if rule is not None and rule.works_on == "all parameters":
        return [{"params": [parameters[role.name] for role in roles], "param_names": [role.name for role in roles]}]
    alike: dict[tuple[Any, ...], list[ParameterRole]] = {}
    for role in roles:
        key = (str(role.role), role.blocks, role.transposed, role.groups, factors.get(role.name, 1.0))
        alike.setdefault(key, []).append(role)
    found = []
    for (role, blocks, transposed, groups, factor), members in alike.items():
        group: dict[str, Any] = {
            "params": [parameters[member.name] for member in members],
            "param_names": [member.name for member in members],
            "role": role,
            "blocks": blocks,
            "transposed": transposed,
            "groups": groups,
        }
        if factor != 1:
            group["lr_factor"] = factor
        own = rule.for_role(role) is not None if rule else role in MATRIX_ROLES
        if not own:
            group |= {"rule": others or AdamRule(betas=(0.9, 0.95)), "lr": others_lr}
        if role in VECTOR_ROLES:
            group["weight_decay"] = 0.0
        found.append(group)
    return found


def _checked(factors: Mapping[str, float], roles: list[ParameterRole], rule: Rule | None) -> Mapping[str, float]:
    unknown = sorted(set(factors) - {role.name for role in roles})
    if unknown:
        raise ValueError(f"lr_factors: {unknown[0]!r} is no trainable parameter; use the names of named_parameters()")
    if rule is not None and rule.works_on == "all parameters" and set(factors.values()) - {1.0}:
        raise ValueError(f"{rule.name} steps all parameters as one vector, which has one learning rate: no lr_factors")
    return factors
