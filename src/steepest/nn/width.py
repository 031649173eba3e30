# SPDX-License-Identifier: Apache-2.0
"""Width scaling: tune a narrow model, train a wide one with its numbers."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from steepest.geometry.entrywise import Sign
from steepest.geometry.spectral import RMSToRMS, Spectral
from steepest.nn.width_table import Kind, Parametrization, Update, abc, size_factors
from steepest.optim.adam_rule import AdamRule
from steepest.optim.groups import param_groups
from steepest.optim.roles import ParameterRole, Role, parameter_roles
from steepest.optim.roles_overrides import Overrides
from steepest.optim.rule import Rule
from steepest.optim.scale import lr_scale_factor
from steepest.optim.sgd import SGDRule

Family = Callable[[int], nn.Module]
#: Random entries of a parameter, over several draws, from which its initial size is measured, and most draws.
_ENTRIES, _DRAWS = 512, 32
#: Largest distance of a measured power from a half one.
_TOLERANCE = 0.2


@final
@dataclasses.dataclass(frozen=True)
class WidthRole:
    """How one parameter goes with the width.

    Args:
        name: Of the parameter.
        role: See `steepest.optim.parameter_roles`.
        kind: Which of its dimensions grow, see `abc`.
        fans: Outputs and inputs of one matrix; inputs are 1 for vectors and embeddings.
        base_fans: The same at the base width.
        law_growth: The growth by which the family's own initialization goes: `growth`, and for what does not grow
            itself that of the width.
        size_law: Its standard deviation goes by `law_growth` to minus this power.
    """

    name: str
    role: Role
    kind: Kind
    fans: tuple[int, int]
    base_fans: tuple[int, int]
    law_growth: float
    size_law: float

    @property
    def growth(self) -> float:
        """Ratio of the growing dimension to that of the base; of the inputs where both grow."""
        index = 0 if self.kind == "input" else 1
        return self.fans[index] / self.base_fans[index]


@final
class WidthScaling:
    r"""Scales initialization and learning rates of a family of models: the base width's numbers serve all widths.

    The family is a function from a width to a model. Two members on the meta device, of `base` and of four times that
    width, tell which dimensions of each parameter grow, and small real ones how the family's own initialization goes
    with the width. From the parametrization's table (`abc`) follow two factors for each parameter. The forward pass
    stays as it is: there are no multipliers, but for a head that is tied to the embedding, whose input is divided by
    the growth.

    At the base width every factor is one: the model and its training are those of the family, bit for bit.

    Args:
        family: From a width to a model with its initial weights.
        base: The width at which learning rates were tuned.
        parametrization: `"mup"`, `"spectral"`, `"ntk"`, `"mean_field"`, or `"sp"`: the family as it is.
        queries: Where the heads of attention grow in size: parts of the names of the query weights (`"q_proj"`). They
            are scaled by $\sqrt{d_0 / d}$, which makes the usual $q \cdot k / \sqrt d$ go by $1/d$, as correlated
            queries and keys ask for. Not for heads of a fixed size that grow in number.
        overrides: See `steepest.optim.parameter_roles`, for parameters that it does not recognise.

    Raises:
        ValueError: If the names or dimensions of the members differ, the width changes nothing, the initialization
            follows no half power of the width, or a table has no entry for a kind of parameter.

    Example:
        >>> from steepest.nn import MLP
        >>> from steepest.optim import AdamW
        >>> scaling = WidthScaling(lambda width: MLP((64, width, width, 10)), base=64)
        >>> model = scaling.build(256)
        >>> optimizer = AdamW(scaling.param_groups(model), lr=1e-3)
        >>> {group["role"]: group["lr_factor"] for group in optimizer.param_groups}["head"]
        0.25

    References:
        Yang and Hu (2021), arXiv 2011.14522. Yang et al. (2022), Tensor Programs V, arXiv 2203.03466, table 3 (a form
        without multipliers). Yang, Simon and Bernstein (2023), arXiv 2310.17813.
    """

    def __init__(
        self,
        family: Family,
        base: int,
        *,
        parametrization: Parametrization = "mup",
        queries: tuple[str, ...] = (),
        overrides: Overrides | None = None,
    ) -> None:
        self.family, self.base, self.queries = family, base, queries
        self.parametrization: Parametrization = parametrization
        self._overrides = overrides
        self._base = self._described(base)
        self._wide = self._described(4 * base)
        if self._base.keys() != self._wide.keys():
            odd = sorted(self._base.keys() ^ self._wide.keys())
            raise ValueError(f"family: parameter {odd[0]!r} is there at one width only; the depth must not change")
        if all(_fans(role) == _fans(self._wide[name]) for name, role in self._base.items()):
            raise ValueError(f"family: the models of width {base} and {4 * base} have the same shapes; use the width")
        for query in queries:
            if not any(query in name for name in self._base):
                raise ValueError(f"queries: {query!r} is in no parameter's name")
        self._kinds: dict[str, Kind] = {name: _kind(role, self._wide[name]) for name, role in self._base.items()}
        self._laws = dict.fromkeys(self._base, 0.0) if parametrization == "sp" else self._size_laws()
        for kind in self._kinds.values():
            abc(parametrization, kind)

    def roles(self, width: int) -> list[WidthRole]:
        """Return how each parameter goes with the width.

        Args:
            width: Of the member whose sizes are given.
        """
        return self._with_growth(self._described(width))

    def build(self, width: int) -> nn.Module:
        """Return a member of the family with its initialization scaled.

        Args:
            width: At least 1.
        """
        model = self.family(width)
        self.scale_init_(model)
        return model

    @torch.no_grad()
    def scale_init_(self, model: nn.Module) -> None:
        """Scale the initial weights of a member of the family in place; to be called once.

        Args:
            model: As the family made it.

        Raises:
            ValueError: If its parameters are not those of the family, or its head is tied and no `nn.Linear`.
        """
        parameters = dict(model.named_parameters())
        for role in self._roles_of(model):
            factor = self.init_factor(role)
            if factor != 1:
                parameters[role.name].mul_(factor)
            if role.role == Role.TIED and role.growth != 1:
                _divide_input(model, parameters[role.name], role.growth)

    def init_factor(self, role: WidthRole) -> float:
        """Return what the family's initial weights are multiplied by.

        Args:
            role: Of a parameter, at the width in question.
        """
        if self.parametrization == "sp":
            return 1.0
        wanted, _ = self._factors(role, "gradient")
        factor = wanted * role.law_growth**role.size_law * self._query_factor(role)
        return 1.0 if math.isclose(factor, 1.0, rel_tol=1e-12) else factor

    def lr_factor(self, role: WidthRole, rule: Rule, *, update: Update | None = None) -> float:
        """Return the factor of the learning rate, beyond what the rule's own scale by shape gives.

        Args:
            role: Of a parameter.
            rule: That steps it.
            update: What its step is, see `abc`; None asks the rule.

        Raises:
            ValueError: If the rule does not tell what its step is.
        """
        update = update or update_of(rule)
        if self.parametrization == "sp":
            return 1.0
        _, wanted = self._factors(role, update)
        given = _own_factor(rule, role.fans) / _own_factor(rule, role.base_fans)
        return wanted / given * self._query_factor(role) ** {"gradient": 2, "entrywise": 1, "spectral": 1}[update]

    def param_groups(
        self,
        model: nn.Module,
        rule: Rule | None = None,
        *,
        others: Rule | None = None,
        weight_decay: float | None = None,
        decay_with_lr: bool = False,
        update: Update | None = None,
        **more: Any,
    ) -> list[dict[str, Any]]:
        r"""Return parameter groups of a member, with the factor of each learning rate: `steepest.optim.param_groups`.

        Decoupled weight decay is $W \leftarrow (1 - \eta \lambda) W$ with the learning rate $\eta$ without
        factors, so that what it does in a step is the same at every width; `decay_with_lr` takes the factor in. Decay
        that is part of the gradient (`decay="l2"`) has the factor in any case: avoid it here.

        Args:
            model: From `build`, or a member to which `scale_init_` was done.
            rule: Of the optimizer; None takes Adam's.
            others: Rule of the parameters that a matrix method leaves; None takes Adam's.
            weight_decay: $\lambda$, of all but vectors; None leaves it to the optimizer.
            decay_with_lr: Multiply `weight_decay`, which must be given, by the factor of the learning rate.
            update: What a step of `rule` is, see `abc`; None asks the rule.
            **more: See `steepest.optim.param_groups`.

        Raises:
            ValueError: If the parameters are not those of the family, or a rule does not tell what its step is.
        """
        if decay_with_lr and weight_decay is None:
            raise ValueError("decay_with_lr: give weight_decay here too, and none to the optimizer")
        rule, others = rule or AdamRule(), others or AdamRule(betas=(0.9, 0.95))
        factors, scales = {}, {}
        for role in self._roles_of(model):
            own = rule.for_role(str(role.role))
            kind = None if own is None else update
            factors[role.name] = self.lr_factor(role, own or others, update=kind)
            scales[role.name] = (own or others).lr_scale
        groups = param_groups(model, rule, others=others, lr_factors=factors, overrides=self._overrides, **more)
        for group in groups:
            group["lr_scale"] = scales[group["param_names"][0]]
            if weight_decay is not None:
                factor = group.get("lr_factor", 1.0) if decay_with_lr else 1.0
                group.setdefault("weight_decay", weight_decay * factor)
        return groups

    def table(self, width: int, rule: Rule | None = None) -> str:
        """Return a table for people: each parameter with its kind, growth and factors.

        Args:
            width: Of the member.
            rule: Of the optimizer; None takes Adam's.
        """
        rule = rule or AdamRule()
        lines = [f"{'parameter':40} {'kind':7} {'growth':>7} {'init x':>9} {'lr x':>9}"]
        for role in self.roles(width):
            own = rule.for_role(str(role.role)) or AdamRule()
            numbers = f"{role.growth:7.3g} {self.init_factor(role):9.4g} {self.lr_factor(role, own):9.4g}"
            lines.append(f"{role.name:40} {role.kind:7} {numbers}")
        return "\n".join(lines)

    def _factors(self, role: WidthRole, update: Update) -> tuple[float, float]:
        return size_factors(self.parametrization, role.kind, role.fans, role.base_fans, update=update)

    def _query_factor(self, role: WidthRole) -> float:
        return role.growth**-0.5 if any(query in role.name for query in self.queries) else 1.0

    def _described(self, width: int) -> dict[str, ParameterRole]:
        with torch.device("meta"):
            model = self.family(width)
        return self._found(model)

    def _found(self, model: nn.Module) -> dict[str, ParameterRole]:
        return {role.name: role for role in parameter_roles(model, overrides=self._overrides)}

    def _roles_of(self, model: nn.Module) -> list[WidthRole]:
        found = self._found(model)
        if found.keys() != self._base.keys():
            odd = sorted(found.keys() ^ self._base.keys())
            raise ValueError(f"model: expected a member of the family, but {odd[0]!r} is a parameter of one alone")
        return self._with_growth(found)

    def _with_growth(self, found: Mapping[str, ParameterRole]) -> list[WidthRole]:
        roles = []
        for name, role in found.items():
            fans, base = _fans(role), _fans(self._base[name])
            roles.append(WidthRole(name, role.role, self._kinds[name], fans, base, 1.0, self._laws[name]))
        width = next(role.growth for role in roles if role.kind != "fixed")
        return [dataclasses.replace(r, law_growth=width if r.kind == "fixed" else r.growth) for r in roles]

    def _size_laws(self) -> dict[str, float]:
        """Half powers by which the family's own initial sizes go with the width, from small members."""
        narrow, wide = _mean_squares(self.family, self.base), _mean_squares(self.family, 4 * self.base)
        laws = {}
        self._laws = dict.fromkeys(self._base, 0.0)
        for role in self._with_growth(self._wide):
            before, after = narrow[role.name], wide[role.name]
            power = 0.0
            if before != after:
                power = math.log(before / after) / (2 * math.log(role.law_growth)) if before and after else math.nan
            laws[role.name] = 0.0 if math.isnan(power) else round(2 * power) / 2
            if not abs(laws[role.name] - power) <= _TOLERANCE:
                raise ValueError(
                    f"family: the initial size of {role.name} goes from {before**0.5:.3g} to {after**0.5:.3g} over a "
                    f"growth of {role.law_growth:g}; expected a half power of the width"
                )
        return laws


