# SPDX-License-Identifier: Apache-2.0
"""JumpReLU in place of the ReLUs of a trained model, and the choice of its threshold on validation data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Self, final

import torch
from torch import Tensor, nn

from steepest.kernels.jumprelu import jumprelu
from steepest.nn.activation import Activation
from steepest.optim.rule import check

__all__ = ["JumpReLU", "KappaChoice", "Retrofit", "choose_kappa", "retrofit_jumprelu"]


@final
class JumpReLU(nn.Module):
    r"""$z$ where $z > \kappa$ and 0 elsewhere, with a fixed threshold.

    Args:
        kappa: $\kappa$, at least 0; 0 is ReLU.

    Raises:
        ValueError: If it is negative or not finite.

    Numerics:
        Exact. The slope is 1 above the threshold and 0 elsewhere; $z = \kappa$ gives 0. The threshold is no parameter
        and no part of `state_dict()`; `steepest.nn.JumpReLUSAE` has learnable ones.

    Example:
        >>> JumpReLU(0.5)(torch.tensor([-1.0, 0.5, 0.75]))
        tensor([0.0000, 0.0000, 0.7500])

    References:
        Erichson et al. (2019), JumpReLU: a retrofit defense strategy for adversarial attacks, arXiv 1904.03750.
    """

    def __init__(self, kappa: float) -> None:
        super().__init__()
        self.kappa = _checked(kappa)

    def forward(self, z: Tensor) -> Tensor:
        """Apply the activation elementwise; shape and dtype stay."""
        return jumprelu(z, self.kappa)

    def extra_repr(self) -> str:
        """Return the threshold for `repr`."""
        return f"kappa={self.kappa}"


@final
@dataclass(frozen=True)
class _Place:
    parent: nn.Module
    attribute: str
    before: nn.Module


@final
class Retrofit:
    """The JumpReLUs that stand in a model, and the way back. Leaving it as a context manager undoes it.

    Args:
        places: By the name of each activation in the model, where it stands.
        kappa: Threshold of each.
    """

    def __init__(self, places: Mapping[str, _Place], kappa: Mapping[str, float]) -> None:
        self._places = dict(places)
        self._active = {name: JumpReLU(kappa[name]).train(place.before.training) for name, place in places.items()}
        for name, place in self._places.items():
            setattr(place.parent, place.attribute, self._active[name])

    @property
    def kappa(self) -> dict[str, float]:
        """The threshold of each replaced activation, by its name in the model."""
        return {name: module.kappa for name, module in self._active.items()}

    def set_kappa(self, kappa: float | Mapping[str, float]) -> None:
        """Change the thresholds.

        Args:
            kappa: One for all, or one for each name.

        Raises:
            ValueError: If one is negative or not finite, or a name is missing or unknown.
        """
        for name, value in _spread(kappa, self._places).items():
            self._active[name].kappa = value

    def undo(self) -> None:
        """Put the model's own activations back; once is enough."""
        for name, place in self._places.items():
            if getattr(place.parent, place.attribute, None) is self._active[name]:
                setattr(place.parent, place.attribute, place.before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def retrofit_jumprelu(model: nn.Module, kappa: float | Mapping[str, float]) -> Retrofit:
    """Replace every ReLU module of a trained model by a JumpReLU, in place and reversibly.

    Parameters, buffers and the keys of `state_dict()` stay as they are.

    Args:
        model: Holds `torch.nn.ReLU`s or feed-forwards of kind `"relu"`. A ReLU that is called as a function, or that is
            the gate of a `"reglu"`, is no module and is not seen.
        kappa: Threshold for all, or one for each activation by its name in the model.

    Returns:
        What undoes it, changes the thresholds, or does so at the end of a `with` block.

    Raises:
        ValueError: If the model has no ReLU module, a threshold is negative or not finite, or a name is missing or
            unknown.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> with retrofit_jumprelu(model, 0.5):
        ...     print(model[1])
        JumpReLU(kappa=0.5)
        >>> model[1]
        ReLU()

    References:
        Erichson et al. (2019), JumpReLU: a retrofit defense strategy for adversarial attacks, arXiv 1904.03750.
    """
    places = {
        f"{prefix}.{attribute}".lstrip("."): _Place(parent, attribute, child)
        for prefix, parent in model.named_modules()
        for attribute, child in parent._modules.items()
        if child is not None and _is_relu(child)
    }
    if not places:
        raise ValueError(
            f"{type(model).__name__} holds no ReLU module to replace; a ReLU called as a function must become "
            "torch.nn.ReLU() first"
        )
    return Retrofit(places, _spread(kappa, places))


@final
@dataclass(frozen=True)
class KappaChoice:
    """A threshold and what it was chosen from.

    Args:
        kappa: The choice.
        scores: Score of every threshold tried, 0 (the model's own ReLU) among them.
    """

    kappa: float
    scores: dict[float, float]


@torch.no_grad()
def choose_kappa(
    model: nn.Module, kappas: Iterable[float], score: Callable[[nn.Module], float], *, slack: float = 0.0
) -> KappaChoice:
    """Return the largest threshold that costs little on validation data. The model stays as it is.

    A larger threshold suppresses more small activations and loses more of the clean score, so the rule is: the largest
    of `kappas` for which it and all smaller ones score at least the ReLU's score less `slack`.

    Args:
        model: Trained, with ReLU modules.
        kappas: Thresholds to try.
        score: From the model with its JumpReLUs to its score on validation data, higher is better; such as the share of
            right answers. Set the evaluation mode yourself.
        slack: Loss of score that is accepted.

    Returns:
        The threshold, 0 if none is good enough, and all scores.

    Raises:
        ValueError: If a threshold is negative or not finite, the slack is negative, or the model has no ReLU module.

    Example:
        >>> model = nn.Sequential(nn.ReLU())
        >>> x = torch.tensor([0.1, 0.2, 5.0])
        >>> choose_kappa(model, [0.15, 1.0, 6.0], lambda m: m(x).sum().item(), slack=0.5).kappa
        1.0

    References:
        Erichson et al. (2019), JumpReLU: a retrofit defense strategy for adversarial attacks, arXiv 1904.03750,
        section 4 (a threshold that keeps the validation accuracy).
    """
    check("slack", slack, 0, float("inf"))
    ordered = sorted({0.0, *(_checked(kappa) for kappa in kappas)})
    scores: dict[float, float] = {}
    with retrofit_jumprelu(model, 0.0) as retrofit:
        for kappa in ordered:
            retrofit.set_kappa(kappa)
            scores[kappa] = float(score(model))
    best = 0.0
    for kappa in ordered:
        if not scores[kappa] >= scores[0.0] - slack:
            break
        best = kappa
    return KappaChoice(best, scores)


def _is_relu(module: nn.Module) -> bool:
    return isinstance(module, nn.ReLU) or (isinstance(module, Activation) and module.kind == "relu")


def _checked(kappa: float) -> float:
    check("kappa", kappa, 0, float("inf"))
    return float(kappa)


def _spread(kappa: float | Mapping[str, float], names: Iterable[str]) -> dict[str, float]:
    names = list(names)
    if not isinstance(kappa, Mapping):
        return dict.fromkeys(names, _checked(kappa))
    if set(kappa) != set(names):
        odd = sorted(set(kappa) ^ set(names))
        raise ValueError(f"kappa: expected one threshold for each of {', '.join(names)}; missing or unknown: {odd[0]}")
    return {name: _checked(kappa[name]) for name in names}
