import math

import pytest
import torch

from steepest.geometry import (
    L1,
    RMS,
    BiasRMS,
    ColumnNorm,
    Frobenius,
    L1ToRMS,
    MaxEntry,
    RMSToInf,
    RowNorm,
    Scaled,
    Sign,
    SpectralConv,
    Transposed,
)


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rms(x):
    return x.square().mean(-1).sqrt()


def test_names_of_the_same_norm_agree():
    g = gaussian(2, 5, 7)
    for one, other in ((L1ToRMS(), ColumnNorm(rms=True)), (BiasRMS(), RMS(dims=1))):
        torch.testing.assert_close(one.norm(g), other.norm(g))
        torch.testing.assert_close(one.lmo(g), other.lmo(g))
    torch.testing.assert_close(RMSToInf().lmo(g), Scaled(RowNorm(), 1 / math.sqrt(7)).lmo(g))
    torch.testing.assert_close(MaxEntry().lmo(g), Scaled(Sign(), 1 / 7).lmo(g))


def test_scions_directions_by_their_formulas():
    g = gaussian(5, 7)
    torch.testing.assert_close(MaxEntry().lmo(g), -g.sign() / 7)
    torch.testing.assert_close(L1ToRMS().lmo(g), -g / g.square().mean(0).sqrt())
    torch.testing.assert_close(RMSToInf().lmo(g), -g / (g.norm(dim=1, keepdim=True) * math.sqrt(7)))
    torch.testing.assert_close(BiasRMS().lmo(g[0]), -g[0] / rms(g[0]))


def test_l1_to_rms_is_attained_by_a_token():
    x = gaussian(5, 7)
    tokens = torch.eye(7, dtype=x.dtype)
    torch.testing.assert_close(rms(tokens @ x.mT).max(), L1ToRMS().norm(x))
    mixed = gaussian(1000, 7, seed=1)
    mixed = mixed / mixed.abs().sum(-1, keepdim=True)
    assert (rms(mixed @ x.mT) <= L1ToRMS().norm(x)).all()


def test_embedding_weights_are_stored_transposed():
    weight = torch.nn.Embedding(7, 5, dtype=torch.float64).weight.detach()
    torch.testing.assert_close(rms(Transposed(L1ToRMS()).lmo(weight)), torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize(("norm", "attained"), [(RMSToInf(), True), (MaxEntry(), False)], ids=str)
def test_head_norms_bound_every_logit(norm, attained):
    x = gaussian(5, 7)
    inputs = torch.cat([gaussian(1000, 7, seed=1), x])
    inputs = inputs / rms(inputs)[:, None]
    largest = (inputs @ x.mT).abs().max()
    assert largest <= norm.norm(x) * (1 + 1e-12)
    if attained:
        torch.testing.assert_close(largest, norm.norm(x))


def test_l1_takes_the_first_of_equal_entries():
    assert L1().lmo(torch.tensor([[1.0, -2.0], [2.0, 2.0]])).tolist() == [[0, 1], [0, 0]]


@pytest.mark.parametrize("kind", [Sign, L1, RMS, Frobenius])
def test_dims_says_what_one_element_is(kind):
    x = gaussian(2, 3, 4)
    torch.testing.assert_close(kind(dims=3).norm(x), kind(dims=1).norm(x.flatten()))
    assert kind(dims=1).norm(x).shape == (2, 3)
    for dims in (0, -1, 1.5):
        with pytest.raises(ValueError, match="dims counts"):
            kind(dims=dims)


def test_combinators_refuse_what_they_cannot_wrap():
    for radius in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="radius must be positive"):
            Scaled(Sign(), radius)
    for inner in (BiasRMS(), SpectralConv()):
        with pytest.raises(ValueError, match="needs a norm on matrices"):
            Transposed(inner)


def test_scaled_projection_returns_an_inner_point_bit_for_bit():
    x = gaussian(50, 3, 3)
    norm = Scaled(Frobenius(), 2.7)
    inside = norm.norm(x) <= 1
    assert inside.any()
    assert not inside.all()
    assert torch.equal(norm.project(x)[inside], x[inside])