def update_of(rule: Rule) -> Update:
    """Return what the step of a rule is, as far as its size goes: see `abc`.

    Args:
        rule: Any.

    Raises:
        ValueError: If that is not known: say it with `update`.

    Example:
        >>> update_of(AdamRule())
        'entrywise'
    """
    norm = rule.norm()
    if isinstance(rule, SGDRule):
        return "gradient"
    if isinstance(norm, Spectral | RMSToRMS):
        return "spectral"
    if isinstance(rule, AdamRule) or isinstance(norm, Sign):
        return "entrywise"
    raise ValueError(
        f"{rule.name}: how large its steps are for a wide matrix is not known; give update='gradient', 'entrywise' or "
        "'spectral'"
    )


def _own_factor(rule: Rule, fans: tuple[int, int]) -> float:
    """What the rule itself makes of a shape."""
    own = math.sqrt(fans[0] / fans[1]) if isinstance(rule.norm(), RMSToRMS) else 1.0
    return own * lr_scale_factor(rule.lr_scale, *fans)


def _fans(role: ParameterRole) -> tuple[int, int]:
    if role.role == Role.TIED:  # described as the head it is too: tokens by width
        return role.fan_in, 1
    return role.fan_out, 1 if role.role == Role.EMBEDDING else role.fan_in


