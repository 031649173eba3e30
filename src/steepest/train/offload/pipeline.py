# SPDX-License-Identifier: Apache-2.0
"""Reading, computing and writing at the same time, each of something else."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, final

import torch


class Job(Protocol):
    """What goes through the three stages, each in a thread of its own."""

    def read(self) -> None:
        """Bring what is needed from the disk."""
        ...

    def compute(self) -> None:
        """Change it."""
        ...

    def write(self) -> None:
        """Bring it back to the disk."""
        ...

    def release(self) -> None:
        """Give back what was taken; called once in any case, also after a failure."""
        ...


@final
class Pipeline:
    """Jobs one after another: while one is computed, the next one is read and the last one written.

    Jobs are computed one at a time, as they are read. After a failure the jobs that are still on their way are let go.

    Args:
        depth: Most jobs on their way; `submit` waits for room.
        threads: That read, and as many that write: a disk is faster with several requests at a time.
        serial: Do each stage of each job in `submit`, one after another: for comparison, and to find mistakes.
    """

    def __init__(self, *, depth: int = 8, threads: int = 2, serial: bool = False) -> None:
        self._serial = serial
        self._room = threading.Semaphore(depth)
        self._changed = threading.Condition()
        self._pending = 0
        self.error: BaseException | None = None
        names = {} if serial else {"read": threads, "step": 1, "write": threads}
        self._stages = [ThreadPoolExecutor(count, f"offload-{name}") for name, count in names.items()]

    def submit(self, job: Job) -> None:
        """Start a job; its failure is raised by `drain`."""
        if self._serial:
            for stage in (job.read, job.compute, job.write):
                self._try(stage)
            job.release()
            return
        self._room.acquire()
        with self._changed:
            self._pending += 1
        # A thread of its own has a number of threads of its own in linear algebra, and with it other last bits.
        threads = torch.get_num_threads()

        def compute() -> None:
            torch.set_num_threads(threads)
            job.compute()

        self._stages[0].submit(self._advance, job, [job.read, compute, job.write], 0)

    def drain(self) -> None:
        """Wait until all jobs are done.

        Raises:
            Exception: The first failure of a job since the last call.
        """
        with self._changed:
            while self._pending:
                self._changed.wait()
        error, self.error = self.error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """End the threads, after what they are doing."""
        for stage in self._stages:
            stage.shutdown()

    def _advance(self, job: Job, stages: list[Callable[[], None]], index: int) -> None:
        self._try(stages[index])
        if index + 1 < len(stages) and self.error is None:
            self._stages[index + 1].submit(self._advance, job, stages, index + 1)
            return
        job.release()
        self._room.release()
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def _try(self, stage: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            stage()
        except BaseException as error:  # another thread raises it
            self.error = error
