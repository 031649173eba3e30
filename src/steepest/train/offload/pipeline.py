# SPDX-License-Identifier: Apache-2.0
"""Reading, computing and writing at the same time, each of something else."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, final

import torch


class Job(Protocol):
    """What goes through the three stages, each in a thread of its own.

    Attributes:
        meeting: Number of a job that all processes compute together; None if each computes it alone.
    """

    meeting: int | None

    def reserve(self) -> None:
        """Take memory; called in the order of the jobs."""
        ...

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


class Meet(Protocol):
    """Meets the other processes before a job."""

    def __call__(self, number: int, *, fine: bool) -> bool:
        """Return whether all are fine.

        Args:
            number: The job's `meeting`.
            fine: Whether this process is.
        """
        ...


@final
class Pipeline:
    """Jobs one after another: while one is computed, the next one is read and the last one written.

    Jobs are computed one at a time, as they are read, or in their order where processes meet. After a failure the jobs
    that are still on their way are let go; a job that processes meet for fails in all of them if it does in one.

    Args:
        depth: Most jobs on their way; `submit` waits for room.
        threads: That read, and as many that write: a disk is faster with several requests at a time.
        serial: Do each stage of each job in `submit`, one after another: for comparison, and to find mistakes.
        meet: Called before each job with a `meeting`; None where there are no such jobs.
    """

    def __init__(
        self,
        *,
        depth: int = 8,
        threads: int = 2,
        serial: bool = False,
        meet: Meet | None = None,
    ) -> None:
        self._serial, self._meet = serial, meet
        self._room = threading.Semaphore(depth)
        self._changed = threading.Condition()
        self._turn = threading.Lock()
        self._waiting: deque[tuple[Job, threading.Event, int]] = deque()
        self._pending = 0
        self.error: BaseException | None = None
        names = {} if serial else {"read": threads, "step": 1, "write": threads}
        self._stages = [ThreadPoolExecutor(count, f"offload-{name}") for name, count in names.items()]

    def submit(self, job: Job) -> None:
        """Start a job; its failure is raised by `drain`."""
        if self._serial:
            for stage in (job.reserve, job.read):
                self._try(stage)
            self._compute(job)
            self._try(job.write)
            job.release()
            return
        self._room.acquire()
        with self._changed:
            self._pending += 1
            # A thread of its own has a number of threads of its own in linear algebra, and with it other last bits.
            entry = job, threading.Event(), torch.get_num_threads()
            self._waiting.append(entry)
            self._stages[0].submit(self._read_next)
            if self._meet:
                self._stages[1].submit(self._compute_when_read, *entry)

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

    def _read_next(self) -> None:
        with self._turn:  # the first in line gets memory first, or all of it might go to those that wait for it
            entry = self._waiting.popleft()
            self._try(entry[0].reserve)
        self._try(entry[0].read)
        entry[1].set()
        if not self._meet:
            self._stages[1].submit(self._compute_when_read, *entry)

    def _compute_when_read(self, job: Job, is_read: threading.Event, threads: int) -> None:
        is_read.wait()
        torch.set_num_threads(threads)
        self._compute(job)
        self._stages[2].submit(self._write, job)

    def _write(self, job: Job) -> None:
        self._try(job.write)
        job.release()
        self._room.release()
        with self._changed:
            self._pending -= 1
            self._changed.notify_all()

    def _compute(self, job: Job) -> None:
        if self._meet and job.meeting is not None:
            try:
                if not self._meet(job.meeting, fine=self.error is None):
                    raise OSError("another process could not go on; its own message says why")
            except BaseException as error:
                self.error = self.error or error
        self._try(job.compute)

    def _try(self, stage: Callable[[], None]) -> None:
        if self.error is not None:
            return
        try:
            stage()
        except BaseException as error:  # another thread raises it
            self.error = error
