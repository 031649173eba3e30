# SPDX-License-Identifier: Apache-2.0
"""Roles that the user gives by pattern, in place of the ones that were found."""

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from steepest.optim.roles_parameter import CONV_ROLES, VECTOR_ROLES, ParameterRole, Role

_NEEDS_DIMENSIONS = {Role.EXPERTS: 3, **dict.fromkeys(CONV_ROLES, 3), **dict.fromkeys(VECTOR_ROLES | {Role.OTHER}, 0)}


@final
@dataclass(frozen=True)
class RoleOverride:
    """What to change about a parameter's role; None keeps what was found.

    Args:
        role: Its role, or the role's name.
        blocks: Output sizes of the parts of a fused projection; () for one whole matrix.
        transposed: Whether it is stored (in, out).

    Raises:
        ValueError: If there is no such role.
    """

    role: Role | str | None = None
    blocks: tuple[int, ...] | None = None
    transposed: bool | None = None

    def __post_init__(self) -> None:
        names = [str(role) for role in Role]
        if self.role is not None and self.role not in names:
            near = difflib.get_close_matches(str(self.role), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no role {str(self.role)!r}{hint} There are {', '.join(names)}")


Overrides = Mapping[str | re.Pattern[str], "Role | str | RoleOverride"]


def override_roles(
    roles: Sequence[ParameterRole], overrides: Overrides, *, frozen: Sequence[ParameterRole] = ()
) -> list[ParameterRole]:
    """Return the roles with those of the matching parameters replaced.

    Args:
        roles: What was found.
        overrides: From patterns to roles. A string is a shell pattern over the whole name (`*` matches dots too), with
            `re:` before it a regular expression; a compiled expression works too. Regular expressions match whole
            names. A parameter is matched by any of its names.
        frozen: Parameters that ask for no gradient, to say so if a pattern matches only those.

    Raises:
        ValueError: If a pattern matches nothing, two patterns want different things of one parameter, or a role does
            not fit a parameter's shape.
    """
    wanted: dict[str, dict[str, RoleOverride]] = {}
    for pattern, value in overrides.items():
        matches, text = _matcher(pattern)
        change = value if isinstance(value, RoleOverride) else RoleOverride(value)
        hits = [role for role in roles if any(map(matches, (role.name, *role.aliases)))]
        if not hits:
            raise ValueError(_nothing_matched(text, matches, roles, frozen))
        for role in hits:
            wanted.setdefault(role.name, {})[text] = change
    return [_changed(role, wanted[role.name]) if role.name in wanted else role for role in roles]


def _matcher(pattern: str | re.Pattern[str]) -> tuple[Callable[[str], bool], str]:
    if isinstance(pattern, re.Pattern):
        compiled, text = pattern, f"re:{pattern.pattern}"
    elif pattern.startswith("re:"):
        text = pattern
        try:
            compiled = re.compile(pattern.removeprefix("re:"))
        except re.error as error:
            raise ValueError(f"override {pattern!r} is not a regular expression: {error}") from error
    else:
        return lambda name: fnmatch.fnmatchcase(name, pattern), pattern
    return lambda name: compiled.fullmatch(name) is not None, text


def _nothing_matched(
    text: str, matches: Callable[[str], bool], roles: Sequence[ParameterRole], frozen: Sequence[ParameterRole]
) -> str:
    still = [role.name for role in frozen if matches(role.name)]
    if still:
        return f"override {text!r} matches only frozen parameters ({still[0]}, ...), which no optimizer steps"
    names = [name for role in roles for name in (role.name, *role.aliases)]
    bare = re.sub(r"[*?\[\]\\^$()+|]", "", text.removeprefix("re:")).strip(".")
    inside = [name for name in names if bare and bare.lower() in name.lower()]
    near = inside[:3] or difflib.get_close_matches(bare, names, n=3, cutoff=0.0)
    return f"override {text!r} matches no parameter; the nearest names are {', '.join(near) or 'none: all are frozen'}"


def _changed(found: ParameterRole, changes: dict[str, RoleOverride]) -> ParameterRole:
    merged: dict[str, object] = {}
    for field in ("role", "blocks", "transposed"):
        values = {text: getattr(change, field) for text, change in changes.items()}
        values = {text: value for text, value in values.items() if value is not None}
        if len(set(values.values())) > 1:
            said = ", ".join(f"{text!r} says {value}" for text, value in values.items())
            raise ValueError(f"overrides disagree about {field} of {found.name}: {said}")
        if values:
            merged[field] = next(iter(values.values()))
    reason = f"The override {', '.join(map(repr, changes))} says so."
    role = Role(merged.get("role", found.role))
    _check_shape(found, role)
    merged |= {"role": role, "reason": reason}
    if role in VECTOR_ROLES:
        merged.setdefault("blocks", ())
    if role not in CONV_ROLES and role is not found.role:
        merged["groups"] = 1
    if {found.role, role} & {Role.EMBEDDING} and {found.role, role} & {Role.TIED, Role.HEAD}:
        # The same rows, read from the other side: a token looks one up, or a feature vector is multiplied with all.
        merged.setdefault("transposed", role is Role.EMBEDDING)
    changed = dataclasses.replace(found, **merged)  # pyright: ignore[reportArgumentType]
    _check_blocks(changed)
    return changed


def _check_shape(found: ParameterRole, role: Role) -> None:
    needed = _NEEDS_DIMENSIONS.get(role, 2)
    if len(found.shape) < needed:
        raise ValueError(
            f"{found.name} has shape {found.shape} and cannot be {str(role)!r}, which needs {needed} dimensions"
        )


def _check_blocks(role: ParameterRole) -> None:
    outputs = dataclasses.replace(role, blocks=()).fan_out
    if role.blocks and (sum(role.blocks) != outputs or min(role.blocks) < 1):
        raise ValueError(f"{role.name}: blocks must be sizes that sum to its {outputs} outputs, got {role.blocks}")
