# SPDX-License-Identifier: Apache-2.0
"""Layers and models."""

from steepest.nn.generate import generate as generate
from steepest.nn.hf import PatchReport as PatchReport
from steepest.nn.hf import patch as patch
from steepest.nn.hf import patched as patched
from steepest.nn.hf import unpatch as unpatch
from steepest.nn.kv_cache import KVCache as KVCache
from steepest.nn.llama import Llama as Llama
from steepest.nn.llama_config import PRESETS as PRESETS
from steepest.nn.llama_config import LlamaConfig as LlamaConfig
from steepest.nn.llama_config import gated_width as gated_width
from steepest.nn.llama_config import preset as preset
from steepest.nn.pretrained import load_llama as load_llama
from steepest.nn.pretrained import save_llama as save_llama

__all__ = [
    "PRESETS",
    "KVCache",
    "Llama",
    "LlamaConfig",
    "PatchReport",
    "gated_width",
    "generate",
    "load_llama",
    "patch",
    "patched",
    "preset",
    "save_llama",
    "unpatch",
]
