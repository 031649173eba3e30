import copy
import math

import pytest
import torch

from steepest.nn import L1SAE, GatedSAE, JumpReLUSAE, JumpReLUTraining, SAEOptions, TopKSAE

D_IN, D_SAE = 6, 20


def make(kind, *, options=None, seed=0, **settings):
    generator = torch.Generator().manual_seed(seed)
    settings = {"k": 5} | settings if kind is TopKSAE else {"sparsity": 0.3} | settings
    sae = kind(D_IN, D_SAE, options=options, generator=generator, **settings)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            if name == "threshold":
                parameter.copy_(torch.rand(D_SAE, generator=generator) * 0.5)
            elif name not in ("W_enc", "W_dec"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            elif options and options.decoder == "free":
                parameter.mul_(
                    torch.rand(D_SAE, generator=generator).add(0.5).view((-1, 1)[:: 1 if name == "W_dec" else -1])
                )
    return sae


def draw(*shape, dtype=torch.float32, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


KINDS = [L1SAE, GatedSAE, JumpReLUSAE, TopKSAE]
each_kind = pytest.mark.parametrize("kind", KINDS)


def features_by_hand(sae, x):
    """The encoders by their formulas, row by row and feature by feature."""
    p = {name: tensor.double() for name, tensor in sae.state_dict().items()}
    z = (x.double() - (p["b_dec"] if sae.options.center else 0)) @ p["W_enc"]
    if isinstance(sae, GatedSAE):
        magnitude = (p["r_mag"].exp() * z + p["b_mag"]).clamp(min=0)
        return magnitude * (z + p["b_gate"] > 0)
    pre = z + p["b_enc"]
    if isinstance(sae, JumpReLUSAE):
        return pre * (pre > p["threshold"])
    if isinstance(sae, TopKSAE):
        order = pre * p["W_dec"].norm(dim=1) if sae.options.decoder == "free" else pre
        least = order.sort(-1, descending=True).values[..., sae.k - 1 : sae.k]
        return pre.clamp(min=0) * (order >= least)
    return pre.clamp(min=0)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("decoder", ["unit", "free"])
@each_kind
def test_encoder_and_decoder_follow_their_formulas(kind, decoder, center):
    sae = make(kind, options=SAEOptions(decoder=decoder, center=center)).double()
    x = draw(9, 4, D_IN, dtype=torch.float64)
    features = sae.encode(x)
    torch.testing.assert_close(features, features_by_hand(sae, x))
    torch.testing.assert_close(sae(x), features @ sae.W_dec + sae.b_dec)
    assert 0 < (features > 0).double().mean() < 1


def test_gated_is_its_jumprelu_form_to_rounding():
    for seed in range(20):
        gated = make(GatedSAE, seed=seed).double()
        state = torch.get_rng_state()
        jump = gated.to_jumprelu()
        assert torch.equal(torch.get_rng_state(), state)
        x = draw(200, D_IN, dtype=torch.float64, seed=seed)
        assert torch.equal(gated.encode(x) > 0, jump.encode(x) > 0)
        torch.testing.assert_close(gated.encode(x), jump.encode(x), rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(gated(x), jump(x), rtol=1e-12, atol=1e-13)


def test_gated_is_its_jumprelu_form_bit_for_bit_where_arithmetic_is_exact():
    # Small whole numbers and r = 0: every product and sum is exact, and many pre-activations lie on a threshold.
    generator = torch.Generator().manual_seed(0)
    gated = make(GatedSAE).double()
    with torch.no_grad():
        for name, parameter in gated.named_parameters():
            parameter.copy_(torch.randint(-3, 4, parameter.shape, generator=generator))
            if name == "r_mag":
                parameter.zero_()
    x = torch.randint(-4, 5, (500, D_IN), generator=generator).double()
    z = (x - gated.b_dec) @ gated.W_enc
    assert (z + gated.b_gate == 0).any()
    assert (z + gated.b_mag == 0).any()
    jump = gated.to_jumprelu()
    assert torch.equal(gated.encode(x), jump.encode(x))
    assert torch.equal(gated(x), jump(x))


@each_kind
def test_folding_norms_leaves_the_output(kind):
    sae = make(kind, options=SAEOptions(decoder="free")).double()
    x = draw(50, D_IN, dtype=torch.float64)
    before, features, norms = sae(x), sae.encode(x), sae.decoder_norms()
    assert norms.std() > 0.1
    sae.fold_decoder_norms_()
    torch.testing.assert_close(sae(x), before)
    torch.testing.assert_close(sae.encode(x), features * norms)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE, dtype=torch.float64))


@each_kind
def test_folding_the_input_scale_gives_the_same_features(kind):
    sae = make(kind).double()
    x, scaled = draw(50, D_IN, dtype=torch.float64), copy.deepcopy(sae)
    scaled.fold_input_scale_(2.5)
    torch.testing.assert_close(scaled.encode(x), sae.encode(2.5 * x))
    torch.testing.assert_close(scaled(x), sae(2.5 * x) / 2.5)


def test_topk_refuses_to_fold_norms_that_decide_nothing():
    sae = make(TopKSAE)
    sae.fold_decoder_norms_()
    with torch.no_grad():
        sae.W_dec[0] *= 3
    with pytest.raises(ValueError, match="which features are the largest"):
        sae.fold_decoder_norms_()


@each_kind
def test_unit_norms_are_kept_and_the_gradient_stays_on_the_sphere(kind):
    sae = make(kind)
    x = draw(64, D_IN)
    sae.losses(x).total.backward()
    assert (sae.W_dec.grad * sae.W_dec).sum(1).abs().max() > 1e-3
    sae.before_step_()
    torch.testing.assert_close((sae.W_dec.grad * sae.W_dec).sum(1), torch.zeros(D_SAE), rtol=0, atol=1e-5)
    with torch.no_grad():
        sae.W_dec -= 0.1 * sae.W_dec.grad
    sae.after_step_()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(D_SAE))
    free = make(kind, options=SAEOptions(decoder="free"))
    norms = free.W_dec.norm(dim=1).clone()
    free.after_step_()
    assert torch.equal(free.W_dec.norm(dim=1), norms)


