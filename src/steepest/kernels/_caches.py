# SPDX-License-Identifier: Apache-2.0
"""Sizes of the machine's data caches, as Linux tells them."""

import functools
from dataclasses import dataclass
from pathlib import Path

_SYSFS = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Caches:
    """Bytes of the second level and of the last level; a guess of 1 MiB and 16 MiB where nothing is known."""

    second: int = 1 << 20
    last: int = 16 << 20


def read_caches(folder: Path = _SYSFS) -> Caches:
    """Return the sizes that a sysfs cache folder states.

    Args:
        folder: Holds index0, index1, ... with the files level, type and size.

    Returns:
        The sizes; the defaults of `Caches` where the folder or a level is missing.
    """
    sizes: dict[int, int] = {}
    for entry in sorted(folder.glob("index*")):
        try:
            level, kind, size = ((entry / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size.rstrip("KMG")) * _UNITS.get(size[-1], 1)
        except (OSError, ValueError, IndexError):
            continue
    if not sizes:
        return Caches()
    return Caches(second=sizes.get(2, Caches.second), last=sizes[max(sizes)])


@functools.cache
def caches() -> Caches:
    """Return this machine's sizes.

    Returns:
        Read once.
    """
    return read_caches()
