# SPDX-License-Identifier: Apache-2.0
"""What to say when a number stops being finite: which tensor was the first."""

from typing import Any

import torch
from torch import Tensor, nn


class NonFiniteError(ValueError):
    """The loss or a gradient became infinite or NaN."""


def first_non_finite(model: nn.Module, ids: Tensor, targets: Tensor) -> str:
    """Name the first tensor of a training step that holds an infinity or a NaN.

    Parameters are looked at first, then the outputs of the modules in the order in which they run, then the gradients
    that are there.

    Args:
        model: The model.
        ids: Inputs of the step.
        targets: Targets of the step.

    Returns:
        A name such as `parameter lm_head.weight` with how many of its numbers are not finite.
    """
    for name, parameter in model.named_parameters():
        if found := _describe(parameter):
            return f"parameter {name} ({found})"
    if found := _first_bad_output(model, ids, targets):
        return found
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and (found := _describe(parameter.grad)):
            return f"gradient of {name} ({found})"
    return "the loss alone"


def _first_bad_output(model: nn.Module, ids: Tensor, targets: Tensor) -> str | None:
    bad: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if not bad and isinstance(output, Tensor) and (found := _describe(output)):
                bad.append(f"output of {name or 'the model'} ({found})")

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            model(ids, targets=targets)
    finally:
        for handle in handles:
            handle.remove()
    return bad[0] if bad else None


def _describe(tensor: Tensor) -> str | None:
    count = tensor.numel() - int(torch.isfinite(tensor.detach()).sum())
    return f"{count:,} of {tensor.numel():,} numbers are not finite" if count else None
