# SPDX-License-Identifier: Apache-2.0
"""Evolution with several objectives: selection, a generation loop, workers, checkpoints. It knows no genome."""

from steepest.evolve.engine import Member, Problem, Settings, State, evolve
from steepest.evolve.selection import crowding_distance, nondominated_ranks, select
from steepest.evolve.workers import Processes, RayCluster, Serial, Workers

__all__ = [
    "Member",
    "Problem",
    "Processes",
    "RayCluster",
    "Serial",
    "Settings",
    "State",
    "Workers",
    "crowding_distance",
    "evolve",
    "nondominated_ranks",
    "select",
]
