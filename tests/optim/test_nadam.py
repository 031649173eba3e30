import pytest
import torch

from steepest.optim import NAdam, Options
from steepest.optim.nadam import NAdamRule, _momentum_product, nadam_momentum
from tests.optim.gradients import MATRICES, VECTORS, assert_follows, parameters, run
from tests.reference.adam import adam_steps

SHAPES = (*MATRICES, *VECTORS)


@pytest.mark.parametrize("kind", ["full", "rank one", "zero"])
@pytest.mark.parametrize("momentum_decay", [0.0, 4e-3, 0.5])
@pytest.mark.parametrize("decay", ["l2", "decoupled"])
def test_twenty_steps_equal_the_formula(decay, momentum_decay, kind):
    params = parameters(SHAPES)
    optimizer = NAdam(params, lr=0.05, weight_decay=0.2, momentum_decay=momentum_decay, options=Options(decay=decay))
    settings = {"lr": 0.05, "weight_decay": 0.2, "decay": decay, "momentum_decay": momentum_decay}
    assert_follows(optimizer, params, lambda w, g: adam_steps(w, g, **settings), kind=kind)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decoupled", [False, True])
def test_equals_torch(decoupled, dtype):
    one, two = parameters(SHAPES, dtype), parameters(SHAPES, dtype)
    options = Options(decay="decoupled" if decoupled else "l2")
    run(NAdam(one, lr=0.02, weight_decay=0.1, momentum_decay=0.05, options=options), one, range(20))
    theirs = torch.optim.NAdam(
        two, lr=0.02, weight_decay=0.1, momentum_decay=0.05, decoupled_weight_decay=decoupled, foreach=False
    )
    run(theirs, two, range(20))
    # torch keeps the product of the momenta in float32, whatever the parameters are.
    tolerance = 2e-6
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_momentum_rises_from_half_to_all_and_its_product_is_not_kept():
    assert nadam_momentum(0.9, 4e-3, 1) == pytest.approx(0.45, rel=1e-3)
    assert nadam_momentum(0.9, 4e-3, 10**6) == pytest.approx(0.9)
    product = 1.0
    for t in range(1, 60):
        product *= nadam_momentum(0.99, 0.01, t)
        assert _momentum_product(0.99, 0.01, t) == pytest.approx(product, rel=1e-12)
    assert _momentum_product(0.99, 0.01, 10**7) == 0.0
    of_mean, of_grad = NAdamRule().numbers(10**7)
    assert (of_mean, of_grad) == (pytest.approx(0.9), pytest.approx(0.1))


@pytest.mark.parametrize("settings", [{"momentum_decay": -1.0}, {"eps": 0.0}, {"betas": (0.9, 1.0)}])
def test_bad_constants_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        NAdam(parameters([(2, 2)]), **settings)
