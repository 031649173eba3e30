# SPDX-License-Identifier: Apache-2.0
"""Hugging Face models on our kernels: `patch`, `unpatch`, and `patched` for a while."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from steepest.nn import hf_attention, hf_loss, hf_modules
from steepest.nn.hf_modules import Patched, patched_class

__all__ = ["PatchReport", "patch", "patched", "unpatch"]

#: Norms of which only matrix products read the output, by their names in a block.
_BEFORE_PRODUCT = ("input_layernorm", "post_attention_layernorm", "ln_1", "ln_2", "layernorm_before", "layernorm_after")
#: Of blocks that normalize what a branch adds as well: there `post_attention_layernorm` feeds the sum.
_BEFORE_PRODUCT_OF_FOUR = ("input_layernorm", "pre_feedforward_layernorm")


@dataclass(frozen=True)
class _Family:
    """What is replaced in a family, by the class's name in its modeling file."""

    prefix: str
    norms: tuple[type[Patched], type[Patched]]
    attention: Mapping[str, type[Patched]]
    heads: Mapping[str, type[Patched]] = field(default_factory=dict)
    before_product: tuple[str, ...] = _BEFORE_PRODUCT


def _decoder(prefix: str, norms: tuple[type[Patched], type[Patched]]) -> _Family:
    attention, heads = {f"{prefix}Attention": hf_attention.RotaryAttention}, {f"{prefix}ForCausalLM": _HEAD}
    return _Family(prefix, norms, attention, heads)


def _four_norms(prefix: str) -> _Family:
    attention, heads = {f"{prefix}Attention": hf_attention.Attention}, {f"{prefix}ForCausalLM": _HEAD}
    return _Family(prefix, _GEMMA, attention, heads, _BEFORE_PRODUCT_OF_FOUR)


_HEAD = hf_loss.LanguageModelHead
_RMS = (hf_modules.RMSNorm, hf_modules.RMSNormBeforeProduct)
_GEMMA = (hf_modules.GemmaRMSNorm, hf_modules.GemmaRMSNormBeforeProduct)
_LAYER = (hf_modules.LayerNorm, hf_modules.LayerNormBeforeProduct)
_PLAIN_ATTENTION = hf_attention.Attention
_FAMILIES = {
    "llama": _decoder("Llama", _RMS),
    "mistral": _decoder("Mistral", _RMS),
    "qwen2": _decoder("Qwen2", _RMS),
    "qwen3": _decoder("Qwen3", _RMS),
    "gemma": _decoder("Gemma", _GEMMA),
    "gemma2": _four_norms("Gemma2"),
    "gemma3": _four_norms("Gemma3"),
    "gpt2": _Family("GPT2", _LAYER, {"GPT2Attention": _PLAIN_ATTENTION}, {"GPT2LMHeadModel": _HEAD}),
    "bert": _Family(
        "Bert", _LAYER,
        {"BertSelfAttention": _PLAIN_ATTENTION, "BertCrossAttention": _PLAIN_ATTENTION},
        {"BertForMaskedLM": hf_loss.MaskedModelHead, "BertLMHeadModel": _HEAD},
    ),
    "vit": _Family("ViT", _LAYER, {"ViTAttention": _PLAIN_ATTENTION}),
}  # fmt: skip


@dataclass(frozen=True)
class PatchReport:
    """What `patch` did.

    Attributes:
        model: Class of the model.
        changed: Replacement to how many modules have it now, such as {"rms_norm": 17}.
        kept: Names of modules of a kind that is replaced elsewhere, to the reason why they are as they were.
    """

    model: str
    changed: dict[str, int]
    kept: dict[str, str]

    def __str__(self) -> str:
        width = max(map(len, self.changed), default=0)
        lines = [self.model, *(f"  {name:{width}}  {count:>4}" for name, count in self.changed.items())]
        lines += [f"  kept {name}: {reason}" for name, reason in self.kept.items()]
        return "\n".join(lines)


def patch(model: nn.Module, *, keep_logits: bool = False) -> PatchReport:
    """Let a Hugging Face model compute with the kernels of this library; its weights stay what and where they are.

    Normalizations, activations, gated feed-forwards, rotary positions, attention and the language-modelling loss are
    replaced in Llama, Mistral, Qwen2, Qwen3, Gemma 1 to 3 (text), GPT-2, BERT and ViT models of the transformers
    library. Parameters, buffers, hooks and `state_dict` are untouched. A patched model trains, generates, is copied and
    saved as before.

    Args:
        model: A model whose class is one of these families' in transformers.
        keep_logits: Have `logits` in the output of a training step with labels too. By default such a step never holds
            all logits, and `logits` is None. In eval mode, without gradients or without labels they are always there.

    Returns:
        What was replaced, and what was not and why.

    Raises:
        TypeError: If the model's class is none of these, a subclass of one included.
        ValueError: If the model or a part of it is patched already.

    Numerics:
        As of each kernel: errors against float64 at most twice those of the unpatched model in float32. Under
        autocast, normalizations that feed matrix products alone write 16 bits at once, which is what the product reads.

    Example:
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> shape = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
        >>> model = LlamaForCausalLM(LlamaConfig(**shape, vocab_size=100))
        >>> print(patch(model))
        LlamaForCausalLM
          language_model_head     1
          rotary_attention        2
          gated_mlp               2
          rms_norm                5
    """
    family = _family_of(model)
    taken = [name for name, module in model.named_modules() if isinstance(module, Patched)]
    if taken:
        raise ValueError(
            f"steepest.patch got a model that is patched already (at {taken[0] or 'its top'!r}); unpatch it first"
        )
    hf_attention.register()
    changed: Counter[str] = Counter()
    kept: dict[str, str] = {}
    for name, module in list(model.named_modules()):
        choice = _choose(family, name, module)
        if isinstance(choice, str):
            kept[name] = choice
        elif choice is not None:
            _replace(module, choice, keep_logits)
            changed[_LABELS[choice]] += 1
    return PatchReport(type(model).__name__, dict(changed), kept)


