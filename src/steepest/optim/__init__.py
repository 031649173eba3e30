# SPDX-License-Identifier: Apache-2.0
"""Optimizers. Muon so far: steepest descent under the spectral norm."""

from steepest.optim.muon import Muon as Muon

__all__ = ["Muon"]
