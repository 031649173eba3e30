# SPDX-License-Identifier: Apache-2.0
"""How many bytes tensors take while something runs."""

from typing import Any, final

import torch

from steepest.kernels._memory import leases_watched

_AUTOGRAD: Any = torch.autograd
_CORE: Any = torch._C
_MARK, _BYTES = "steepest mark ", "steepest bytes "


@final
class Allocations:
    """Records what tensors on the CPU take while entered: those of torch, and large outputs of our kernels.

    It begins at zero, and sees what this thread does.

    Example:
        >>> with Allocations() as found:
        ...     x = torch.ones(1000)
        ...     found.mark("one")
        ...     y = torch.ones(3000)
        ...     del y
        ...     found.mark("two")
        >>> found.at("one"), found.at("two"), found.most("one", "two")
        (4000, 4000, 16000)
    """

    def __enter__(self) -> "Allocations":
        # torch.profiler would do, but for what it writes to standard error whenever it begins and ends.
        more = _CORE._profiler._ExperimentalConfig()
        config = _AUTOGRAD.ProfilerConfig(_AUTOGRAD.ProfilerState.CPU, False, True, False, False, False, more)
        _AUTOGRAD._enable_profiler_legacy(config)
        self._watch = leases_watched(self.count)
        self._watch.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._watch.__exit__(None, None, None)
        self._live, self._marks = [0], dict[str, int]()
        for record in (record for records in _AUTOGRAD._disable_profiler_legacy() for record in records):
            if record.kind() == "memory_alloc":
                self._live.append(self._live[-1] + record.cpu_memory_usage())
            elif record.kind() == "push" and record.name().startswith(_BYTES):
                self._live.append(self._live[-1] + int(record.name().removeprefix(_BYTES)))
            elif record.kind() == "push" and record.name().startswith(_MARK):
                self._marks[record.name().removeprefix(_MARK)] = len(self._live) - 1

    def mark(self, name: str) -> None:
        """Give this moment a name; of two with the same one the last counts."""
        with torch.profiler.record_function(_MARK + name):
            pass

    def count(self, nbytes: int) -> None:
        """Count so many bytes more (less, if negative) from here on."""
        with torch.profiler.record_function(f"{_BYTES}{nbytes}"):
            pass

    def at(self, name: str) -> int:
        """Return the bytes at a moment."""
        return self._live[self._marks[name]]

    def most(self, first: str, last: str) -> int:
        """Return the most bytes from one moment to another."""
        return max(self._live[self._marks[first] : self._marks[last] + 1])
