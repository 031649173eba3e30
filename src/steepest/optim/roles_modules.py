# SPDX-License-Identifier: Apache-2.0
"""What a parameter is, from the type of the module that holds it; from use and name where the type says nothing."""

import re
from dataclasses import dataclass
from typing import final

from torch import nn

from steepest.optim.roles_fused import output_blocks
from steepest.optim.roles_parameter import Role
from steepest.optim.roles_sites import Site, is_a, type_name
from steepest.optim.roles_use import Use

_LORA = {
    "lora_a": Role.LORA_A, "lora_embedding_a": Role.LORA_A, "lora_down": Role.LORA_A,
    "lora_b": Role.LORA_B, "lora_embedding_b": Role.LORA_B, "lora_up": Role.LORA_B,
}  # fmt: skip
_MATRIX_NAME = re.compile(
    r"^(w|w\d+|w_?[a-z]{1,3}|kernel|weights?|.*_(weights?|kernel|proj)|proj|.*proj_weight)$", re.I
)
_BIAS_NAME = re.compile(r"bias|biases|.*_bias|bias_[ih]h(_l\d+(_reverse)?)?")
_TABLE_WORDS = {"pos", "position", "positional", "embed", "embedding", "embeddings", "emb", "table", "tokens"}
_NORM_NAME = re.compile(r"Norm(\dd|Gated)?$", re.IGNORECASE)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


@final
@dataclass(frozen=True)
class Finding:
    """What a parameter is at one place.

    Args:
        role: Its role.
        reason: One sentence that says why.
        blocks: Output sizes of fused projections, () when whole.
        transposed: Stored (in, out).
        groups: Groups of a convolution; experts that a stack of biases belongs to.
    """

    role: Role
    reason: str
    blocks: tuple[int, ...] = ()
    transposed: bool = False
    groups: int = 1


def find_role(site: Site, use: Use | None) -> Finding:
    """Return what the parameter is at one of its places, heads and ties aside.

    Args:
        site: Where it lives.
        use: How a forward pass used it, if one was seen.
    """
    rules = (_lora, _magnitude, _bias, _norm, _embedding, _conv, _attention, _recurrent, _bilinear, _linear)
    for rule in rules:
        finding = rule(site)
        if finding is not None:
            return finding
    return _by_shape(site, use)


def is_linear(module: nn.Module) -> bool:
    """Whether the module is a dense layer: torch's, or a class named like one."""
    weight = getattr(module, "weight", None) if type(module).__name__.endswith("Linear") else None
    return isinstance(module, nn.Linear) or getattr(weight, "ndim", 0) == 2


def lora_role(site: Site) -> Role | None:
    """Return the role of a low-rank factor, which its name gives; None for anything else."""
    return next((_LORA[word.lower()] for word in site.words if word.lower() in _LORA), None)


def _lora(site: Site) -> Finding | None:
    role = lora_role(site)
    if role is None or len(site.shape) != 2:
        return None
    side = "reads the input" if role is Role.LORA_A else "writes the output"
    return Finding(role, f"Its name says that it is the low-rank factor that {side}.")


def _magnitude(site: Site) -> Finding | None:
    if not site.is_magnitude:
        return None
    return Finding(Role.GAIN, f"It holds the norms of the rows of a weight-normalized {type_name(site.module)}.")


def _bias(site: Site) -> Finding | None:
    name, ndim = site.attribute, len(site.shape)
    # A stack of experts has a stack of biases; other tensors of two dimensions under such a name are tables.
    is_stack = ndim == 2 and name.endswith("_bias") and "position" not in name
    if not _BIAS_NAME.fullmatch(name) or not (ndim < 2 or is_stack or isinstance(site.module, _NORMS)):
        return None
    experts = site.shape[0] if is_stack else 1
    return Finding(Role.BIAS, f"It is what {type_name(site.module)} adds, by its name {name}.", groups=experts)


def _norm(site: Site) -> Finding | None:
    module, kind = site.module, type_name(site.module)
    if isinstance(module, _NORMS):
        return Finding(Role.GAIN, f"It is the scale of {kind}.")
    if _NORM_NAME.search(kind) and len(site.shape) == 1:
        if site.attribute in ("beta", "b", "shift", "offset"):
            return Finding(Role.BIAS, f"It is the shift of {kind}, a normalization by its class's name.")
        return Finding(Role.GAIN, f"It is the scale of {kind}, a normalization by its class's name.")
    return None


def _embedding(site: Site) -> Finding | None:
    module, kind = site.module, type_name(site.module)
    known = isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    named = kind.endswith("Embedding") and site.attribute == "weight" and len(site.shape) == 2
    if not (known or named) or len(site.shape) != 2:
        return None
    return Finding(Role.EMBEDDING, f"It is the table of {kind}, whose rows are looked up.", transposed=True)


def _conv(site: Site) -> Finding | None:
    module, kind = site.module, type_name(site.module)
    if not isinstance(module, nn.modules.conv._ConvNd) or site.attribute != "weight" or len(site.shape) < 3:
        return None
    return _convolution(kind, module.groups, module.in_channels, module.transposed)


def _convolution(kind: str, groups: int, channels: int, transposed: bool) -> Finding:
    layout = " and is stored (in, out, ...)" if transposed else ""
    if groups == 1:
        return Finding(Role.CONV, f"It is the filter of {kind}{layout}.", transposed=transposed)
    if groups == channels:
        reason = f"{kind} has as many groups as input channels ({groups}): each channel has filters of its own{layout}."
        return Finding(Role.DEPTHWISE_CONV, reason, transposed=transposed, groups=groups)
    reason = f"{kind} has {groups} groups, each with a matrix of its own{layout}."
    return Finding(Role.GROUPED_CONV, reason, transposed=transposed, groups=groups)


