import pytest
import torch
from torch import nn

from steepest.nn import (
    L1SAE,
    ActivationStream,
    GatedSAE,
    JumpReLUSAE,
    JumpReLUTraining,
    Llama,
    SAETraining,
    TopKSAE,
    draw_batches,
    evaluate_sae,
    input_scale,
    loss_recovered,
    preset,
    replaced,
    train_sae,
)


def superposition(points, seed, *, features=24, width=12, active=2):
    directions = torch.randn(features, width, generator=torch.Generator().manual_seed(99))
    directions /= directions.norm(dim=1, keepdim=True)
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(points, features, generator=generator) < active / features
    return (on * (torch.rand(points, features, generator=generator) + 0.5)) @ directions


def trained(kind, x, *, steps=400, width=12, **settings):
    sae = kind(width, 48, generator=torch.Generator().manual_seed(0), **settings)
    history = train_sae(sae, draw_batches(x, batch=256), SAETraining(steps=steps, lr=5e-3, sparsity_warmup=100))
    return sae, history


def test_gates_and_thresholds_beat_l1_at_equal_sparsity_without_shrinking():
    train = superposition(20_000, 1)
    test = superposition(4000, 2)
    scale = input_scale([train])
    train, test = scale * train, scale * test
    l1 = evaluate_sae(trained(L1SAE, train, sparsity=0.8)[0], [test])
    gated, history = trained(GatedSAE, train, sparsity=1.3)
    found = evaluate_sae(gated, [test])
    jump = evaluate_sae(
        trained(JumpReLUSAE, train, sparsity=0.25, training=JumpReLUTraining(threshold=0.1, bandwidth=0.1))[0], [test]
    )
    assert found.l0 <= l1.l0 + 0.5
    assert found.fvu < 0.6 * l1.fvu
    assert l1.gamma > 1.05
    assert abs(found.gamma - 1) < 0.02
    assert jump.l0 <= found.l0
    assert abs(jump.gamma - 1) < 0.02
    assert history.rows[-1]["mse"] < history.rows[0]["mse"]


def test_target_sets_the_sparsity():
    train = superposition(8000, 1)
    training = JumpReLUTraining(threshold=0.1, bandwidth=0.2, target=3.0)
    sae, _ = trained(JumpReLUSAE, train * input_scale([train]), sparsity=5.0, training=training)
    assert evaluate_sae(sae, [train * input_scale([train])]).l0 == pytest.approx(3.0, rel=0.1)


