# SPDX-License-Identifier: Apache-2.0
"""From a run's configuration to the optimizers that take its steps."""

import torch
from torch import nn
from torch.optim import Optimizer

from steepest.optim.muon import Muon
from steepest.train.config import OptimConfig


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """Return the optimizers of a run; together they hold every parameter once.

    Args:
        model: A `Llama`. With Muon its hidden matrices (all two-dimensional parameters of the blocks) go to Muon, the
            rest to AdamW.
        config: Method and settings.

    Returns:
        One or two optimizers. Each parameter group has `peak_lr`, which the schedule multiplies.
    """
    hidden, others = _split(model)
    if config.name == "adamw":
        optimizers = [_adamw([*hidden, *others], config, config.peak_lr)]
    else:
        muon = Muon(hidden, lr=config.peak_lr, momentum=config.momentum, weight_decay=config.weight_decay)
        optimizers = [muon, _adamw(others, config, config.adam_lr)]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Hidden matrices, and everything else."""
    hidden, others = [], []
    for name, parameter in model.named_parameters():
        is_hidden = parameter.ndim == 2 and ".layers." in name
        (hidden if is_hidden else others).append(parameter)
    return hidden, others


def _adamw(parameters: list[nn.Parameter], config: OptimConfig, lr: float) -> Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, lr=lr, betas=config.betas, eps=config.eps, fused=True)