def _attention(site: Site) -> Finding | None:
    if not isinstance(site.module, nn.MultiheadAttention):
        return None
    if site.attribute == "in_proj_weight":
        blocks = (site.shape[0] // 3,) * 3
        return Finding(Role.HIDDEN, "It holds the query, key and value matrices of MultiheadAttention.", blocks)
    if site.attribute in ("bias_k", "bias_v"):
        return Finding(Role.VECTOR, "It is one key or value that MultiheadAttention appends to the sequence.")
    return Finding(Role.HIDDEN, f"It is the {site.attribute[0]} projection of MultiheadAttention.")


def _recurrent(site: Site) -> Finding | None:
    module, kind = site.module, type_name(site.module)
    if not isinstance(module, (nn.RNNBase, nn.RNNCellBase)) or len(site.shape) != 2:
        return None
    if site.attribute.startswith("weight_hr"):
        return Finding(Role.HIDDEN, f"It projects the output of {kind}.")
    gates = site.shape[0] // module.hidden_size
    blocks = (module.hidden_size,) * gates if gates > 1 else ()
    parts = f", one block for each of {gates} gates" if blocks else ""
    return Finding(Role.HIDDEN, f"It is a weight of {kind}{parts}.", blocks)


def _bilinear(site: Site) -> Finding | None:
    if not isinstance(site.module, nn.Bilinear):
        return None
    return Finding(Role.EXPERTS, "Bilinear has a matrix (in1, in2) for each output.")


def _linear(site: Site) -> Finding | None:
    module, kind = site.module, type_name(site.module)
    transposed = is_a(module, "Conv1D") and hasattr(module, "nf")
    if not (is_linear(module) or transposed) or site.attribute != "weight" or len(site.shape) != 2:
        return None
    rows = site.shape[1 if transposed else 0]
    blocks, clause = output_blocks(site.projection, site.owners[1:], rows)
    layout = ", stored (in, out)" if transposed else ""
    reason = f"It is the matrix of {kind}{layout}" + (f"; {clause}." if clause else ".")
    return Finding(Role.HIDDEN, reason, blocks, transposed)


def _by_shape(site: Site, use: Use | None) -> Finding:
    """A parameter of a module of unknown type: from its use if that was seen, else from shape and name."""
    kind, shape = type_name(site.module), site.shape
    if sum(size > 1 for size in shape) <= 1 and not (use and "product" in use.kinds and len(shape) > 1):
        return Finding(Role.VECTOR, f"It is a vector or a number that {kind} holds.")
    if use is not None and use.kinds & {"product", "lookup", "convolution"}:
        return _by_use(site, use)
    words = set(re.split(r"[_.]", site.attribute.lower()))
    if words & _TABLE_WORDS:
        return Finding(Role.EMBEDDING, f"{kind} holds it, and its name is that of a table.", transposed=True)
    if use is not None and use.kinds == {"entrywise"}:
        return Finding(Role.OTHER, f"{kind} uses it entry by entry, not as a matrix.")
    if not _MATRIX_NAME.match(site.attribute):
        hint = "give example_inputs or an override if it is a matrix"
        return Finding(Role.OTHER, f"{kind} holds it, and neither type nor name says what it is; {hint}.")
    return _matrix(site, transposed=_is_stored_transposed(site), why="by its name")


def _by_use(site: Site, use: Use) -> Finding:
    kind = type_name(site.module)
    if {"product", "lookup"} <= use.kinds:
        return Finding(Role.TIED, f"{kind} looks its rows up and also multiplies with it.")
    if "product" in use.kinds:
        return _matrix(site, transposed=bool(use.transposed), why="for it is a factor of matrix products")
    if "lookup" in use.kinds:
        return Finding(Role.EMBEDDING, f"{kind} looks its rows up.", transposed=True)
    channels = site.shape[0] if use.transposed else site.shape[1] * use.groups
    return _convolution(f"a convolution in {kind}", use.groups, channels, bool(use.transposed))


def _matrix(site: Site, *, transposed: bool, why: str) -> Finding:
    kind, shape = type_name(site.module), site.shape
    layout = "(in, out)" if transposed else "(out, in)"
    owners = site.owners if site.projection == site.attribute else site.owners[1:]
    blocks, clause = output_blocks(site.projection, owners, shape[-1 if transposed else -2])
    if getattr(site.module, "is_concatenated", True) is False:
        blocks, clause = (), f"{kind} interleaves the rows of its parts, so it stays whole"
    clause = f"; {clause}." if clause else "."
    if len(shape) == 2:
        return Finding(Role.HIDDEN, f"{kind} holds it as a matrix {layout}, {why}{clause}", blocks, transposed)
    if len(shape) == 3:
        reason = f"{kind} holds it as a stack of {shape[0]} matrices {layout}, {why}{clause}"
        return Finding(Role.EXPERTS, reason, blocks, transposed)
    return Finding(Role.OTHER, f"{kind} holds it, and it has {len(shape)} dimensions.")


def _is_stored_transposed(site: Site) -> bool:
    """What the module says of the layout of its stacks; (out, in) where it says nothing."""
    return getattr(site.module, "is_transposed", False) is True
