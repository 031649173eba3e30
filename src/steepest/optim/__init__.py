# SPDX-License-Identifier: Apache-2.0
"""Optimizers: one engine, one rule a method."""

from steepest.optim.adam import Adam as Adam
from steepest.optim.adam import AdamW as AdamW
from steepest.optim.engine import Engine as Engine
from steepest.optim.grafting import Grafted as Grafted
from steepest.optim.kl_shampoo import KLShampoo as KLShampoo
from steepest.optim.kl_soap import KLSOAP as KLSOAP
from steepest.optim.muon import Muon as Muon
from steepest.optim.options import Options as Options
from steepest.optim.shampoo import Shampoo as Shampoo
from steepest.optim.soap import SOAP as SOAP

__all__ = ["KLSOAP", "SOAP", "Adam", "AdamW", "Engine", "Grafted", "KLShampoo", "Muon", "Options", "Shampoo"]
