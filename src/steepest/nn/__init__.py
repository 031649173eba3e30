# SPDX-License-Identifier: Apache-2.0
"""Layers and models."""

from steepest.nn.activation import Activation as Activation
from steepest.nn.activation import activation as activation
from steepest.nn.feed_forward import FeedForward as FeedForward
from steepest.nn.feed_forward import GatedFeedForward as GatedFeedForward
from steepest.nn.feed_forward import feed_forward as feed_forward
from steepest.nn.feed_forward import gated_width as gated_width
from steepest.nn.generate import generate as generate
from steepest.nn.jumprelu import JumpReLU as JumpReLU
from steepest.nn.jumprelu import KappaChoice as KappaChoice
from steepest.nn.jumprelu import Retrofit as Retrofit
from steepest.nn.jumprelu import choose_kappa as choose_kappa
from steepest.nn.jumprelu import retrofit_jumprelu as retrofit_jumprelu
from steepest.nn.kv_cache import KVCache as KVCache
from steepest.nn.llama import Llama as Llama
from steepest.nn.llama_config import PRESETS as PRESETS
from steepest.nn.llama_config import LlamaConfig as LlamaConfig
from steepest.nn.llama_config import preset as preset
from steepest.nn.polynorm import PolyNorm as PolyNorm
from steepest.nn.polyrelu import PolyReLU as PolyReLU
from steepest.nn.pretrained import load_llama as load_llama
from steepest.nn.pretrained import save_llama as save_llama
from steepest.nn.sae import L1SAE as L1SAE
from steepest.nn.sae import ActivationStream as ActivationStream
from steepest.nn.sae import GatedSAE as GatedSAE
from steepest.nn.sae import JumpReLUSAE as JumpReLUSAE
from steepest.nn.sae import JumpReLUTraining as JumpReLUTraining
from steepest.nn.sae import LossRecovered as LossRecovered
from steepest.nn.sae import SAEHistory as SAEHistory
from steepest.nn.sae import SAELosses as SAELosses
from steepest.nn.sae import SAEMetrics as SAEMetrics
from steepest.nn.sae import SAEOptions as SAEOptions
from steepest.nn.sae import SAETraining as SAETraining
from steepest.nn.sae import SparseAutoencoder as SparseAutoencoder
from steepest.nn.sae import TopKSAE as TopKSAE
from steepest.nn.sae import draw_batches as draw_batches
from steepest.nn.sae import evaluate_sae as evaluate_sae
from steepest.nn.sae import input_scale as input_scale
from steepest.nn.sae import load_sae as load_sae
from steepest.nn.sae import loss_recovered as loss_recovered
from steepest.nn.sae import replaced as replaced
from steepest.nn.sae import save_sae as save_sae
from steepest.nn.sae import train_sae as train_sae
from steepest.nn.swish import Swish as Swish

__all__ = [
    "L1SAE",
    "PRESETS",
    "Activation",
    "ActivationStream",
    "FeedForward",
    "GatedFeedForward",
    "GatedSAE",
    "JumpReLU",
    "JumpReLUSAE",
    "JumpReLUTraining",
    "KVCache",
    "KappaChoice",
    "Llama",
    "LlamaConfig",
    "LossRecovered",
    "PolyNorm",
    "PolyReLU",
    "Retrofit",
    "SAEHistory",
    "SAELosses",
    "SAEMetrics",
    "SAEOptions",
    "SAETraining",
    "SparseAutoencoder",
    "Swish",
    "TopKSAE",
    "activation",
    "choose_kappa",
    "draw_batches",
    "evaluate_sae",
    "feed_forward",
    "gated_width",
    "generate",
    "input_scale",
    "load_llama",
    "load_sae",
    "loss_recovered",
    "preset",
    "replaced",
    "retrofit_jumprelu",
    "save_llama",
    "save_sae",
    "train_sae",
]