def test_losses_are_the_sums_they_say():
    x = draw(32, D_IN, dtype=torch.float64)
    options = SAEOptions(decoder="free")
    sae = make(L1SAE, options=options).double()
    features = features_by_hand(sae, x)
    norms = sae.W_dec.norm(dim=1)
    losses = sae.losses(x, ramp=0.5)
    mse = (sae(x) - x).square().sum(1).mean()
    torch.testing.assert_close(losses.parts["mse"], mse.detach())
    # Penalties are added up in float32.
    assert losses.parts["l1"].item() == pytest.approx(0.15 * (features * norms).sum(1).mean().item(), rel=1e-6)
    assert losses.total.item() == pytest.approx(sum(part.item() for part in losses.parts.values()))
    jump = make(JumpReLUSAE).double()
    active = (features_by_hand(jump, x) > 0).double().sum(1).mean()
    assert jump.losses(x).parts["sparsity"].item() == pytest.approx(0.3 * active.item())
    jump = make(JumpReLUSAE, training=JumpReLUTraining(target=4.0)).double()
    assert jump.losses(x).parts["sparsity"].item() == pytest.approx(0.3 * (active.item() / 4 - 1) ** 2)
    jump = make(JumpReLUSAE, training=JumpReLUTraining(penalty="tanh"), options=options).double()
    size = torch.tanh(4 * features_by_hand(jump, x) * jump.W_dec.norm(dim=1)).sum(1).mean()
    assert jump.losses(x).parts["sparsity"].item() == pytest.approx(0.3 * size.item(), rel=1e-6)


def test_the_gates_own_error_reaches_the_gate_but_not_the_decoder():
    x = draw(32, D_IN, dtype=torch.float64)
    sae = make(GatedSAE, sparsity=0.0).double()
    whole = torch.autograd.grad(sae.losses(x).total, [sae.W_dec, sae.b_dec, sae.b_gate])
    first = (sae(x) - x).square().sum(1).mean()
    decoder, center = torch.autograd.grad(first, [sae.W_dec, sae.b_dec], retain_graph=True)
    torch.testing.assert_close(whole[0], decoder)
    assert torch.autograd.grad(first, sae.b_gate, allow_unused=True)[0] is None
    assert whole[2].abs().sum() > 0
    assert not torch.equal(whole[1], center)  # by the input alone, for the encoder is centred


