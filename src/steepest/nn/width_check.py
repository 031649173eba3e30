# SPDX-License-Identifier: Apache-2.0
"""Whether activations and updates stay of one size as the width grows: coordinate check and spectral report."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steepest.geometry.spectral import RMSToRMS
from steepest.nn.width import Family, WidthScaling
from steepest.nn.width_table import Parametrization
from steepest.optim.adam import AdamW
from steepest.optim.adam_rule import AdamRule
from steepest.optim.layout import Layout
from steepest.optim.roles import parameter_roles
from steepest.optim.roles_parameter import VECTOR_ROLES, Role
from steepest.optim.rule import Rule
from steepest.optim.sgd import SGD, SGDRule

Loss = Callable[[Tensor, Tensor], Tensor]


@final
@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckPlan:
    """How a coordinate check trains.

    Args:
        steps: On the same batch; at least 1.
        seeds: Of the initial weights; sizes are averaged over them.
        lr: Learning rate at the base width.
        optimizer: `"adam"` or `"sgd"`.
        loss: Of the model's output and the targets.
        layers: Leaf modules whose outputs are looked at: parts of their names; empty for all that have parameters.

    Raises:
        ValueError: If a value is out of its range.
    """

    steps: int = 4
    seeds: int = 3
    lr: float = 1e-2
    optimizer: str = "adam"
    loss: Loss = F.cross_entropy
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1 or self.seeds < 1:
            raise ValueError(f"steps and seeds: expected at least 1, got {self.steps} and {self.seeds}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr: expected a finite number above 0, got {self.lr}")
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(f"optimizer: expected 'adam' or 'sgd', got {self.optimizer!r}")


@final
@dataclasses.dataclass(frozen=True)
class CoordCheck:
    """Sizes of activations by layer, width and step.

    Args:
        parametrization: Of the family.
        widths: Ascending.
        sizes: By layer: one row a width, one column a step (0 is before the first); each the mean absolute output.
    """

    parametrization: str
    widths: tuple[int, ...]
    sizes: Mapping[str, tuple[tuple[float, ...], ...]]

    def ratios(self, step: int = -1) -> dict[str, float]:
        """Return each layer's size at the largest width over that at the smallest.

        Args:
            step: After which; -1 for the last.
        """
        return {name: rows[-1][step] / rows[0][step] for name, rows in self.sizes.items()}

    def holds(self, tolerance: float = 1.2) -> bool:
        """Whether all ratios after the last step lie between 1 / tolerance and tolerance.

        Args:
            tolerance: Above 1. A check that holds does not prove that learning rates transfer; one that fails proves
                that they do not.
        """
        return all(1 / tolerance <= ratio <= tolerance for ratio in self.ratios().values())

    def figure(self, path: str | Path) -> None:
        """Draw the sizes against the width, one panel a layer, one line a step.

        Args:
            path: A PNG or SVG.
        """
        draw_checks([self], path)


def coord_check(
    family: Family,
    widths: Sequence[int],
    batch: tuple[Tensor, Tensor],
    *,
    parametrization: Parametrization = "mup",
    scaling: WidthScaling | None = None,
    plan: CheckPlan | None = None,
) -> CoordCheck:
    r"""Train members of a family for a few steps and record how large their activations are.

    Under a parametrization in which features are learned at every width, no size moves with the width; a size that
    does shows the layer that is wrong.

    Args:
        family: From a width to a model that takes the batch's inputs.
        widths: At least two; the smallest is the base.
        batch: Inputs and targets.
        parametrization: See `WidthScaling`.
        scaling: Made by you, for queries, overrides or another base; None makes one.
        plan: Steps, seeds, learning rate, optimizer, loss; None takes the defaults.

    Returns:
        Sizes by layer.

    Raises:
        ValueError: If there are fewer than two widths, or no layer is found.

    Example:
        >>> from steepest.nn import MLP
        >>> batch = torch.randn(16, 64), torch.arange(16) % 10
        >>> check = coord_check(lambda width: MLP((64, width, width, 10)), (64, 256), batch)
        >>> sorted(check.sizes)
        ['layers.0', 'layers.1', 'layers.2']

    References:
        Yang et al. (2022), Tensor Programs V, arXiv 2203.03466, appendix D.1.
    """
    widths = tuple(sorted(set(widths)))
    if len(widths) < 2:
        raise ValueError(f"widths: expected at least two, got {list(widths)}")
    plan = plan or CheckPlan()
    scaling = scaling or WidthScaling(family, widths[0], parametrization=parametrization)
    sizes: dict[str, list[tuple[float, ...]]] = {}
    for width in widths:
        runs = [_train(scaling, width, batch, plan, seed) for seed in range(plan.seeds)]
        if not runs[0]:
            raise ValueError(f"layers: no module with parameters has one of {plan.layers} in its name")
        for name in runs[0]:
            columns = zip(*(run[name] for run in runs), strict=True)
            sizes.setdefault(name, []).append(tuple(sum(column) / plan.seeds for column in columns))
    return CoordCheck(scaling.parametrization, widths, {name: tuple(rows) for name, rows in sizes.items()})


def _train(
    scaling: WidthScaling, width: int, batch: tuple[Tensor, Tensor], plan: CheckPlan, seed: int
) -> dict[str, list[float]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = scaling.build(width)
    rule: Rule = AdamRule() if plan.optimizer == "adam" else SGDRule()
    groups = scaling.param_groups(model, rule)
    optimizer = AdamW(groups, lr=plan.lr, weight_decay=0.0) if plan.optimizer == "adam" else SGD(groups, lr=plan.lr)
    found: dict[str, list[float]] = {}
    handles = _watch(model, plan.layers, found)
    inputs, targets = batch
    for step in range(plan.steps + 1):
        loss = plan.loss(model(inputs), targets)
        if step < plan.steps:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for handle in handles:
        handle.remove()
    return found


def _watch(model: nn.Module, parts: tuple[str, ...], found: dict[str, list[float]]) -> list[RemovableHandle]:
    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            del module, inputs
            tensor = output[0] if isinstance(output, tuple) else output
            if isinstance(tensor, Tensor):
                found.setdefault(name, []).append(tensor.detach().abs().mean().item())

        return hook

    handles = []
    for name, module in model.named_modules():
        own = any(True for _ in module.parameters(recurse=False))
        if own and (not parts or any(part in name for part in parts)):
            handles.append(module.register_forward_hook(record(name)))
    return handles


def draw_checks(checks: Sequence[CoordCheck], path: str | Path) -> None:
    """Draw several coordinate checks of one family: a row each, a panel a layer, a line a step.

    Args:
        checks: Of equal layers.
        path: A PNG or SVG.
    """
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(checks[0].sizes)
    figure = Figure(figsize=(2.9 * len(names) + 0.6, 2.5 * len(checks) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(checks), len(names), squeeze=False, sharex=True, sharey="col")
    for row, check in zip(panels, checks, strict=True):
        for axes, name in zip(row, names, strict=True):
            steps = len(check.sizes[name][0])
            for step in range(steps):
                color = colormaps["viridis"](0.9 * step / max(1, steps - 1))
                line = [values[step] for values in check.sizes[name]]
                axes.plot(check.widths, line, color=color, marker="o", markersize=3, label=f"step {step}")
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(check.widths, [str(width) for width in check.widths], fontsize=8)
            axes.set_title(f"{check.parametrization}: {name}, x {check.ratios()[name]:.2f}", fontsize=9)
            axes.grid(alpha=0.2)
        row[0].set_ylabel("mean |output|")
    for axes in panels[-1]:
        axes.set_xlabel("width")
    panels[0][0].legend(fontsize=7)
    figure.savefig(path, dpi=130)


@final
@dataclasses.dataclass(frozen=True)
class SpectralLine:
    r"""A matrix against the spectral condition.

    Args:
        name: Of the parameter; with the number of the block where several are stored as one.
        fans: Outputs m and inputs n.
        weight: $\|W\|_2 / \sqrt{m/n}$: the RMS-to-RMS norm, of order one where the condition holds.
        update: The same of the change of W; NaN without weights to compare with.
    """

    name: str
    fans: tuple[int, int]
    weight: float
    update: float

    def __str__(self) -> str:
        """The line of a table."""
        return f"{self.name:40} {self.fans[0]:6d} x {self.fans[1]:<6d} {self.weight:9.3g} {self.update:9.3g}"


@torch.no_grad()
def spectral_report(model: nn.Module, before: Mapping[str, Tensor] | None = None) -> list[SpectralLine]:
    r"""Return the spectral norms of a model's matrices, and of their updates, against $\sqrt{m/n}$.

    Features stay of order one, and change by it, exactly if both are of order one at every width: compare reports of
    two widths.

    Args:
        model: Any module.
        before: Earlier weights, such as a copy of `state_dict()`; the update is the difference.

    Returns:
        One line a matrix; embeddings, gains and biases, which are no matrices here, are left out.

    Raises:
        ValueError: If `before` lacks a matrix or has it in another shape.

    Numerics:
        Exact singular values in float64: cubic in the width.

    Example:
        >>> for line in spectral_report(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))):
        ...     print(line.name, line.fans)
        0.weight (8, 8)
        2.weight (2, 8)

    References:
        Yang, Simon and Bernstein (2023), A spectral condition for feature learning, arXiv 2310.17813, condition 1.
    """
    parameters = dict(model.named_parameters())
    lines = []
    for role in parameter_roles(model):
        if role.role in VECTOR_ROLES or role.role in (Role.EMBEDDING, Role.TIED, Role.OTHER, Role.DEPTHWISE_CONV):
            continue
        weight = parameters[role.name].detach().double()
        if before is not None and (role.name not in before or before[role.name].shape != weight.shape):
            raise ValueError(f"before: expected {role.name} of shape {tuple(weight.shape)}; copy it before training")
        change = None if before is None else weight - before[role.name].double()
        layout = Layout(str(role.role), role.blocks, role.transposed, role.groups)
        batches = layout.matrices(weight)
        changes = [None] * len(batches) if change is None else layout.matrices(change)
        for index, (batch, moved) in enumerate(zip(batches, changes, strict=True)):
            name = role.name if len(batches) == 1 else f"{role.name}[{index}]"
            update = math.nan if moved is None else RMSToRMS().norm(moved).max().item()
            lines.append(
                SpectralLine(name, (batch.shape[-2], batch.shape[-1]), RMSToRMS().norm(batch).max().item(), update)
            )
    return lines
