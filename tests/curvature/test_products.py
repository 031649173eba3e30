import pytest
import torch
from torch import nn
from torch.nn import functional as F

from steepest.curvature import ggn, hessian


def net(last=3) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, last)).double()


def batches(classes=True):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(11, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (11,), generator=generator) if classes else torch.randn(11, 3, generator=generator).double()
    return [(x[:4], y[:4]), (x[4:], y[4:])], x, y


def dense(model, loss, x, y):
    """Hessian and Gauss-Newton matrix by torch.func, over all examples at once."""
    named = dict(model.named_parameters())
    names, sizes = list(named), [p.numel() for p in named.values()]

    def outputs(flat):
        parts = {n: part.view(named[n].shape) for n, part in zip(names, flat.split(sizes), strict=True)}
        return torch.func.functional_call(model, parts, (x,))

    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
    h = torch.func.jacrev(torch.func.jacrev(lambda w: loss(outputs(w), y)))(flat)
    jacobian = torch.func.jacrev(outputs)(flat).reshape(-1, len(flat))
    f = outputs(flat)
    bent = torch.func.jacrev(torch.func.jacrev(lambda z: loss(z, y)))(f).reshape(f.numel(), f.numel())
    return h, jacobian.T @ bent @ jacobian


@pytest.mark.parametrize(("loss", "classes"), [(F.cross_entropy, True), (F.mse_loss, False)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_all_entries_against_nested_derivatives(loss, classes, reduction):
    def reduced(f, y):
        return loss(f, y, reduction=reduction)

    data, x, y = batches(classes)
    model = net()
    for made, expected in zip((hessian, ggn), dense(model, reduced, x, y), strict=True):
        matrix = made(model, reduced, data, reduction=reduction).matrix()
        torch.testing.assert_close(matrix, expected, rtol=1e-10, atol=1e-12)
        assert (expected - expected.T).abs().max() < 1e-12


def test_some_parameters_are_a_block():
    data, x, y = batches()
    model = net()
    h, g = dense(model, F.cross_entropy, x, y)
    last = list(model[2].parameters())
    for made, whole in ((hessian, h), (ggn, g)):
        block = made(model, F.cross_entropy, data, params=last).matrix()
        torch.testing.assert_close(block, whole[25:, 25:], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(h[25:, 25:], g[25:, 25:], rtol=1e-10, atol=1e-12)  # linear in the last layer


def test_ridge_regression_has_the_normal_matrix():
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = nn.Linear(6, 1, bias=False).double()
    operator = hessian(model, lambda f, y: F.mse_loss(f, y) / 2, [(x, torch.zeros(50, 1).double())]) + 0.3
    torch.testing.assert_close(operator.matrix(), x.T @ x / 50 + 0.3 * torch.eye(6).double(), rtol=1e-12, atol=1e-12)


def test_a_loss_without_curvature_and_an_unused_parameter_give_zeros():
    model = net()
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    data, _, _ = batches()
    assert ggn(model, lambda f, y: f.sum(), data).matrix().abs().max() == 0
    assert hessian(model, F.cross_entropy, data).matrix()[:2].abs().max() == 0
    linear = nn.Linear(4, 1).double()
    assert hessian(linear, lambda f, y: f.sum(), data).matrix().abs().max() == 0


def test_weights_gradients_and_modes_are_left_alone():
    model = net()
    data, _, _ = batches()
    kept = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with torch.no_grad():  # an operator works inside, too
        for made in (hessian, ggn):
            operator = made(model, F.cross_entropy, data)
            assert not (operator @ torch.ones(operator.size)).requires_grad
    for p, before in zip(model.parameters(), kept, strict=True):
        assert torch.equal(p, before)
        assert (p.grad == 1).all()


def test_our_own_layers_have_second_derivatives():
    from steepest import functional as SF

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.Linear(4, 6)
            self.down = nn.Linear(3, 2)

        def forward(self, x):
            return self.down(SF.silu(self.up(x)[:, :3]))

    torch.manual_seed(0)
    model = Gated().double()
    x = torch.randn(5, 4, dtype=torch.float64)
    matrix = hessian(model, F.mse_loss, [(x, torch.zeros(5, 2).double())]).matrix()
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-9, atol=1e-11)


def test_mistakes_say_what_to_do():
    model, (data, _, _) = net(), batches()
    with pytest.raises(ValueError, match="iterator"):
        hessian(model, F.cross_entropy, iter(data))
    with pytest.raises(ValueError, match="at least one batch"):
        hessian(model, F.cross_entropy, []) @ torch.zeros(43)
    with pytest.raises(ValueError, match="shape"):
        hessian(model, F.cross_entropy, data) @ torch.zeros(7)
    with pytest.raises(ValueError, match=r"eval\(\)"):
        hessian(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), F.cross_entropy, data)
    with pytest.raises(ValueError, match="gradients"):
        ggn(model.requires_grad_(False), F.cross_entropy, data)
    with pytest.raises(ValueError, match="'mean' or 'sum'"):
        ggn(net(), F.cross_entropy, data, reduction="none")
