# SPDX-License-Identifier: Apache-2.0
"""Optimizers: one engine, one rule a method."""

from steepest.optim.adam import Adam as Adam
from steepest.optim.adam import AdamW as AdamW
from steepest.optim.dct_adamw import DCTAdamW as DCTAdamW
from steepest.optim.dion import Dion as Dion
from steepest.optim.dion2 import Dion2 as Dion2
from steepest.optim.engine import Engine as Engine
from steepest.optim.groups import param_groups as param_groups
from steepest.optim.mfac import MFAC as MFAC
from steepest.optim.multinormalized import MultiNormalized as MultiNormalized
from steepest.optim.muon import Muon as Muon
from steepest.optim.normuon import NorMuon as NorMuon
from steepest.optim.optimistic import Optimistic as Optimistic
from steepest.optim.options import Options as Options
from steepest.optim.scion import Scion as Scion
from steepest.optim.sinkgd import SinkGD as SinkGD
from steepest.optim.steepest import Steepest as Steepest
from steepest.optim.swan import Swan as Swan
from steepest.optim.trion import Trion as Trion

__all__ = [
    "MFAC",
    "Adam",
    "AdamW",
    "DCTAdamW",
    "Dion",
    "Dion2",
    "Engine",
    "MultiNormalized",
    "Muon",
    "NorMuon",
    "Optimistic",
    "Options",
    "Scion",
    "SinkGD",
    "Steepest",
    "Swan",
    "Trion",
    "param_groups",
]
