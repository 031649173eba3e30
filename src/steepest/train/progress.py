# SPDX-License-Identifier: Apache-2.0
"""What a user sees while a run trains: one live line in a terminal, a line now and then elsewhere."""

import collections
import sys
import time
from types import TracebackType
from typing import Any, final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_EVERY = 15.0  # seconds between lines where no terminal is
_SPEED_OVER = 20  # steps


@final
class Display:
    """Shows the progress of a run on standard error, and counts its speed.

    Args:
        steps: Steps of the whole run.
        quiet: Show nothing, only count.
    """

    def __init__(self, steps: int, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)
        self._steps = steps
        self._bar: Progress | None = None
        self._task: Any = None
        self._validation = ""
        self._times: collections.deque[tuple[float, int]] = collections.deque(maxlen=_SPEED_OVER + 1)
        self._created = self._last_line = time.perf_counter()

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, markup=False)

    def begin(self, step: int, tokens: int) -> None:
        """Start the live line at a step."""
        now = time.perf_counter()
        self.note(f"ready   after {now - self._created:.1f} s")
        self._times.append((now, tokens))
        if self.console.is_terminal and not self.console.quiet:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=None),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
                expand=True,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=self._steps, completed=step)

    def stepped(self, step: int, loss: float, tokens: int) -> None:
        """Show a step's loss in nats per token."""
        now = time.perf_counter()
        self._times.append((now, tokens))
        text = f"loss {loss:.3f}{self._validation} · {self.tokens_per_second:,.0f} tokens/s"
        if self._bar:
            self._bar.update(self._task, completed=step, description=text)
        elif now - self._last_line > _LINE_EVERY or step == self._steps:
            self._last_line = now
            self.note(f"step {step}/{self._steps} · {text}")

    def evaluated(self, step: int, bits_per_byte: float) -> None:
        """Show a validation result."""
        self._validation = f" · validation {bits_per_byte:.3f} bits/byte"

    @property
    def tokens_per_second(self) -> float:
        """Training speed over the last steps, evaluations and checkpoints between them included."""
        if len(self._times) < 2:
            return 0.0
        (then, few), (now, many) = self._times[0], self._times[-1]
        return (many - few) / (now - then) if now > then else 0.0

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None
        sys.stderr.flush()
