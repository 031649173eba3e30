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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4GB", 4 * 10**9),
        ("4 GiB", 4 * 2**30),
        ("1.5gb", 1_500_000_000),
        (".5 MiB", 2**19),
        ("123B", 123),
        ("2TB", 2 * 10**12),
        ("1000kB", 10**6),
        ("0.1GB", 10**8),
    ],
)
def test_sizes_are_read(text, expected):
    assert units.parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "4", "GB", "4G", "4 gigabytes", "-4GB", "0GB", "1e9B", "4GB!", "0.1B", "nanGB", "1.2.3GB"]
)
def test_other_sizes_are_refused_with_what_to_write(text):
    with pytest.raises(ValueError, match=r"--limit: expected a number and a unit, got .*write 4GB"):
        units.parse_size(text, "--limit")


@pytest.mark.parametrize(("value", "expected"), [(0, "0 B"), (999, "999 B"), (2.5e9, "2.50 GB"), (1.2e6, "1.20 MB")])
def test_decimal_sizes(value, expected):
    assert units.decimal_size(value) == expected
