"""Ctrl-C: the first one stops a training after the step at hand, the second one at once."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from semiperm.cli.console import warn


class Interrupt:
    """Whether Ctrl-C was pressed.

    Attributes:
        waits: whether a step is at hand that is worth waiting for; without one, Ctrl-C interrupts at once.
    """

    def __init__(self) -> None:
        self._pressed = threading.Event()
        self.waits = False

    def pressed(self) -> bool:
        """Return whether Ctrl-C was pressed."""
        return self._pressed.is_set()

    def handle(self, _signal: int, _frame: FrameType | None) -> None:
        """Remember the first Ctrl-C; raise KeyboardInterrupt for the second one."""
        if not self.waits or self.pressed():
            raise KeyboardInterrupt
        self._pressed.set()
        warn("stopping after this step; press Ctrl-C again to stop at once")


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Handle Ctrl-C within the context; the handler that was there before is restored."""
    interrupt = Interrupt()
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread may set signal handlers.
        yield interrupt
        return
    before = signal.signal(signal.SIGINT, interrupt.handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)
