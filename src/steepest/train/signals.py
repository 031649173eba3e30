# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C and a scheduler's SIGTERM as a wish to stop after the current step."""

import signal
import threading
from types import FrameType, TracebackType
from typing import final

EXIT_STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@final
class StopRequest:
    """While entered, the first SIGINT or SIGTERM is remembered; a second SIGINT interrupts at once.

    Outside the main thread Python cannot catch signals, and nothing is changed.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in EXIT_STATUS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType] (what signal() itself returned)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
