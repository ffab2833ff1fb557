"""Signals that ask a long command to stop: it ends at a good place and can go on.

Slurm sends SIGTERM ahead of taking a node away; Ctrl-C is SIGINT; a closed connection SIGHUP. What
the process was started to ignore, as `nohup` has it, stays ignored. A second Ctrl-C ends at once,
with what had been written till then.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

from manifests.errors import EXIT_INTERRUPTED, EXIT_TERMINATED

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopper:
    """Whether someone asked to stop: use as a context manager, in the main thread."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The first signal that came."""
        self._before: dict[int, object] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after any other signal."""
        return EXIT_INTERRUPTED if self.signal == signal.SIGINT else EXIT_TERMINATED

    def ask(self, number: int, _frame: FrameType | None = None) -> None:
        """Note a signal; the second Ctrl-C raises `KeyboardInterrupt`."""
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number

    def __enter__(self) -> Self:
        heeded = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        self._before = {number: signal.signal(number, self.ask) for number in heeded}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