def _kind(narrow: ParameterRole, wide: ParameterRole) -> Kind:
    grows = tuple(a != b for a, b in zip(_fans(narrow), _fans(wide), strict=True))
    if narrow.role == Role.OTHER and narrow.shape != wide.shape:
        raise ValueError(
            f"{narrow.name}: it is not known which dimension of {narrow.shape} is the input; say what it is with "
            "overrides, for example {'positions': RoleOverride('embedding', transposed=True)}"
        )
    kinds: dict[tuple[bool, ...], Kind] = {
        (True, False): "input",
        (True, True): "hidden",
        (False, True): "output",
        (False, False): "fixed",
    }
    return kinds[grows]


def _mean_squares(family: Family, width: int) -> dict[str, float]:
    """Mean square of each parameter over as many draws as small ones need."""
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        for _ in range(_DRAWS):
            for name, parameter in family(width).named_parameters():
                sums[name] = sums.get(name, 0.0) + parameter.double().square().sum().item()
                counts[name] = counts.get(name, 0) + parameter.numel()
            if min(counts.values()) >= _ENTRIES:
                break
    return {name: sums[name] / counts[name] for name in sums}


@final
class _Divide:
    """A forward pre-hook that divides the input; a class, so that models can be copied and pickled."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        del module
        return inputs[0] / self.by, *inputs[1:]


def _divide_input(model: nn.Module, weight: Tensor, by: float) -> None:
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.weight is weight]
    if not heads:
        raise ValueError(
            "the head is tied to the embedding but is no nn.Linear, so its input cannot be divided by the growth; "
            "untie it, or make it an nn.Linear that shares the weight"
        )
    for head in heads:
        head.register_forward_pre_hook(_Divide(by))
