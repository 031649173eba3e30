# SPDX-License-Identifier: Apache-2.0
"""Search for programs that compute a function with few operations."""

from steepest.discover.program import Program
from steepest.discover.search import Options, discover
from steepest.discover.targets import Target
from steepest.evolve.engine import Settings

__all__ = ["Options", "Program", "Settings", "Target", "discover"]
