# SPDX-License-Identifier: Apache-2.0
"""Numbers as people read them: 1.2 M, 3:07, 512 MiB; and as they write them: 4GB."""

import decimal
import math
import re
from collections.abc import Callable

#: How a number becomes text.
Form = Callable[[float], str]

_UNITS = {"b": 1}
_UNITS |= {f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)}
_UNITS |= {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)}


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


def decimal_size(value: float) -> str:
    """Return bytes with a decimal prefix, as disks and limits are given: `decimal_size(2.5e9) == '2.50 GB'`."""
    text = count(value)
    return f"{text}B" if text[-1].isalpha() else f"{text} B"


def parse_size(text: str, name: str = "size") -> int:
    """Return the bytes that a text such as `4GB` or `1.5 GiB` names.

    Args:
        text: A number above 0 and a unit: kB, MB, GB, TB (powers of 1000), KiB, MiB, GiB, TiB (powers of 1024) or B.
        name: Of what it is, for the error.

    Returns:
        Whole bytes, rounded down.

    Raises:
        ValueError: If it is anything else.

    Example:
        >>> parse_size("2GB"), parse_size("0.5 GiB")
        (2000000000, 536870912)
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]+)\s*", text)
    factor = _UNITS.get(match.group(2).lower()) if match else None
    size = int(decimal.Decimal(match.group(1)) * factor) if match and factor else 0
    if size < 1:
        raise ValueError(
            f"{name}: expected a number and a unit, got {text!r}; write 4GB (4 x 1000^3 bytes), 4GiB (4 x 1024^3), "
            "500MB or a number of bytes such as 4000000000B"
        )
    return size
