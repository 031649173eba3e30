import pytest
import torch

from steepest.geometry import ColumnNorm, RowNorm, Spectral, SpectralConv
from steepest.optim import MultiNormalized, SinkGD, Swan
from tests.optim.gradients import MATRICES, assert_follows, parameters, run
from tests.reference import norm_optimizers as reference


def test_rows_and_columns_equal_the_formula():
    params = parameters(MATRICES)
    optimizer = MultiNormalized(params, [RowNorm(rms=True), ColumnNorm(rms=True)], lr=0.1, steps=3, weight_decay=0.1)
    assert_follows(
        optimizer,
        params,
        lambda w, g: reference.stateless(w, g, lambda x: reference.sinkhorn(x, 3), lr=0.1, weight_decay=0.1),
    )


def test_sinkgd_is_rows_and_columns():
    one, two = parameters(MATRICES), parameters(MATRICES)
    run(MultiNormalized(one, [RowNorm(rms=True), ColumnNorm(rms=True)], lr=0.1), one, range(3))
    run(SinkGD(two, lr=0.1, alpha=1.0), two, range(3))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_swan_is_one_pass_of_rows_and_the_spectral_norm_up_to_scale():
    one, two = parameters([(5, 12), (12, 5)]), parameters([(5, 12), (12, 5)])
    run(MultiNormalized(one, [RowNorm(rms=True), Spectral()], lr=0.1 * 12**0.5, steps=1), one, range(3))
    run(Swan(two, lr=0.1, alpha=1.0), two, range(3))
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b)


def test_norms_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="norms"):
        MultiNormalized(parameters(MATRICES), [])
    with pytest.raises(ValueError, match="norms"):
        MultiNormalized(parameters(MATRICES), [SpectralConv()])
