# SPDX-License-Identifier: Apache-2.0
"""Layers and models."""

from steepest.nn.constraints import keep_on_manifolds as keep_on_manifolds
from steepest.nn.decoder import Decoder as Decoder
from steepest.nn.decoder_config import DecoderConfig as DecoderConfig
from steepest.nn.decoder_config import gated_width as gated_width
from steepest.nn.families import families as families
from steepest.nn.families import family_preset as family_preset
from steepest.nn.generate import generate as generate
from steepest.nn.hf import PatchReport as PatchReport
from steepest.nn.hf import patch as patch
from steepest.nn.hf import patched as patched
from steepest.nn.hf import unpatch as unpatch
from steepest.nn.infinite_linear import FiniteLinear as FiniteLinear
from steepest.nn.infinite_linear import InfiniteLinear as InfiniteLinear
from steepest.nn.kv_cache import KVCache as KVCache
from steepest.nn.llama import Llama as Llama
from steepest.nn.llama_config import PRESETS as PRESETS
from steepest.nn.llama_config import LlamaConfig as LlamaConfig
from steepest.nn.llama_config import preset as preset
from steepest.nn.mlp import MLP as MLP
from steepest.nn.ngpt import NGPT as NGPT
from steepest.nn.ngpt_config import NGPTConfig as NGPTConfig
from steepest.nn.ngpt_config import to_ngpt as to_ngpt
from steepest.nn.pretrained import load_decoder as load_decoder
from steepest.nn.pretrained import load_llama as load_llama
from steepest.nn.pretrained import save_decoder as save_decoder
from steepest.nn.pretrained import save_llama as save_llama
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
    "MLP",
    "NGPT",
    "PRESETS",
    "CheckPlan",
    "CoordCheck",
    "Decoder",
    "DecoderConfig",
    "FiniteLinear",
    "InfiniteLinear",
    "KVCache",
    "Llama",
    "LlamaConfig",
    "NGPTConfig",
    "PatchReport",
    "ViT",
    "ViTConfig",
    "WidthRole",
    "WidthScaling",
    "abc",
    "coord_check",
    "draw_checks",
    "families",
    "family_preset",
    "gated_width",
    "generate",
    "keep_on_manifolds",
    "load_decoder",
    "load_llama",
    "patch",
    "patched",
    "preset",
    "regime",
    "save_decoder",
    "save_llama",
    "spectral_report",
    "to_ngpt",
    "unpatch",
]
