"""Ctrl-C and SIGTERM while a run is learning: the first lets it end its iteration and save, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any, Self

_NOTE = b"\nStopping after this iteration. Once more: at once, and what this iteration did is lost.\n"


class StopSignals:
    """Within the context, the first SIGINT or SIGTERM is kept in ``received``; a second one ends the program at once.

    Only in the main thread, since Python delivers signals there, and only in place of Python's own way to handle a
    signal: whoever installed another handler, or ignores the signal (``nohup``), is left in peace.

    Attributes:
        received: The first signal, or ``None``.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number)
            with suppress(OSError):  # a closed terminal is no reason to lose the iteration
                os.write(2, _NOTE)  # print is not safe in a handler: it may interrupt another one
        elif number == signal.SIGTERM:
            raise SystemExit(exit_code(signal.SIGTERM))
        else:
            raise KeyboardInterrupt


def exit_code(number: signal.Signals) -> int:
    """The exit code by which shells know that a signal ended a program: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + number