def unpatch(model: nn.Module) -> int:
    """Undo `patch`.

    Args:
        model: Patched model, or one that contains patched modules.

    Returns:
        How many modules were given back their class; 0 for a model that is not patched.

    Example:
        >>> unpatch(nn.Linear(2, 2))
        0
    """
    count = 0
    for module in model.modules():
        if isinstance(module, Patched):
            part, found = module.steepest_part, cast(Any, module)
            found.__class__ = module.steepest_original
            if issubclass(part, hf_attention.Attention):
                found.config = found.config.base
            if issubclass(part, _HEAD):
                del module.__dict__["steepest_keep_logits"]
            count += 1
    return count


@contextmanager
def patched(model: nn.Module, *, keep_logits: bool = False) -> Iterator[PatchReport]:
    """Patch a model while entered.

    Args:
        model: As for `patch`.
        keep_logits: As for `patch`.

    Yields:
        What was replaced.

    Raises:
        TypeError: As for `patch`.
        ValueError: As for `patch`.
    """
    report = patch(model, keep_logits=keep_logits)
    try:
        yield report
    finally:
        unpatch(model)


def _family_of(model: nn.Module) -> _Family:
    home = type(model).__module__
    for name, family in _FAMILIES.items():
        if home == f"transformers.models.{name}.modeling_{name}":
            return family
    raise TypeError(
        f"steepest.patch knows the models of transformers of the families {', '.join(_FAMILIES)}, got "
        f"{home}.{type(model).__qualname__}; pass the model inside a wrapper, or leave this one as it is"
    )


def _choose(family: _Family, name: str, module: nn.Module) -> type[Patched] | str | None:
    """Return a module's replacement, the reason for having none, or None for a module of no kind that is replaced."""
    kind, leaf = type(module).__name__, name.rpartition(".")[2]
    ours = type(module).__module__ == f"transformers.models.{family.prefix.lower()}.modeling_{family.prefix.lower()}"
    if ours and kind in family.attention:
        return _attention(module, family.attention[kind])
    if ours and kind in family.heads:
        return family.heads[kind]
    if (ours and kind == f"{family.prefix}RMSNorm") or type(module) is nn.LayerNorm:
        norm = family.norms[leaf in family.before_product]
        return norm if cast(Tensor, module.weight).ndim == 1 else "it normalizes several dimensions"
    if ours and kind == f"{family.prefix}MLP" and hasattr(module, "gate_proj"):
        known = hf_modules.activation_name(module.act_fn) in hf_modules.GATES
        return hf_modules.GatedMLP if known else f"no gated kernel for {type(module.act_fn).__name__}"
    if leaf in {"act", "activation_fn", "intermediate_act_fn", "transform_act_fn"}:
        return hf_modules.activation_part(module) or f"no kernel for {kind}"
    return None


def _attention(module: Any, part: type[Patched]) -> type[Patched] | str:
    if getattr(module, "reorder_and_upcast_attn", False):
        return "reorder_and_upcast_attn has its own softmax"
    return part


def _replace(module: Any, part: type[Patched], keep_logits: bool) -> None:
    module.__class__ = patched_class(type(module), part)
    if issubclass(part, hf_attention.Attention):
        module.config = hf_attention.AttentionConfig(module.config)
    if issubclass(part, _HEAD):
        module.steepest_keep_logits = keep_logits


_LABELS: dict[type[Patched], str] = {
    **dict.fromkeys((*_RMS, *_GEMMA), "rms_norm"),
    **dict.fromkeys(_LAYER, "layer_norm"),
    hf_attention.Attention: "attention",
    hf_attention.RotaryAttention: "rotary_attention",
    hf_modules.GatedMLP: "gated_mlp",
    hf_modules.SiLU: "silu",
    hf_modules.ReLU: "relu",
    hf_modules.GELU: "gelu",
    hf_modules.GELUTanh: "gelu_tanh",
    hf_loss.LanguageModelHead: "language_model_head",
    hf_loss.MaskedModelHead: "masked_model_head",
}
