import math

import pytest

from steepest.train.report import units


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (999, "999"),
        (999.7, "1.00 k"),
        (1234567, "1.23 M"),
        (12_345_678, "12.3 M"),
        (5.2e11, "520 G"),
        (0.5, "0.50"),
    ],
)
def test_count(value, expected):
    assert units.count(value) == expected


def test_count_for_an_axis_drops_zeros():
    assert [units.count(v, trim=True) for v in (0, 5e5, 1e6, 1.5e6)] == ["0", "500 k", "1 M", "1.5 M"]


@pytest.mark.parametrize(
    ("value", "expected"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (2**20, "1.00 MiB"), (25e9, "23.3 GiB")]
)
def test_size(value, expected):
    assert units.size(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3.21, "3.2 s"), (59.9, "1:00"), (187, "3:07"), (3600, "1:00:00"), (90061, "25:01:01"), (math.nan, "–")],
)
def test_duration(value, expected):
    assert units.duration(value) == expected


def test_change_has_a_sign_of_its_own():
    assert [units.change(v) for v in (-0.1234, 0.05)] == ["−12.3%", "+5.0%"]
