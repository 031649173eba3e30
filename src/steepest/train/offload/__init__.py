# SPDX-License-Identifier: Apache-2.0
"""Training what does not fit: optimizer states, gradients and weights on a disk, without another bit in the result."""

from steepest.train.offload.activations import ActivationStore, place_activations
from steepest.train.offload.cost import DiskRates, StepCost, efficiency, intensities, step_seconds
from steepest.train.offload.optimizer import Offload
from steepest.train.offload.options import OffloadOptions
from steepest.train.offload.store import DamagedTileError, Tile, TileStore

__all__ = [
    "ActivationStore",
    "DamagedTileError",
    "DiskRates",
    "Offload",
    "OffloadOptions",
    "StepCost",
    "Tile",
    "TileStore",
    "efficiency",
    "intensities",
    "place_activations",
    "step_seconds",
]
