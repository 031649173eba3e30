# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them: 1.2 M, 3:07, 512 MiB."""

import math
from collections.abc import Callable

#: How a number becomes text.
Form = Callable[[float], str]


def count(value: float, *, trim: bool = False) -> str:
    """Return a count with a decimal prefix: `count(1234567) == '1.23 M'`.

    Args:
        value: Any finite number.
        trim: Leave out zeros at the end: `count(2e6, trim=True) == '2 M'`, as an axis shows it.

    Returns:
        Three digits and a prefix.
    """
    for unit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit * 0.9995:
            return f"{f'{value / unit:.3g}' if trim else _three_digits(value / unit)} {prefix}"
    return f"{value:g}" if float(value).is_integer() else _three_digits(value)


def change(ratio: float) -> str:
    """Return a relative change: `change(-0.1234) == '−12.3%'`, with the minus sign of a typesetter."""
    return f"{ratio:+.1%}".replace("-", "−")


def size(value: float) -> str:
    """Return bytes with a binary prefix: `size(2**20) == '1.00 MiB'`."""
    for power, prefix in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if abs(value) >= 0.9995 * 1024**power:
            return f"{_three_digits(value / 1024**power)} {prefix}"
    return f"{value:.0f} B"


def duration(seconds: float) -> str:
    """Return a time span as a clock shows it: `duration(187) == '3:07'`, `duration(3.21) == '3.2 s'`."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _three_digits(value: float) -> str:
    digits = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{digits}f}"