def test_same_seed_same_bits():
    train = superposition(2000, 1)
    one, two = (trained(GatedSAE, train, steps=20, sparsity=0.5)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("kind", [L1SAE, GatedSAE, JumpReLUSAE])
def test_dead_features_are_resampled_and_live(kind):
    train = superposition(4000, 1)
    sae = kind(12, 48, sparsity=0.05, generator=torch.Generator().manual_seed(0))
    bias = "b_gate" if kind is GatedSAE else "b_enc"
    with torch.no_grad():
        getattr(sae, bias)[:10] = -50.0
    training = SAETraining(steps=400, lr=2e-3, dead_after=20, resample_every=50, log_every=10)
    history = train_sae(sae, draw_batches(train, batch=128), training)
    assert history.resampled[50] >= 10
    assert all(step <= 200 for step in history.resampled)
    assert history.rows[4]["dead"] >= 9 / 48
    assert evaluate_sae(sae, [train]).dead < 5 / 48


def test_resampling_forgets_momenta_of_those_features_alone():
    from steepest.nn.sae.trainer import _resample
    from steepest.optim import Adam

    x = superposition(500, 1)
    sae = TopKSAE(12, 20, k=3, generator=torch.Generator().manual_seed(0))
    optimizer = Adam(list(sae.parameters()), lr=1e-3)
    sae.losses(x).total.backward()
    optimizer.step()
    with torch.no_grad():
        for parameter in sae.parameters():
            for state in optimizer.state[parameter].values():
                if isinstance(state, torch.Tensor) and state.shape == parameter.shape:
                    state.fill_(1.0)
    dead = torch.zeros(20, dtype=torch.bool)
    dead[[2, 5]] = True
    assert _resample(sae, optimizer, x, dead, torch.Generator().manual_seed(0)) == 2
    for parameter, axis in ((sae.W_dec, 0), (sae.W_enc, 1), (sae.b_enc, 0)):
        states = [s for s in optimizer.state[parameter].values() if getattr(s, "shape", None) == parameter.shape]
        assert len(states) == 2
        for state in states:
            assert not state.index_select(axis, torch.tensor([2, 5])).any()
            assert state.sum() == state.numel() * 18 / 20
    torch.testing.assert_close(sae.W_dec[dead].norm(dim=1), torch.ones(2))


def test_metrics_by_hand():
    sae = L1SAE(2, 3, sparsity=0.0)
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        sae.W_dec.copy_(torch.tensor([[0.5, 0.0], [0.0, 0.5], [1.0, 0.0]]))
        sae.b_dec.copy_(torch.tensor([1.0, 1.0]))
    x = torch.tensor([[3.0, 1.0], [1.0, 5.0], [2.0, 2.0]])
    metrics = evaluate_sae(sae, [x[:2], x[2:], x[:0]])
    # Centred: (2, 0), (0, 4), (1, 1); reconstructed at half size.
    assert metrics.l0 == pytest.approx(4 / 3)
    assert metrics.gamma == pytest.approx(2.0)
    assert metrics.fvu == pytest.approx((1 + 4 + 0.5) / (x - x.mean(0)).square().sum().item())
    assert metrics.dead == pytest.approx(1 / 3)
    assert metrics.rows == 3


def test_perfect_reconstruction_recovers_the_loss():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    identity = L1SAE(6, 6, sparsity=0.0)
    with torch.no_grad():
        identity.W_enc.copy_(torch.eye(6))
        identity.W_dec.copy_(torch.eye(6))
    x, y = torch.randn(20, 4), torch.randint(3, (20,))

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    found = loss_recovered(model, "1", identity, [(x, y)], loss)
    assert found.spliced == pytest.approx(found.clean)
    assert found.recovered == pytest.approx(1.0)
    with torch.no_grad():
        identity.W_dec.zero_()
    assert loss_recovered(model, "1", identity, [(x, y)], loss).recovered == pytest.approx(0.0)
    assert not model[1]._forward_hooks


def test_stream_gives_every_row_of_the_site_once_and_mixed():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[0].bias.zero_()
    inputs = [torch.arange(1 + 10 * i, 11 + 10 * i).float()[:, None].expand(10, 2) for i in range(9)]
    stream = ActivationStream(model, "1", inputs, batch=8, buffer=32, scale=2.0)
    batches = list(stream)
    seen = torch.cat(batches)[:, 0] / 2
    assert all(batch.shape == (8, 2) for batch in batches)
    assert len(seen.unique()) == len(seen) == 88
    assert (batches[0][:, 0] / 2).diff().abs().max() > 1.5  # not in their order
    assert torch.equal(torch.cat(list(stream)), torch.cat(batches))  # again, to the same bits
    assert torch.equal(torch.cat(list(stream.rows()))[:, 0], 2 * torch.arange(1, 91).float())
    assert not model[1]._forward_hooks


def test_stream_and_splice_in_a_llama():
    model = Llama(preset("nano", init="normal"))
    ids = torch.randint(256, (3, 16))
    site = "model.layers.0.mlp"
    (rows,) = ActivationStream(model, site, [ids], batch=4, buffer=8).rows()
    kept = []
    with replaced(model, site, lambda x: kept.append(x) or x):
        logits = model(ids)
    assert torch.equal(rows, kept[0].flatten(0, 1))
    assert torch.equal(logits, model(ids))
    with replaced(model, site, torch.zeros_like):
        assert not torch.equal(logits, model(ids))
    with replaced(model, "model.layers.1.input_layernorm", torch.zeros_like):  # first part of a tuple
        assert model(ids).shape == logits.shape


def test_input_scale_gives_unit_mean_square():
    x = [torch.randn(50, 8) * 7 for _ in range(3)]
    scale = input_scale(x)
    assert (torch.cat(x) * scale).square().mean().item() == pytest.approx(1.0, rel=1e-5)
    assert input_scale(iter(x), batches=1) == pytest.approx(x[0].square().mean().item() ** -0.5, rel=1e-5)


def nothing():
    return L1SAE(4, 8, sparsity=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: train_sae(nothing(), [torch.randn(3, 4)], SAETraining(steps=2)), "ended after 1 of 2"),
        (lambda: train_sae(nothing(), [torch.full((3, 4), torch.inf)], SAETraining(steps=1)), "not finite at step 1"),
        (lambda: SAETraining(steps=0), "steps"),
        (lambda: SAETraining(steps=1, decay=0.0), "decay"),
        (lambda: next(draw_batches(torch.zeros(3, 4), batch=5)), "1 to 3 rows"),
        (lambda: evaluate_sae(nothing(), []), "no activations"),
        (lambda: input_scale([torch.zeros(3, 4)]), "all zero"),
        (lambda: ActivationStream(nn.Linear(2, 2), "x", [], batch=2), "no module 'x'"),
        (lambda: ActivationStream(nn.Sequential(nn.ReLU()), "0", [], batch=4, buffer=6), "buffer"),
        (lambda: loss_recovered(nn.Linear(2, 2), "", nothing(), [], lambda m, b: b), "no batches"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_module_that_is_never_called_is_named_as_such():
    model = nn.Module()
    model.unused, model.forward = nn.ReLU(), lambda x: x
    with pytest.raises(ValueError, match="never called"):
        list(ActivationStream(model, "unused", [torch.zeros(2, 2)], batch=1, buffer=2))
