# SPDX-License-Identifier: Apache-2.0
"""Sparse autoencoders in the folder layout of SAELens 6: `cfg.json` and `sae_weights.safetensors`."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from steepest.nn.sae.autoencoder import SAEOptions, SparseAutoencoder
from steepest.nn.sae.gated import GatedSAE
from steepest.nn.sae.jumprelu import JumpReLUSAE
from steepest.nn.sae.l1 import L1SAE
from steepest.nn.sae.topk import TopKSAE
from steepest.nn.weights_file import read_model_config, read_weights

__all__ = ["load_sae", "save_sae"]

WEIGHTS, CONFIG = "sae_weights.safetensors", "cfg.json"
#: The layout that is written; SAELens reads configurations from 6.0 on by the same rules.
LAYOUT_VERSION = "6.54.12"
_KINDS: dict[str, type[SparseAutoencoder]] = {
    kind.architecture: kind for kind in (L1SAE, GatedSAE, JumpReLUSAE, TopKSAE)
}


def save_sae(sae: SparseAutoencoder, folder: str | Path, *, metadata: dict[str, Any] | None = None) -> None:
    """Write an autoencoder as SAELens 6 does; its `SAE.load_from_disk` reads the folder.

    Args:
        sae: Of any kind. How it was trained is not saved.
        folder: Made if it is missing.
        metadata: What else to say, such as `model_name` and `hook_name`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sae = copy.deepcopy(sae)
    more: dict[str, Any] = {}
    if isinstance(sae, TopKSAE):
        # The order of the features is that of norm 1, so other norms go into the encoder.
        if sae.options.decoder == "free":
            sae.fold_decoder_norms_()
        more = {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in sae.state_dict().items()}
    save_file(state, folder / WEIGHTS)
    config = {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": str(sae.W_enc.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": sae.options.center,
        "normalize_activations": "none",
        "reshape_activations": "none",
        **more,
        "metadata": {"sae_lens_version": LAYOUT_VERSION, **(metadata or {})},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def load_sae(folder: str | Path) -> SparseAutoencoder:
    """Read an autoencoder that `save_sae` or SAELens wrote.

    Args:
        folder: Holds `cfg.json` and `sae_weights.safetensors`.

    Returns:
        A `L1SAE`, `GatedSAE`, `JumpReLUSAE` or `TopKSAE` in the file's dtype, with free decoder norms and no penalty.

    Raises:
        ValueError: If a file is missing, the weights do not fit, or the configuration asks for what these classes do
            not do.
    """
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no {name}; give a folder with {CONFIG} and {WEIGHTS}")
    config = read_model_config(folder / CONFIG)
    weights = read_weights(folder / WEIGHTS)
    sae = _empty(config, weights)
    if "log_threshold" in weights:  # older files of SAELens
        weights["threshold"] = weights.pop("log_threshold").exp()
    try:
        sae.to(weights["W_enc"].dtype).load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS} does not fit: {' '.join(str(error).split())[:300]}") from None
    return sae


def _empty(config: dict[str, Any], weights: dict[str, Tensor]) -> SparseAutoencoder:
    kind = config.get("architecture", "standard")
    refused = {
        "architecture": kind not in _KINDS,
        "normalize_activations": config.get("normalize_activations", "none") != "none",
        "reshape_activations": config.get("reshape_activations", "none") != "none",
    }
    for name, bad in refused.items():
        if bad:
            known = f"one of {', '.join(_KINDS)}" if name == "architecture" else "'none'"
            raise ValueError(f"{name}: expected {known}, got {config.get(name)!r}")
    order_by_norm = kind != "topk" or config.get("rescale_acts_by_decoder_norm", False)
    options = SAEOptions(
        decoder="free" if order_by_norm else "unit", center=bool(config.get("apply_b_dec_to_input", True))
    )
    size: tuple[int, int] = (config["d_in"], config["d_sae"])
    generator = torch.Generator().manual_seed(0)
    if kind == "topk":
        return TopKSAE(*size, k=config["k"], options=options, generator=generator)
    made = {"standard": L1SAE, "gated": GatedSAE, "jumprelu": JumpReLUSAE}[kind]
    return made(*size, sparsity=0.0, options=options, generator=generator)
