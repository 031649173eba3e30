# SPDX-License-Identifier: Apache-2.0
"""nGPT against a plain float64 transcription of its formulas, and its invariants under training."""

import math

import pytest
import torch
import torch.nn.functional as F

from steepest.nn import NGPT, KVCache, NGPTConfig, generate, keep_on_manifolds, preset, to_ngpt
from steepest.optim import Muon

CONFIG = NGPTConfig(vocab_size=61, width=48, layers=3, heads=4, context=32)


def _unit(x, dim=-1):
    return x / x.norm(dim=dim, keepdim=True)


def _rotate(x, theta):
    time, size = x.shape[-2:]
    angles = torch.outer(torch.arange(time).double(), theta ** (-torch.arange(0, size, 2).double() / size))
    turn = torch.polar(torch.ones_like(angles), angles)
    half = size // 2
    turned = torch.complex(x[..., :half], x[..., half:]) * turn
    return torch.cat((turned.real, turned.imag), -1)


def _attention(w, name, h, c):
    batch, time, width = h.shape
    split = lambda x, heads: x.view(batch, time, heads, c.head_size).transpose(1, 2)  # noqa: E731
    q, k, v = (
        split(h @ w[f"{name}.{p}_proj.weight"].T, n)
        for p, n in (("q", c.heads), ("k", c.key_value_heads), ("v", c.key_value_heads))
    )
    s = (w[f"{name}.s_qk.weight"] * c.qk_init / c.stored_scale).view(c.key_value_heads, 1, c.head_size)
    k = s * _unit(_rotate(k, c.rope_theta))
    repeats = c.heads // c.key_value_heads
    q = s.repeat_interleave(repeats, 0) * _unit(_rotate(q, c.rope_theta))
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = math.sqrt(c.head_size) * q @ k.mT
    scores = scores.masked_fill(torch.ones(time, time).triu(1).bool(), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, time, width) @ w[f"{name}.o_proj.weight"].T


def _reference(model, ids):
    """The paper's equations, one after the other, in float64."""
    c, w = model.config, {name: p.detach().double() for name, p in model.named_parameters()}
    h = w["model.embed_tokens.weight"][ids]
    for i in range(c.layers):
        block = f"model.layers.{i}"
        alpha = (w[f"{block}.alpha_attn.weight"] * c.alpha_init / c.stored_scale).abs()
        h = _unit(h + alpha * (_unit(_attention(w, f"{block}.self_attn", h, c)) - h))
        u = h @ w[f"{block}.mlp.up_proj.weight"].T * w[f"{block}.mlp.s_u.weight"] * c.u_init * math.sqrt(c.width)
        v = h @ w[f"{block}.mlp.gate_proj.weight"].T * w[f"{block}.mlp.s_v.weight"] * c.v_init * math.sqrt(c.width)
        out = (u * F.silu(v)) @ w[f"{block}.mlp.down_proj.weight"].T
        alpha = (w[f"{block}.alpha_mlp.weight"] * c.alpha_init / c.stored_scale).abs()
        h = _unit(h + alpha * (_unit(out) - h))
    return h @ w["lm_head.weight"].T * (w["s_z.weight"] * c.z_init / c.stored_scale)


