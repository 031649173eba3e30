# SPDX-License-Identifier: Apache-2.0
"""Which rows of a fused projection belong to which of its parts."""

from collections.abc import Iterable
from typing import Any

_QKV = {"qkv", "qkvproj", "cattn", "wqkv", "toqkv", "qkvlinear", "attnqkv", "projqkv", "inprojqkv", "fusedqkv"}
_GATE_UP = {"gateupproj", "gateup", "gateandupproj", "upgateproj", "w12", "w13"}
# Models that mix the parts: rows of one head's query, key and value follow each other, or shards are interleaved.
_INTERLEAVED_NAMES = {"querykeyvalue"}
_INTERLEAVED_MODULES = ("CodeGen", "GptOss")

_HEADS = ("num_attention_heads", "num_heads", "n_heads", "n_head", "heads", "nhead")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "kv_n_heads", "n_kv_head", "kv_heads")
_HEAD_SIZES = ("head_dim", "head_size", "d_head", "dim_head")


def output_blocks(name: str, owners: Iterable[Any], rows: int) -> tuple[tuple[int, ...], str]:
    """Return the output sizes of the parts of a projection, () when it is whole, and a clause that says why.

    Query, key and value get the sizes that the heads of the attention module or of a configuration above it give;
    without those, three equal parts when `rows` divides by three. Rows that the model interleaves cannot be split this
    way and stay whole.

    Args:
        name: Name of the projection (`qkv_proj`, `gate_up_proj`, ...).
        owners: The modules around it, the nearest first; their attributes and `config` are read.
        rows: Outputs of the projection.

    Returns:
        Sizes that sum to `rows`, or (); and the clause, "" when the name is not that of a fused projection.
    """
    owners = list(owners)
    plain = name.lower().replace("_", "")
    fused = plain in _QKV or plain in _GATE_UP
    mixes = any(_mixes(owner) for owner in owners)
    if plain in _INTERLEAVED_NAMES or (fused and mixes):
        return (), f"{name} interleaves the rows of its parts, so it stays whole"
    if plain in _GATE_UP and rows % 2 == 0:
        return (rows // 2,) * 2, f"{name} holds gate and up, two equal blocks"
    if plain in _QKV:
        return _attention_blocks(name, owners, rows)
    return (), ""


def _mixes(owner: Any) -> bool:
    name = type(owner).__name__
    return name.startswith(_INTERLEAVED_MODULES) or (
        name.startswith("GPTBigCode") and getattr(owner, "multi_query", None) is False
    )


def _attention_blocks(name: str, owners: list[Any], rows: int) -> tuple[tuple[int, ...], str]:
    heads, kv_heads = _number(owners, _HEADS), _number(owners, _KV_HEADS)
    if heads:
        kv_heads = kv_heads or heads
        all_heads = heads + 2 * kv_heads
        size = _number(owners, _HEAD_SIZES) or rows // all_heads
        if 2 * kv_heads * size == rows:
            return (rows // 2,) * 2, f"{name} holds keys and values for cross-attention"
        if all_heads * size != rows and rows % all_heads == 0:
            size = rows // all_heads
        if all_heads * size == rows:
            clause = f"{name} holds {heads} query heads and {kv_heads} heads each of keys and values"
            return (heads * size, kv_heads * size, kv_heads * size), clause
        if kv_heads != heads:
            return (), f"{name} has {rows} outputs, which its numbers of heads do not explain, so it stays whole"
    if rows % 3 == 0:
        return (rows // 3,) * 3, f"{name} is taken as query, key and value, three equal blocks"
    return (), f"{name} has {rows} outputs, not a multiple of three, so it stays whole"


def _number(owners: list[Any], names: tuple[str, ...]) -> int | None:
    """The first whole number that one of the owners, or its configuration, has under one of the names."""
    for owner in owners:
        for holder in (owner, getattr(owner, "config", None)):
            for name in names:
                value = getattr(holder, name, None)
                if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                    return value
    return None