def test_thresholds_learn_from_both_sides():
    sae = make(JumpReLUSAE, sparsity=1.0, training=JumpReLUTraining(bandwidth=0.4)).double()
    x = draw(4000, D_IN, dtype=torch.float64)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    with torch.no_grad():
        sae.W_dec.zero_()  # leaves the penalty alone
    (slope,) = torch.autograd.grad(sae.losses(x).total, sae.threshold)
    near = (pre - sae.threshold).abs() < 0.2
    torch.testing.assert_close(slope, -(near.double().mean(0)) / 0.4, rtol=1e-5, atol=1e-6)
    assert (near & (pre < sae.threshold)).any()


def test_reconstruction_gradients_pass_gradcheck_away_from_kinks():
    for kind in KINDS:
        sae = make(kind).double()
        x = draw(7, D_IN, dtype=torch.float64)
        names = [n for n, _ in sae.named_parameters() if n != "threshold"]

        def call(*values, sae=sae, names=names, x=x):
            return torch.func.functional_call(sae, dict(zip(names, values, strict=True)), (x,))

        values = [sae.get_parameter(name).detach().clone().requires_grad_() for name in names]
        assert torch.autograd.gradcheck(call, values)


def test_dead_features_of_topk_learn_the_rest():
    sae = make(TopKSAE, k=2)
    x, dead = draw(64, D_IN), torch.zeros(D_SAE, dtype=torch.bool)
    assert "dead" not in sae.losses(x, dead=dead).parts
    dead[-2:] = True
    losses = sae.losses(x, dead=dead)
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    revived = torch.relu(pre) * dead
    left = x - sae(x)
    error = (left - revived @ sae.W_dec).square().sum(1).mean() * (2 / 3) / 32
    assert losses.parts["dead"].item() == pytest.approx(error.item(), rel=1e-5)


def test_dead_thresholds_are_pulled_down():
    sae = make(JumpReLUSAE, sparsity=0.0, training=JumpReLUTraining(dead=1.0))
    with torch.no_grad():
        sae.threshold[3] = 50.0
    dead = torch.arange(D_SAE) == 3
    x = draw(64, D_IN)
    losses = sae.losses(x, dead=dead)
    pre = ((x - sae.b_dec) @ sae.W_enc + sae.b_enc)[:, 3]
    assert losses.parts["dead"].item() == pytest.approx((50.0 - pre).clamp(min=0).mean().item(), rel=1e-5)
    assert torch.autograd.grad(losses.total, sae.threshold)[0][3] == pytest.approx(1.0)


@each_kind
def test_layouts_empty_batches_and_state_dict(kind):
    sae = make(kind)
    base = draw(D_IN, 4, 3)
    for x in (base.permute(1, 2, 0), base.permute(2, 1, 0)[::2], draw(D_IN), draw(0, D_IN)):
        assert torch.equal(sae(x), sae(x.contiguous()))
        assert sae.encode(x).shape == (*x.shape[:-1], D_SAE)
    twin = make(kind, seed=9)
    twin.load_state_dict(sae.state_dict())
    assert torch.equal(twin(base.permute(1, 2, 0)), sae(base.permute(1, 2, 0)))


@each_kind
def test_half_precision_sums_do_not_overflow(kind):
    x = draw(16, D_IN, dtype=torch.float16) * 300
    sae = make(kind).half()
    losses = sae.losses(x)
    assert sae(x).dtype == torch.float16
    assert math.isfinite(losses.total.item())
    assert losses.parts["mse"].item() == pytest.approx(
        (sae(x).double() - x.double()).square().sum(1).mean().item(), rel=1e-3
    )


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: TopKSAE(4, 8, k=9), ValueError, "k: expected"),
        (lambda: L1SAE(0, 8, sparsity=1.0), ValueError, "d_in"),
        (lambda: GatedSAE(4, 8, sparsity=-1.0), ValueError, "sparsity"),
        (lambda: SAEOptions(decoder="tied"), ValueError, "unit, free"),
        (lambda: JumpReLUTraining(bandwidth=0.0), ValueError, "bandwidth"),
        (lambda: JumpReLUTraining(penalty="tanh", target=3.0), ValueError, "target"),
        (lambda: make(L1SAE)(torch.zeros(3, 5)), ValueError, r"\(\.\.\., 6\), got shape \(3, 5\)"),
        (lambda: make(L1SAE)(torch.zeros(3, 6, dtype=torch.float64)), TypeError, "torch.float64"),
        (lambda: make(L1SAE).fold_input_scale_(0.0), ValueError, "scale"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
