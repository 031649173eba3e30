# SPDX-License-Identifier: Apache-2.0
"""From text to batches: find files, stream them, cut them into tokens once, draw windows by seed and step."""

from steepest.train.data.batches import Batches, eval_windows
from steepest.train.data.config import DataConfig
from steepest.train.data.corpus import iter_documents
from steepest.train.data.tokenizer import BPETokenizer, ByteTokenizer, Tokenizer, load_tokenizer
from steepest.train.data.tokens import TokenData, prepare

__all__ = [
    "BPETokenizer",
    "Batches",
    "ByteTokenizer",
    "DataConfig",
    "TokenData",
    "Tokenizer",
    "eval_windows",
    "iter_documents",
    "load_tokenizer",
    "prepare",
]
