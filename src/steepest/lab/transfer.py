# SPDX-License-Identifier: Apache-2.0
"""What a learning rate becomes at a larger width of the text model: factors for each kind of parameter."""

import dataclasses
import math
from typing import final

import torch
from torch import nn

from steepest.lab.comparison import Method
from steepest.nn import Llama, LlamaConfig, WidthScaling
from steepest.nn.width_table import Parametrization
from steepest.optim.adam_rule import AdamRule
from steepest.optim.spec import Spec
from steepest.train.config import RunConfig
from steepest.train.optimizers import rule_of


@final
@dataclasses.dataclass(frozen=True)
class Scaled:
    """What parameters of one role and growth get.

    Args:
        role: Of the parameters.
        count: How many there are.
        lr: Their learning rate at the larger width.
        lr_factor: That over the one at the tuned width.
        init_factor: Their initial values are multiplied by this.
    """

    role: str
    count: int
    lr: float
    lr_factor: float
    init_factor: float


@final
@dataclasses.dataclass(frozen=True)
class Transfer:
    """A rate at a larger width.

    Args:
        base: The tuned width.
        width: The larger one.
        parametrization: Whose factors.
        rows: One for each role and growth.
    """

    base: int
    width: int
    parametrization: str
    rows: tuple[Scaled, ...]


def scaling_of(model: LlamaConfig, parametrization: Parametrization = "mup") -> WidthScaling:
    """Return the scaling of a model's family: heads of its size grow in number, the feed-forward in proportion.

    Args:
        model: At the tuned width.
        parametrization: `"mup"` or `"spectral"`.

    Returns:
        The scaling; `build(width)` makes the wide model and `param_groups` its groups.

    Raises:
        ValueError: If the model is no Llama: how others go with the width is not known here.
    """
    if not isinstance(model, LlamaConfig) or not issubclass(type(_member(model, model.width)), Llama):
        raise ValueError(f"expected a Llama to carry over to another width, got {type(model).__name__}")
    return WidthScaling(lambda width: _member(model, width), model.width, parametrization=parametrization)


def _member(model: LlamaConfig, width: int) -> nn.Module:
    size = model.width // model.heads
    heads = width // size
    kv = None if model.kv_heads is None else model.kv_heads * heads // model.heads
    ffn = None if model.ffn_width is None else round(model.ffn_width * width / model.width)
    wide = dataclasses.replace(model, width=width, heads=heads, kv_heads=kv, ffn_width=ffn)
    return wide.build(torch.Generator().manual_seed(0))


def transferred(
    run: RunConfig, method: Method, lr: float, width: int, *, parametrization: Parametrization = "mup"
) -> Transfer:
    """Return what a rate tuned on a run's model becomes at a larger width, in number of layers and all else the same.

    Args:
        run: The tuned run.
        method: Its method.
        lr: Its learning rate.
        width: A multiple of the size of a head.
        parametrization: Whose factors.

    Raises:
        ValueError: If the width does not fit or the model is no Llama.
    """
    size = run.model.width // run.model.heads
    if width < size or width % size:
        raise ValueError(f"--width: expected a multiple of the size of a head, {size}, got {width}")
    scaling = scaling_of(run.model, parametrization)  # pyright: ignore[reportArgumentType] (it refuses others)
    rule, adam_lr = rule_of(Spec.parse(method.spec)), lr * method.adam_lr_ratio
    rows: dict[tuple[str, float, float, float], int] = {}
    for role in scaling.roles(width):
        own = rule.for_role(str(role.role))
        factor = scaling.lr_factor(role, own or AdamRule(betas=run.optim.betas))
        rate = factor * (lr if own else adam_lr)
        key = (str(role.role), _digits(rate), _digits(factor), _digits(scaling.init_factor(role)))
        rows[key] = rows.get(key, 0) + 1
    found = tuple(Scaled(role, count, *rest) for (role, *rest), count in rows.items())
    return Transfer(run.model.width, width, parametrization, found)


def _digits(value: float) -> float:
    return float(f"{value:.4g}") if math.isfinite(value) else value
