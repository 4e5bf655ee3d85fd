"""Ctrl-C and SIGTERM: the first lets the step in progress finish and saves a checkpoint, the second stops at once."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """A signal stopped the run. Like `KeyboardInterrupt`, it is no `Exception` that a library might swallow.

    Args:
        message: How far the run got, and how to go on.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopSignals:
    """What a signal does at the moment: stop at once, until `ask` is set."""

    def __init__(self, numbers: tuple[signal.Signals, ...]) -> None:
        self.numbers = numbers
        self.received: int | None = None
        self.ask: Callable[[], None] | None = None
        """Asks the run to stop by itself."""
        self._before: dict[int, Any] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Handle the signals inside the block; the handlers of before are put back after it."""
        self._before = {number: signal.signal(number, self._handle) for number in self.numbers}
        try:
            yield
        finally:
            for number in self.numbers:
                self.give_back(number)

    def give_back(self, number: signal.Signals) -> None:
        """Put back the handler of before."""
        signal.signal(number, self._before[number])

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.ask is None or self.received is not None:
            raise Stopped(number, "Stopped. What is written is kept.")
        self.received = number
        self.ask()
        sys.stderr.write("mixcd: stopping after this step, with a checkpoint; the same signal again stops at once\n")
