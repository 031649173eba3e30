# SPDX-License-Identifier: Apache-2.0
"""Optimizers: one engine, one rule a method."""

from steepest.optim.adam import Adam as Adam
from steepest.optim.adam import AdamW as AdamW
from steepest.optim.averaged import Averaged as Averaged
from steepest.optim.engine import Engine as Engine
from steepest.optim.lion import Lion as Lion
from steepest.optim.muon import Muon as Muon
from steepest.optim.nadam import NAdam as NAdam
from steepest.optim.nesterov import Nesterov as Nesterov
from steepest.optim.optimal_momentum import chebyshev_steps as chebyshev_steps
from steepest.optim.optimal_momentum import optimal_momentum as optimal_momentum
from steepest.optim.options import Options as Options
from steepest.optim.schedule_free import ScheduleFree as ScheduleFree
from steepest.optim.schedules import Schedule as Schedule
from steepest.optim.sgd import SGD as SGD
from steepest.optim.sign import SignDescent as SignDescent
from steepest.optim.sign import Signum as Signum

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Averaged",
    "Engine",
    "Lion",
    "Muon",
    "NAdam",
    "Nesterov",
    "Options",
    "Schedule",
    "ScheduleFree",
    "SignDescent",
    "Signum",
    "chebyshev_steps",
    "optimal_momentum",
]
