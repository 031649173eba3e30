# SPDX-License-Identifier: Apache-2.0
"""Training what does not fit: optimizer states, gradients and weights on a disk, without another bit in the result."""

from steepest.train.offload.activations import ActivationStore, place_activations
from steepest.train.offload.cost import DiskRates, StepCost, efficiency, intensities, step_parts, step_seconds
from steepest.train.offload.machines import Machine, MachinePlan, Workload, plan_machine, read_machine
from steepest.train.offload.optimizer import Offload
from steepest.train.offload.options import OffloadOptions
from steepest.train.offload.plan import NothingFitsError, Plan, choose, minimum
from steepest.train.offload.plan_facts import Activations, Choice, Facts, Footprint
from steepest.train.offload.plan_model import gather_facts
from steepest.train.offload.store import DamagedTileError, Tile, TileStore
from steepest.train.offload.weights import WeightStream

__all__ = [
    "ActivationStore",
    "Activations",
    "Choice",
    "DamagedTileError",
    "DiskRates",
    "Facts",
    "Footprint",
    "Machine",
    "MachinePlan",
    "NothingFitsError",
    "Offload",
    "OffloadOptions",
    "Plan",
    "StepCost",
    "Tile",
    "TileStore",
    "WeightStream",
    "Workload",
    "choose",
    "efficiency",
    "gather_facts",
    "intensities",
    "minimum",
    "place_activations",
    "plan_machine",
    "read_machine",
    "step_parts",
    "step_seconds",
]
