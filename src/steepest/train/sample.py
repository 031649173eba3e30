# SPDX-License-Identifier: Apache-2.0
"""What a trained model writes."""

import codecs
from collections.abc import Iterator
from pathlib import Path

import torch

from steepest.nn.decoder import Decoder
from steepest.nn.families import config_from_json
from steepest.nn.generate import SamplingConfig, generate
from steepest.nn.pretrained import CONFIG, load_decoder
from steepest.nn.weights_file import read_model_config
from steepest.train import checkpoint
from steepest.train.data import Tokenizer


def read_model(path: Path) -> Decoder:
    """Return the model of a checkpoint, sharded or not.

    Args:
        path: Folder of the checkpoint.

    Returns:
        The model in float32.

    Raises:
        ValueError: If the weights do not fit the configuration beside them.
    """
    if not checkpoint.is_sharded(path):
        return load_decoder(path)
    model = config_from_json(read_model_config(path / CONFIG)).build()
    from steepest.train import sharded_checkpoint  # brings in much of torch.distributed

    sharded_checkpoint.load_weights(path, model)
    return model


def write_text(
    model: Decoder, tokenizer: Tokenizer, prompt: bytes, *, tokens: int, sampling: SamplingConfig, seed: int
) -> Iterator[str]:
    """Yield the prompt and then the text that a model writes after it, piece by piece.

    Args:
        model: The model.
        tokenizer: Its tokens.
        prompt: At least one byte.
        tokens: How many to write.
        sampling: How tokens are chosen.
        seed: Same seed, same text.

    Yields:
        Text; bytes that are not UTF-8 are replaced by the usual mark.

    Raises:
        ValueError: If the prompt is empty.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    yield decoder.decode(prompt)
    ids = torch.from_numpy(tokenizer.encode(prompt).astype("int64"))
    for token in generate(model, ids, tokens=tokens, config=sampling, generator=torch.Generator().manual_seed(seed)):
        yield decoder.decode(tokenizer.decode([token]))
    yield decoder.decode(b"", final=True)
