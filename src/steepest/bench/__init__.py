# SPDX-License-Identifier: Apache-2.0
"""Times what the library does beside its alternatives, in one process: what `steepest bench` runs.

The timing is in `timing`, the peers in `peers`; each other module is one theme with its cases.
"""

from steepest.bench.timing import Record, Timing, alternate, copy_bandwidth, machine

__all__ = ["Record", "Timing", "alternate", "copy_bandwidth", "machine"]
