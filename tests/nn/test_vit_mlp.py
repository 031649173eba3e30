# SPDX-License-Identifier: Apache-2.0
"""The small models for images: shapes, oracles from torch's own layers, learning, errors."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from steepest.nn import MLP, ViT, ViTConfig


def _bars(count, generator):
    """Images of 8 x 8 with one bright row or column in noise; sixteen classes."""
    labels = torch.randint(16, (count,), generator=generator)
    images = 0.3 * torch.randn(count, 8, 8, generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        (image[label] if label < 8 else image[:, label - 8]).add_(1.0)
    return images, labels


def test_mlp_is_torchs_sequential():
    model = MLP((6, 5, 4, 3), activation=torch.tanh)
    layers = [part for layer in model.layers for part in (layer, nn.Tanh())][:-1]
    x = torch.randn(7, 2, 3)
    assert torch.equal(model(x), nn.Sequential(nn.Flatten(), *layers)(x))
    assert all(layer.bias is None for layer in MLP((6, 5, 3), bias=False).layers)


def test_vit_blocks_are_torchs_encoder_layers():
    config = ViTConfig(layers=1, width=16, heads=2)
    block = ViT(config).blocks[0]
    theirs = nn.TransformerEncoderLayer(
        16, 2, 64, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(
            torch.cat([block.q_proj.weight, block.k_proj.weight, block.v_proj.weight])
        )
        theirs.self_attn.in_proj_bias.zero_()
        for mine, other in (
            (block.o_proj, theirs.self_attn.out_proj),
            (block.up_proj, theirs.linear1),
            (block.down_proj, theirs.linear2),
        ):
            other.load_state_dict(mine.state_dict())
    x = torch.randn(3, 9, 16)
    torch.testing.assert_close(block(x), theirs(x))


def test_patches_are_a_strided_convolution():
    config = ViTConfig(channels=3, width=12, heads=2, layers=1)
    model = ViT(config)
    seen = []
    model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 8, 8)
    model(images)
    kernel = model.patches.weight.view(12, 3, 2, 2)
    expected = F.conv2d(images, kernel, stride=2).flatten(2).mT + model.positions
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize(
    ("build", "epochs"),
    [(lambda: MLP((64, 64, 16)), 6), (lambda: ViT(ViTConfig(classes=16, layers=1, width=32)), 14)],
    ids=["mlp", "vit"],
)
def test_learns_to_name_unseen_images(build, epochs):
    generator = torch.Generator().manual_seed(1)
    images, labels = _bars(1024, generator)
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=8e-3)
    for _ in range(epochs):
        for part in torch.randperm(1024, generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
    images, labels = _bars(256, generator)
    assert (model(images).argmax(1) == labels).float().mean() > 0.9  # chance is 0.06


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match="64 inputs"):
        MLP((64, 3))(torch.zeros(2, 63))
    with pytest.raises(ValueError, match="sizes"):
        MLP((64,))
    with pytest.raises(ValueError, match=r"1, 8, 8"):
        ViT(ViTConfig())(torch.zeros(2, 9, 9))
    with pytest.raises(ValueError, match="patch must divide image"):
        ViTConfig(patch=3)
    assert ViT(ViTConfig())(torch.zeros(0, 8, 8)).shape == (0, 10)
