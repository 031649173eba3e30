# SPDX-License-Identifier: Apache-2.0
"""Optimizers: one engine, one rule a method."""

from steepest.optim.adam import Adam as Adam
from steepest.optim.adam import AdamW as AdamW
from steepest.optim.engine import Engine as Engine
from steepest.optim.muon import Muon as Muon
from steepest.optim.options import Options as Options
from steepest.optim.soap import SOAP as SOAP

__all__ = ["SOAP", "Adam", "AdamW", "Engine", "Muon", "Options"]
