# SPDX-License-Identifier: Apache-2.0
"""Optimizers: one engine (`engine`, `stepping`), one rule a method, in the file of its name (docs/organisation.md)."""

from steepest.optim.adam import Adam as Adam
from steepest.optim.adam import AdamW as AdamW
from steepest.optim.averaged import Averaged as Averaged
from steepest.optim.chebyshev import Chebyshev as Chebyshev
from steepest.optim.dct_adamw import DCTAdamW as DCTAdamW
from steepest.optim.diagnostics import diagnosed as diagnosed
from steepest.optim.dion import Dion as Dion
from steepest.optim.dion2 import Dion2 as Dion2
from steepest.optim.engine import Engine as Engine
from steepest.optim.explain import explain as explain
from steepest.optim.from_torch import load_torch_state as load_torch_state
from steepest.optim.grafting import Grafted as Grafted
from steepest.optim.groups import param_groups as param_groups
from steepest.optim.hugging_face import trainer_optimizer as trainer_optimizer
from steepest.optim.kl_shampoo import KLShampoo as KLShampoo
from steepest.optim.kl_soap import KLSOAP as KLSOAP
from steepest.optim.lion import Lion as Lion
from steepest.optim.mfac import MFAC as MFAC
from steepest.optim.mirror import OptimisticMirrorDescent as OptimisticMirrorDescent
from steepest.optim.multinormalized import MultiNormalized as MultiNormalized
from steepest.optim.muon import Muon as Muon
from steepest.optim.nadam import NAdam as NAdam
from steepest.optim.nesterov import Nesterov as Nesterov
from steepest.optim.normuon import NorMuon as NorMuon
from steepest.optim.optimal_momentum import chebyshev_steps as chebyshev_steps
from steepest.optim.optimal_momentum import mode_error as mode_error
from steepest.optim.optimal_momentum import mode_radius as mode_radius
from steepest.optim.optimal_momentum import optimal_momentum as optimal_momentum
from steepest.optim.optimistic import Optimistic as Optimistic
from steepest.optim.options import Options as Options
from steepest.optim.roles import Role as Role
from steepest.optim.roles import parameter_roles as parameter_roles
from steepest.optim.schedule_free import ScheduleFree as ScheduleFree
from steepest.optim.schedules import Schedule as Schedule
from steepest.optim.scion import Scion as Scion
from steepest.optim.sgd import SGD as SGD
from steepest.optim.shampoo import Shampoo as Shampoo
from steepest.optim.sign import SignDescent as SignDescent
from steepest.optim.sign import Signum as Signum
from steepest.optim.sinkgd import SinkGD as SinkGD
from steepest.optim.soap import SOAP as SOAP
from steepest.optim.steepest import Steepest as Steepest
from steepest.optim.swan import Swan as Swan
from steepest.optim.trion import Trion as Trion

__all__ = [
    "KLSOAP",
    "MFAC",
    "SGD",
    "SOAP",
    "Adam",
    "AdamW",
    "Averaged",
    "Chebyshev",
    "DCTAdamW",
    "Dion",
    "Dion2",
    "Engine",
    "Grafted",
    "KLShampoo",
    "Lion",
    "MultiNormalized",
    "Muon",
    "NAdam",
    "Nesterov",
    "NorMuon",
    "Optimistic",
    "OptimisticMirrorDescent",
    "Options",
    "Role",
    "Schedule",
    "ScheduleFree",
    "Scion",
    "Shampoo",
    "SignDescent",
    "Signum",
    "SinkGD",
    "Steepest",
    "Swan",
    "Trion",
    "chebyshev_steps",
    "diagnosed",
    "explain",
    "load_torch_state",
    "mode_error",
    "mode_radius",
    "optimal_momentum",
    "param_groups",
    "parameter_roles",
    "trainer_optimizer",
]
