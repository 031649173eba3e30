import io

import numpy as np
import pytest
import torch

from steepest.kernels._updates_noise import noise_bits, noise_key, noise_keys
from steepest.kernels.updates import (
    AdamHyper,
    Noise,
    Quantized,
    adam_step_,
    decode_state,
    encode_state_,
    state_zeros,
)


def test_random_bits_are_even_and_uncorrelated():
    z = torch.zeros(1 << 16)
    draws = torch.stack([noise_bits(noise_key(Noise(7, t), i, s), z) for t in range(4) for i in (0, 1) for s in (0, 1)])
    halves = torch.cat([draws & 0xFFFF, draws >> 16]).double() / 65536
    # Standard deviations of a mean and of a correlation over 2^16 numbers.
    assert ((halves.mean(1) - 0.5) / (12**-0.5 / 256)).abs().max() < 4.5
    correlation = torch.corrcoef(torch.cat([halves, halves[:, torch.arange(1, (1 << 16) + 1) % (1 << 16)]]))
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() * 256 < 5
    counts = torch.bincount((draws >> 24).flatten(), minlength=256).double()
    expected = draws.numel() / 256
    chi = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi - 255) < 5 * (2 * 255) ** 0.5


def test_keys_of_many_tensors_are_those_of_each():
    noise = Noise(-3, 1 << 70)
    expected = [[noise_key(noise, i, s) for s in (0, 1)] for i in (0, 5, 9)]
    assert (noise_keys(noise, [0, 5, 9]).view(np.uint64) == np.array(expected, np.uint64)).all()


@pytest.mark.parametrize("kind", ["bfloat16", "signed", "unsigned"])
def test_rounding_at_random_keeps_the_mean(kind):
    x = torch.randn(4, 300) * torch.logspace(-4, 0, 300)
    x = x.square() if kind == "unsigned" else x
    state = state_zeros(x, torch.bfloat16 if kind == "bfloat16" else torch.uint8)
    total, square, draws = torch.zeros(x.shape, dtype=torch.float64), torch.zeros(x.shape, dtype=torch.float64), 400
    for t in range(draws):
        encode_state_(state, x, signed=kind != "unsigned", noise=Noise(11, t))
        value = decode_state(state, signed=kind != "unsigned").double()
        total += value
        square += value**2
    mean = total / draws
    deviation = (square / draws - mean**2).clamp_min(0).sqrt() / draws**0.5
    normal = ((mean - x) / deviation.clamp_min(1e-12))[deviation > 1e-9 * x.abs().max()]
    assert normal.numel() > 500
    assert normal.abs().mean() < 1.1  # of a normal number: 0.80
    assert normal.mean().abs() < 5 / normal.numel() ** 0.5
    nearest = state_zeros(x, torch.bfloat16 if kind == "bfloat16" else torch.uint8)
    encode_state_(nearest, x, signed=kind != "unsigned")
    far = decode_state(nearest, signed=kind != "unsigned").double() - x
    assert (mean - x).norm() < 0.3 * far.norm()


@pytest.mark.parametrize("signed", [True, False])
def test_eight_bits_keep_their_bounds(signed):
    offset, top = (2.0**-15, 1.875) if signed else (2.0**-31, 1.875)
    x = torch.randn(7, 500, dtype=torch.float64).mul(torch.logspace(-6, 3, 500, dtype=torch.float64)).float()
    x[0, :300] = 0
    x = x if signed else x.square()
    state = state_zeros(x, torch.uint8)
    scale = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % 256)).view(-1, 256).abs().amax(1)
    scale = scale.repeat_interleave(256)[: x.numel()].view(x.shape)
    for noise, share in ((None, 1 / 16), (Noise(1, 2), 1 / 8)):
        encode_state_(state, x, signed=signed, noise=noise)
        back = decode_state(state, signed=signed)
        floor = offset / 8 * scale / top if not signed else 0
        assert ((back - x).abs() <= (share * (x.abs() + offset * scale / top) + floor) * (1 + 1e-5)).all()
        assert (back[x == 0] == 0).all()
        assert signed or (back[x > 0] > 0).all()
        assert (back * x >= 0).all()
    assert torch.equal(state.scales, scale.flatten()[::256])
    again = state_zeros(x, torch.uint8)
    encode_state_(again, back, signed=signed)
    torch.testing.assert_close(decode_state(again, signed=signed), back, rtol=1e-5, atol=0)


def test_two_states_in_eight_bits_take_about_two_bytes():
    p = torch.zeros(512, 512)
    states = [state_zeros(p, torch.uint8) for _ in range(2)]
    size = sum(t.numel() * t.element_size() for s in states for t in s)
    assert size / p.numel() <= 2.1


def test_a_slow_average_moves_in_sixteen_and_eight_bits():
    # Rounded to nearest, neither would leave its first value: the change of a step is below half a code.
    for dtype, tolerance in ((torch.bfloat16, 0.02), (torch.uint8, 0.1)):
        p, g = torch.zeros(4096), torch.ones(4096)
        m, v = state_zeros(p, dtype), state_zeros(p, dtype)
        encode_state_(v, torch.full_like(p, 4.0), signed=False)
        for t in range(1, 1001):
            adam_step_([p], [g], [m], [v], None, AdamHyper(lr=0.0, step=t, noise=Noise(0, t)))
        right = 1 + 3 * 0.999**1000
        assert abs(float(decode_state(v, signed=False).mean()) / right - 1) < tolerance


def test_a_block_that_is_not_finite_shows():
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = torch.ones(600)
        x[300] = bad
        state = state_zeros(x, torch.uint8)
        encode_state_(state, x)
        assert decode_state(state)[256:512].isnan().all()
        assert decode_state(state)[:256].isfinite().all()
        p = torch.ones(600)
        m, v = state_zeros(p, torch.uint8), state_zeros(p, torch.uint8)
        adam_step_([p], [x], [m], [v], None, AdamHyper(lr=0.1))
        assert p[300].isnan()
        assert int(p.isnan().sum()) == 1
        assert m.scales.isnan().tolist() == [False, True, False]


def test_states_load_as_weights_only():
    p = torch.randn(300)
    state = state_zeros(p, torch.uint8)
    encode_state_(state, p)
    file = io.BytesIO()
    torch.save({"codes": state.codes, "scales": state.scales}, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(decode_state(Quantized(**loaded)), decode_state(state))
