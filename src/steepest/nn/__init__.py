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
from steepest.nn.swish import Swish as Swish

__all__ = [
    "PRESETS",
    "Activation",
    "FeedForward",
    "GatedFeedForward",
    "JumpReLU",
    "KVCache",
    "KappaChoice",
    "Llama",
    "LlamaConfig",
    "PolyNorm",
    "PolyReLU",
    "Retrofit",
    "Swish",
    "activation",
    "choose_kappa",
    "feed_forward",
    "gated_width",
    "generate",
    "load_llama",
    "preset",
    "retrofit_jumprelu",
    "save_llama",
]
