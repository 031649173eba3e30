import numpy as np
import torch

from tests.kernels.accuracy import measure, patterns


def test_a_correctly_rounded_function_measures_half_an_ulp():
    error = measure(lambda x: (x.double() * 0.7).float(), lambda x: x * 0.7, one_in=4096)
    assert 0.49 < error.normal <= 0.5
    assert 0.49 < error.subnormal <= 0.5


def test_one_step_away_measures_one_ulp():
    def away(x):
        size = x.abs().clamp(min=2.0**-140, max=1e38).where(~x.isnan(), x)
        return torch.nextafter(size, torch.tensor(torch.inf))

    def exact(x):
        return x.abs().clamp(min=2.0**-140, max=float(np.float32(1e38))).where(~x.isnan(), x)

    error = measure(away, exact, one_in=4096)
    assert (error.normal, error.subnormal) == (1, 1)


def test_lost_specials_are_infinite_errors():
    same = lambda x: x  # noqa: E731
    assert measure(lambda x: torch.nan_to_num(x), same, one_in=1 << 20).largest == np.inf
    assert measure(lambda x: x.abs() * x.sign(), same, one_in=1 << 20).largest == np.inf  # loses -0
    assert measure(same, same, one_in=1 << 20).largest == 0


def test_all_patterns_are_visited_once_in_their_group():
    chunks = list(patterns(1 << 10))[1:]
    bits = np.concatenate([c.view(np.uint32) for c in chunks])
    assert len(bits) == 1 << 22
    np.testing.assert_array_equal(bits >> 10, np.arange(1 << 22))
