import math

import pytest
import torch

from steepest.geometry import BiasRMS, Product, RMSToRMS, Schatten, Sign

NORMS = [RMSToRMS(), BiasRMS(), Sign()]
ORDERS = [1.0, 1.5, 2.0, 4.0, math.inf]
SCALES = (0.5, 3.0, 2.0)


def lists(seed, batch=()):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn((*batch, *shape), generator=generator, dtype=torch.float64) for shape in ((4, 3), (4,), (2, 5))]


def inner(a, b):
    return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("p", ORDERS)
def test_laws(p):
    product = Product(NORMS, SCALES, p)
    g = lists(0)
    step = product.lmo(g)
    assert float(product.norm(step)) == pytest.approx(1)
    assert inner(g, step) == pytest.approx(-float(product.dual(g)))
    for seed in range(1, 100):
        x = lists(seed)
        assert abs(inner(g, x)) <= float(product.norm(x) * product.dual(g)) * (1 + 1e-12)
        near = [a + 0.05 * b for a, b in zip(step, x, strict=True)]
        assert inner(g, near) / float(product.norm(near)) >= inner(g, step) - 1e-12


@pytest.mark.parametrize("p", ORDERS)
def test_norm_by_its_definition(p):
    x = lists(0)
    parts = [s * float(norm.norm(t)) for s, norm, t in zip(SCALES, NORMS, x, strict=True)]
    assert float(Product(NORMS, SCALES, p).norm(x)) == pytest.approx(torch.tensor(parts).double().norm(p).item())


@pytest.mark.parametrize("p", ORDERS)
def test_batches_are_independent(p):
    product, g = Product(NORMS, SCALES, p), lists(0, (3,))
    together = product.lmo(g)
    for i in range(3):
        alone = product.lmo([t[i] for t in g])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i], b)
    assert product.norm(g).shape == (3,)


def test_one_parameter_moves_for_p_1():
    moved = [bool(step.any()) for step in Product(NORMS, p=1).lmo(lists(0))]
    assert sum(moved) == 1


def test_an_infinite_scale_freezes_its_parameter():
    product, g = Product(NORMS, (1.0, math.inf, 1.0)), lists(0)
    step = product.lmo(g)
    assert not step[1].any()
    assert float(product.norm(step)) == pytest.approx(1)
    assert math.isinf(float(product.norm(g)))
    assert inner(g, step) == pytest.approx(-float(product.dual(g)))
    assert not product.project(g)[1].any()


def test_projection_is_parameter_by_parameter_and_only_for_inf():
    product, x = Product(NORMS, SCALES), lists(0)
    near = product.project([10 * t for t in x])
    assert float(product.norm(near)) == pytest.approx(1)
    with pytest.raises(NotImplementedError, match="p=2"):
        Product(NORMS, p=2.0).project(x)
    with pytest.raises(NotImplementedError, match="closed-form"):
        Product([Schatten(3)]).project(x[:1])


@pytest.mark.parametrize("p", ORDERS)
def test_zero_gradients_and_dtypes(p):
    g = [torch.zeros(4, 3, dtype=torch.bfloat16), torch.zeros(4), torch.zeros(2, 5, dtype=torch.float64)]
    step = Product(NORMS, p=p).lmo(g)
    assert [t.dtype for t in step] == [t.dtype for t in g]
    assert not any(t.any() for t in step)


@pytest.mark.parametrize("p", ORDERS)
def test_nan_propagates(p):
    g = lists(0)
    g[1][0] = math.nan
    product = Product(NORMS, p=p)
    assert product.norm(g).isnan()
    assert product.dual(g).isnan()
    assert any(t.isnan().any() for t in product.lmo(g))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="at least one norm"):
        Product([])
    with pytest.raises(ValueError, match="one scale a norm"):
        Product(NORMS, (1.0,))
    with pytest.raises(ValueError, match="positive"):
        Product(NORMS, (1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="p must be"):
        Product(NORMS, p=0.5)
    with pytest.raises(ValueError, match="3 norms, got 2 tensors"):
        Product(NORMS).lmo(lists(0)[:2])
    with pytest.raises(ValueError, match="same batch shape"):
        Product(NORMS).norm([*lists(0, (3,))[:2], lists(0, (2,))[2]])
