# SPDX-License-Identifier: Apache-2.0
"""Training what does not fit: optimizer states, gradients and weights on a disk, without another bit in the result."""

from steepest.train.offload.optimizer import Offload
from steepest.train.offload.options import OffloadOptions
from steepest.train.offload.store import DamagedTileError, Tile, TileStore

__all__ = ["DamagedTileError", "Offload", "OffloadOptions", "Tile", "TileStore"]
