# SPDX-License-Identifier: Apache-2.0
"""Sparse autoencoders: four kinds, one trainer, metrics, activations of models, SAELens' files."""

from steepest.nn.sae.autoencoder import SAELosses as SAELosses
from steepest.nn.sae.autoencoder import SAEOptions as SAEOptions
from steepest.nn.sae.autoencoder import SparseAutoencoder as SparseAutoencoder
from steepest.nn.sae.gated import GatedSAE as GatedSAE
from steepest.nn.sae.jumprelu import JumpReLUSAE as JumpReLUSAE
from steepest.nn.sae.jumprelu import JumpReLUTraining as JumpReLUTraining
from steepest.nn.sae.l1 import L1SAE as L1SAE
from steepest.nn.sae.metrics import LossRecovered as LossRecovered
from steepest.nn.sae.metrics import SAEMetrics as SAEMetrics
from steepest.nn.sae.metrics import evaluate_sae as evaluate_sae
from steepest.nn.sae.metrics import loss_recovered as loss_recovered
from steepest.nn.sae.saelens import load_sae as load_sae
from steepest.nn.sae.saelens import save_sae as save_sae
from steepest.nn.sae.stream import ActivationStream as ActivationStream
from steepest.nn.sae.stream import input_scale as input_scale
from steepest.nn.sae.stream import replaced as replaced
from steepest.nn.sae.topk import TopKSAE as TopKSAE
from steepest.nn.sae.trainer import SAEHistory as SAEHistory
from steepest.nn.sae.trainer import SAETraining as SAETraining
from steepest.nn.sae.trainer import draw_batches as draw_batches
from steepest.nn.sae.trainer import train_sae as train_sae

__all__ = [
    "L1SAE",
    "ActivationStream",
    "GatedSAE",
    "JumpReLUSAE",
    "JumpReLUTraining",
    "LossRecovered",
    "SAEHistory",
    "SAELosses",
    "SAEMetrics",
    "SAEOptions",
    "SAETraining",
    "SparseAutoencoder",
    "TopKSAE",
    "draw_batches",
    "evaluate_sae",
    "input_scale",
    "load_sae",
    "loss_recovered",
    "replaced",
    "save_sae",
    "train_sae",
]
