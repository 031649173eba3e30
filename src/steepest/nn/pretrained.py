# SPDX-License-Identifier: Apache-2.0
"""A decoder as a folder of `config.json` and weights; a Llama's is what Hugging Face reads and writes."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from steepest.nn.decoder import Decoder
from steepest.nn.decoder_config import DecoderConfig
from steepest.nn.families import config_from_json
from steepest.nn.llama import Llama
from steepest.nn.weights_file import read_model_config, read_weights

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def weights_to_save(state: dict[str, Tensor], config: DecoderConfig) -> dict[str, Tensor]:
    """Return the tensors that go into the weights file: a tied head is stored once, under the embedding's name.

    Args:
        state: `state_dict()` of a decoder.
        config: Shape of that model.

    Returns:
        Contiguous tensors by name.
    """
    return {
        name: tensor.detach().contiguous()
        for name, tensor in state.items()
        if not (config.tie_embeddings and name == "lm_head.weight")
    }


def save_decoder(model: Decoder, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors`.

    Args:
        model: What to save. A Llama is written in Hugging Face's layout.
        folder: Made if it is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights_to_save(model.state_dict(), model.config), folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(model.config.to_json(), indent=2) + "\n")


def load_decoder(folder: str | Path) -> Decoder:
    """Read a model that `save_decoder` wrote, of any family.

    Args:
        folder: Holds `config.json` and `model.safetensors` (one file, not an index of several).

    Returns:
        The model in float32.

    Raises:
        ValueError: If the folder lacks a file, or the weights do not fit the configuration.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}; give a folder with {CONFIG} and {WEIGHTS}")
    config = config_from_json(read_model_config(folder / CONFIG))
    weights, source = read_weights(folder / WEIGHTS), str(folder / WEIGHTS)
    if config.layers > len(weights):
        raise ValueError(f"{source} does not fit this model: {len(weights)} tensors for {config.layers} layers")
    with torch.device("meta"):
        model = config.build()
    for name, tensor in model.state_dict().items():  # before memory is taken for what the file may only claim
        if name in weights and weights[name].shape != tensor.shape:
            raise ValueError(
                f"{source} does not fit this model: {name} has shape {tuple(weights[name].shape)}, {folder / CONFIG} "
                f"asks for {tuple(tensor.shape)}"
            )
    model = model.to_empty(device="cpu")
    load_weights(model, weights, source=source)
    return model


def save_llama(model: Llama, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors` in Hugging Face's Llama layout.

    Args:
        model: What to save.
        folder: Made if it is missing.
    """
    save_decoder(model, folder)


def load_llama(folder: str | Path) -> Llama:
    """Read a Llama that `save_llama` or Hugging Face's `save_pretrained` wrote.

    Args:
        folder: Holds `config.json` and `model.safetensors` (one file, not an index of several).

    Returns:
        The model in float32.

    Raises:
        ValueError: If the folder lacks a file, the weights do not fit the configuration, or it is no Llama.
    """
    model = load_decoder(folder)
    if not isinstance(model, Llama):
        raise ValueError(f"{folder} holds a {type(model).__name__}; read it with load_decoder")
    return model


def load_weights(model: Decoder, weights: dict[str, Tensor], *, source: str) -> None:
    """Copy weights into a model, all of them or an error.

    Args:
        model: Changed in place.
        weights: Tensors by name; a tied head may be left out.
        source: Where they come from, for the error.

    Raises:
        ValueError: If a name is missing, unknown, or has another shape.
    """
    embedding = "model.embed_tokens.weight"
    if model.config.tie_embeddings and embedding in weights:
        weights = {"lm_head.weight": weights[embedding], **weights}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit this model: {' '.join(str(error).split())[:400]}") from None
