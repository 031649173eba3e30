# SPDX-License-Identifier: Apache-2.0
"""Layers and models."""

from steepest.nn.activation import Activation as Activation
from steepest.nn.activation import activation as activation
from steepest.nn.constraints import keep_on_manifolds as keep_on_manifolds
from steepest.nn.decoder import Decoder as Decoder
from steepest.nn.decoder_config import DecoderConfig as DecoderConfig
from steepest.nn.families import families as families
from steepest.nn.families import family_preset as family_preset
from steepest.nn.feed_forward import FeedForward as FeedForward
from steepest.nn.feed_forward import GatedFeedForward as GatedFeedForward
from steepest.nn.feed_forward import feed_forward as feed_forward
from steepest.nn.feed_forward import gated_width as gated_width
from steepest.nn.generate import generate as generate
from steepest.nn.hf import PatchReport as PatchReport
from steepest.nn.hf import patch as patch
from steepest.nn.hf import patched as patched
from steepest.nn.hf import unpatch as unpatch
from steepest.nn.infinite_linear import FiniteLinear as FiniteLinear
from steepest.nn.infinite_linear import InfiniteLinear as InfiniteLinear
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
from steepest.nn.mlp import MLP as MLP
from steepest.nn.ngpt import NGPT as NGPT
from steepest.nn.ngpt_config import NGPTConfig as NGPTConfig
from steepest.nn.ngpt_config import to_ngpt as to_ngpt
from steepest.nn.polynorm import PolyNorm as PolyNorm
from steepest.nn.polyrelu import PolyReLU as PolyReLU
from steepest.nn.pretrained import load_decoder as load_decoder
from steepest.nn.pretrained import load_llama as load_llama
from steepest.nn.pretrained import save_decoder as save_decoder
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
from steepest.nn.vit import ViT as ViT
from steepest.nn.vit import ViTConfig as ViTConfig
from steepest.nn.width import WidthRole as WidthRole
from steepest.nn.width import WidthScaling as WidthScaling
from steepest.nn.width_check import CheckPlan as CheckPlan
from steepest.nn.width_check import CoordCheck as CoordCheck
from steepest.nn.width_check import coord_check as coord_check
from steepest.nn.width_check import draw_checks as draw_checks
from steepest.nn.width_check import spectral_report as spectral_report
from steepest.nn.width_table import ABC as ABC
from steepest.nn.width_table import abc as abc
from steepest.nn.width_table import regime as regime

__all__ = [
    "ABC",
    "L1SAE",
    "MLP",
    "NGPT",
    "PRESETS",
    "Activation",
    "ActivationStream",
    "CheckPlan",
    "CoordCheck",
    "Decoder",
    "DecoderConfig",
    "FeedForward",
    "FiniteLinear",
    "GatedFeedForward",
    "GatedSAE",
    "InfiniteLinear",
    "JumpReLU",
    "JumpReLUSAE",
    "JumpReLUTraining",
    "KVCache",
    "KappaChoice",
    "Llama",
    "LlamaConfig",
    "LossRecovered",
    "NGPTConfig",
    "PatchReport",
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
    "ViT",
    "ViTConfig",
    "WidthRole",
    "WidthScaling",
    "abc",
    "activation",
    "choose_kappa",
    "coord_check",
    "draw_batches",
    "draw_checks",
    "evaluate_sae",
    "families",
    "family_preset",
    "feed_forward",
    "gated_width",
    "generate",
    "input_scale",
    "keep_on_manifolds",
    "load_decoder",
    "load_llama",
    "load_sae",
    "loss_recovered",
    "patch",
    "patched",
    "preset",
    "regime",
    "replaced",
    "retrofit_jumprelu",
    "save_decoder",
    "save_llama",
    "save_sae",
    "spectral_report",
    "to_ngpt",
    "train_sae",
    "unpatch",
]
