# SPDX-License-Identifier: Apache-2.0
"""Where candidates are evaluated: here, in processes of this machine, or in a Ray cluster.

All of them return results in the order of the tasks, so a run's outcome does not depend on the choice.
"""

import concurrent.futures
import importlib
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any, Protocol, final


class Workers(Protocol):
    """Evaluates a function for many arguments and keeps their order."""

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
        """Return `[function(task) for task in tasks]`."""
        ...

    def close(self) -> None:
        """Give back what the workers hold."""
        ...


@final
class Serial:
    """Evaluates in this process.

    Example:
        >>> Serial().map(abs, [-1, 2])
        [1, 2]
    """

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
        """Return `[function(task) for task in tasks]`."""
        return [function(task) for task in tasks]

    def close(self) -> None:
        """Do nothing."""


@final
class Processes:
    """Evaluates in processes of this machine; function and tasks are pickled.

    Args:
        count: Number of processes, at least 1.

    Raises:
        ValueError: If count is below 1.
    """

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ValueError(f"workers are at least 1, got {count}")
        self._count = count
        self._pool = concurrent.futures.ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"))

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
        """Return `[function(task) for task in tasks]`."""
        return list(self._pool.map(function, tasks, chunksize=max(1, len(tasks) // (4 * self._count))))

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(cancel_futures=True)


@final
class RayCluster:
    """Evaluates in a Ray cluster: the one at `address`, or a local one.

    Args:
        address: As `ray.init` takes it, such as "auto"; None starts a local cluster.
        count: Processors of a local cluster.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
    """

    def __init__(self, address: str | None = None, count: int | None = None) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError as error:
            if error.name != "ray":
                raise
            raise ModuleNotFoundError("Ray is not installed: pip install 'steepest[ray]'") from error
        self._ours = not self._ray.is_initialized()
        if self._ours:
            self._ray.init(address=address, num_cpus=count, include_dashboard=False, log_to_driver=False)
        self._tasks_each = 8

    def map(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
        """Return `[function(task) for task in tasks]`."""
        remote = self._ray.remote(_each)
        shared = self._ray.put(function)
        parts = [tasks[i : i + self._tasks_each] for i in range(0, len(tasks), self._tasks_each)]
        return [result for part in self._ray.get([remote.remote(shared, part) for part in parts]) for result in part]

    def close(self) -> None:
        """End the local cluster, or leave the other one."""
        if self._ours:
            self._ray.shutdown()


def _each(function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
    return [function(task) for task in tasks]
