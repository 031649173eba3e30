# SPDX-License-Identifier: Apache-2.0
"""Which matrices make a model's outputs."""

from collections.abc import Mapping

from torch import nn

from steepest.optim.roles_modules import is_linear, lora_role
from steepest.optim.roles_sites import Site, is_a, type_name
from steepest.optim.roles_use import Use


def find_heads(model: nn.Module, sites: list[Site], uses: Mapping[int, Use] | None) -> dict[int, str]:
    """Return the output heads by `id(parameter)`, each with the sentence that says why.

    Args:
        model: The model, without wrappers.
        sites: All its sites, in the order of registration.
        uses: What a forward pass showed, by `id(parameter)`; None without one.
    """
    heads = _named_by_hugging_face(model, sites)
    bodies = _without_head(model)
    weights = [site for site in sites if _can_be_head(site)]
    if uses is not None:
        for site in weights:
            use = uses.get(id(site.parameter))
            if use is not None and use.last and "product" in use.kinds and not bodies & set(site.owners):
                heads.setdefault(id(site.parameter), "It makes an output that nothing with parameters reads.")
        return heads
    linears = [site for site in weights if is_linear(site.module)]
    for site in _of_vocabulary_size(sites, linears):
        reason = "It has as many outputs as an embedding has rows, and no matrix of the body comes after it."
        heads.setdefault(id(site.parameter), reason)
    tied = _looked_up(sites) & {id(site.parameter) for site in linears}
    last = _last(sites, linears, bodies)
    if last is not None and not (last.is_numbered and (heads or tied)):
        reason = f"It is the last {type_name(last.module)}, and no module with parameters is registered after it."
        heads.setdefault(id(last.parameter), reason)
    return heads


def _can_be_head(site: Site) -> bool:
    inside = any(isinstance(owner, (nn.MultiheadAttention, nn.RNNBase)) for owner in site.owners)
    return len(site.shape) == 2 and not site.is_magnitude and not inside and lora_role(site) is None


def _named_by_hugging_face(model: nn.Module, sites: list[Site]) -> dict[int, str]:
    named = set()
    for module in model.modules():
        ask = getattr(module, "get_output_embeddings", None) if is_a(module, "PreTrainedModel") else None
        if callable(ask):
            named.add(id(ask()))
    return {
        id(site.parameter): "The model's get_output_embeddings() returns its module."
        for site in sites
        if any(id(owner) in named for owner in site.owners) and _can_be_head(site)
    }


def _without_head(model: nn.Module) -> set[nn.Module]:
    """Bodies of Hugging Face models: what comes last in them is features for a head."""
    return {m for m in model.modules() if is_a(m, "PreTrainedModel") and getattr(m, "base_model", None) is m}


def _looked_up(sites: list[Site]) -> set[int]:
    return {id(site.parameter) for site in sites if isinstance(site.module, (nn.Embedding, nn.EmbeddingBag))}


def _of_vocabulary_size(sites: list[Site], linears: list[Site]) -> list[Site]:
    """Linears whose outputs are the rows of an embedding.

    A matrix of the body can have that shape by chance (a table of 1024 positions in a model of width 1024), so it must
    be the last one or, with others of its shape, the last few; or the only one outside lists of blocks.
    """
    tables = {site.shape for site in sites if id(site.parameter) in _looked_up([site])}
    rows = {table[0] for table in tables}

    def matches(site: Site) -> bool:
        outputs, inputs = site.shape
        is_exact = (outputs, inputs) in tables
        return outputs in rows and (is_exact or outputs > inputs) and (outputs != inputs or not site.is_numbered)

    if not linears:
        return []
    found = []
    for site in reversed(linears):
        if not matches(site) or site.shape != linears[-1].shape:
            break
        found.append(site)
    alone = [site for site in linears if site.shape in tables and not site.is_numbered]
    square = bool(alone) and alone[0].shape[0] == alone[0].shape[1]
    return found or (alone if len(alone) == 1 and not square else [])


def _last(sites: list[Site], linears: list[Site], bodies: set[nn.Module]) -> Site | None:
    """The last Linear outside headless bodies, if nothing with parameters but its own bias follows it."""
    outside = [site for site in sites if not bodies & set(site.owners) and lora_role(site) is None]
    if not outside:
        return None
    last = outside[-1].module
    return next((site for site in linears if site.module is last), None)
