# SPDX-License-Identifier: Apache-2.0
"""Optimizers: one engine, one rule a method."""

from steepest.optim.adam import Adam as Adam
from steepest.optim.adam import AdamW as AdamW
from steepest.optim.diagnostics import diagnosed as diagnosed
from steepest.optim.engine import Engine as Engine
from steepest.optim.explain import explain as explain
from steepest.optim.groups import param_groups as param_groups
from steepest.optim.multinormalized import MultiNormalized as MultiNormalized
from steepest.optim.muon import Muon as Muon
from steepest.optim.normuon import NorMuon as NorMuon
from steepest.optim.options import Options as Options
from steepest.optim.roles import Role as Role
from steepest.optim.roles import parameter_roles as parameter_roles
from steepest.optim.scion import Scion as Scion
from steepest.optim.sinkgd import SinkGD as SinkGD
from steepest.optim.steepest import Steepest as Steepest
from steepest.optim.swan import Swan as Swan

__all__ = [
    "Adam",
    "AdamW",
    "Engine",
    "MultiNormalized",
    "Muon",
    "NorMuon",
    "Options",
    "Role",
    "Scion",
    "SinkGD",
    "Steepest",
    "Swan",
    "diagnosed",
    "explain",
    "param_groups",
    "parameter_roles",
]