def _spread_scales(model):
    """Make every scale differ from its start, some negative, so that a forgotten one shows."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.mul_(torch.rand_like(p) + 0.5)
                if "alpha" in name:
                    p[::3] *= -1


@pytest.mark.parametrize(
    "changes", [{}, {"kv_heads": 2}, {"scale": 0.3, "alpha_init": 0.2, "u_init": 2.0, "z_init": 5.0}]
)
def test_forward_equals_the_formulas(changes):
    model = NGPT(to_ngpt(CONFIG, **changes))
    _spread_scales(model)
    ids = torch.randint(61, (2, 17))
    torch.testing.assert_close(model(ids).double(), _reference(model, ids), atol=2e-6, rtol=2e-5)


def test_loss_is_the_cross_entropy_of_the_logits_and_reaches_every_parameter():
    model = NGPT(CONFIG)
    ids, targets = torch.randint(61, (2, 2, 17))
    losses = model(ids, targets=targets)
    expected = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def _check_invariants(model, ids):
    for p, manifold in model.manifolds():
        dim = 1 if type(manifold).__name__ == "RowSphere" else 0
        assert (p.detach().double().norm(dim=dim) - 1).abs().max() < 1e-6
    states = model.model(ids).detach().double()
    assert (states.norm(dim=-1) - 1).abs().max() < 1e-6
    assert (model(ids).abs() <= model.s_z().abs() * (1 + 1e-6)).all()


@pytest.mark.parametrize("tangent", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0),
        lambda model: torch.optim.SGD(model.parameters(), lr=1.0),
        lambda model: Muon(model, lr=0.02),
    ],
    ids=["adamw", "sgd", "muon"],
)
def test_invariants_hold_after_each_step(build, tangent):
    model = NGPT(CONFIG)
    optimizer = build(model)
    keep_on_manifolds(optimizer, model.manifolds(), tangent=tangent)
    ids, targets = torch.randint(61, (2, 4, 16))
    _check_invariants(model, ids)
    for _ in range(4):
        optimizer.zero_grad()
        model(ids, targets=targets).mean().backward()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        assert any((p != old).any() for p, old in zip(model.parameters(), before, strict=True))
        _check_invariants(model, ids)


def test_without_the_hook_the_weights_leave_their_spheres():
    model = NGPT(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    model(torch.zeros(1, 8, dtype=torch.long), targets=torch.ones(1, 8, dtype=torch.long)).sum().backward()
    optimizer.step()
    assert (model.lm_head.weight.norm(dim=1) - 1).abs().max() > 1e-3


def test_a_step_of_a_scale_is_init_over_scale_times_the_learning_rate():
    model = NGPT(to_ngpt(CONFIG, alpha_init=0.1))
    scale = model.model.layers[0].alpha_attn
    before = scale().detach().clone()
    optimizer = torch.optim.Adam([scale.weight], lr=1e-3, eps=0.0)
    scale.weight.grad = torch.ones_like(scale.weight)
    optimizer.step()
    torch.testing.assert_close(before - scale(), torch.full_like(before, 1e-3 * 0.1 * math.sqrt(48)), rtol=1e-3, atol=0)


def test_cached_and_whole_forward_agree():
    model = NGPT(to_ngpt(CONFIG, kv_heads=2)).eval()
    ids = torch.randint(61, (1, 12))
    cache = KVCache(3, 1, 2, CONFIG.head_size, 32)
    parts = [model(ids[:, :5], cache), model(ids[:, 5:9], cache), model(ids[:, 9:], cache)]
    torch.testing.assert_close(torch.cat(parts, 1), model(ids), atol=2e-6, rtol=1e-5)
    assert len(list(generate(model, ids[0], tokens=40))) == 40


def test_twin_has_the_matrices_of_its_llama():
    config = preset("nano", kv_heads=1, tie_embeddings=True)
    twin = to_ngpt(config).build()
    shapes = {name: p.shape for name, p in config.build().named_parameters() if p.ndim == 2}
    mine = {name: p.shape for name, p in twin.named_parameters() if p.ndim == 2}
    assert mine == {**shapes, "lm_head.weight": shapes["model.embed_tokens.weight"]}


def test_autocast_stays_near_float32():
    model, ids = NGPT(CONFIG), torch.randint(61, (2, 16))
    exact = model(ids)
    with torch.autocast("cpu", torch.bfloat16):
        states, rounded = model.model(ids), model(ids)
    assert states.dtype == torch.float32
    assert (states.norm(dim=-1) - 1).abs().max() < 1e-6
    assert (rounded.float() - exact).abs().max() < 0.03


@pytest.mark.parametrize("bad", [{"alpha_init": 0.0}, {"scale": -1.0}, {"tie_embeddings": True}, {"z_init": math.inf}])
def test_bad_fields_are_named(bad):
    with pytest.raises(ValueError, match=f"model.{next(iter(bad))}"):
        NGPTConfig(**bad)
