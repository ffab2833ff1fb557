"""What the command lines share: errors as exit codes, progress on stderr, tables on stdout.

Standard output carries results alone, standard error everything else. A bar is drawn on terminals
only; elsewhere progress is a plain line every few seconds, so that log files stay readable.
"""

from __future__ import annotations

import contextlib
import errno
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol, TextIO

from manifests.errors import EXIT_INTERRUPTED, EXIT_TRY_LATER, EXIT_USAGE, HistotileError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

_PIPE_WIDTH = 10_000
_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what a person can cause into one sentence on stderr and an exit code.

    Works as a context manager and as a decorator (`@exit_codes()` below `@click.command()`).
    Errors of histotile end with their own `exit_code`, a full disk with 75, other refusals of the
    operating system with 2, Ctrl-C with 130. Whatever else is raised is a defect and keeps its
    traceback.

    Raises:
        SystemExit: with that code.
    """
    try:
        yield
    except HistotileError as error:
        _end(str(error), error.exit_code, error)
    except BrokenPipeError:
        raise  # `… | head` has read enough; click ends quietly
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise  # made up by a library, so nothing that a person can act on
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = f"{error.filename}: " if error.filename else ""
        _end(f"{where}{error.strerror}", EXIT_TRY_LATER if full else EXIT_USAGE, error)
    except KeyboardInterrupt as error:
        sys.stderr.write("Interrupted.\n")
        raise SystemExit(EXIT_INTERRUPTED) from error


def _end(sentence: str, code: int, cause: BaseException) -> None:
    sys.stderr.write(f"Error: {printable(sentence)}\n")
    raise SystemExit(code) from cause


def printable(text: str) -> str:
    """The text with control characters written out: file names may try to steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def stderr_console() -> Console:
    """A console for messages: plain text, no markup, no guessed highlights."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def print_table(table: RenderableType) -> None:
    """Print a table on stdout; in a pipe or a file as wide as it needs, so that nothing is cut."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


class Progress(Protocol):
    """How far a long command is."""

    def advance(self, steps: int = 1) -> None:
        """So many steps more are done."""

    def note(self, line: str) -> None:
        """Print a line, above the bar where there is one."""


@contextlib.contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Progress]:
    """Show how far a command is: a bar if stderr is a terminal, else a line every 10 seconds.

    Args:
        what: the work, as in "cutting".
        total: steps of the whole work.
        unit: what a step is, as in "tiles".
    """
    if not sys.stderr.isatty():
        lines = ProgressLines(what, total, unit, sys.stderr)
        yield lines
        lines.finish()
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn(unit, markup=False),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=stderr_console()) as bar:
        yield _Bar(bar, bar.add_task(what, total=total))


class _Bar:
    """A bar on a terminal."""

    def __init__(self, bar: RichProgress, task: TaskID) -> None:
        self._bar = bar
        self._task = task

    def advance(self, steps: int = 1) -> None:
        self._bar.advance(self._task, steps)

    def note(self, line: str) -> None:
        self._bar.console.print(printable(line), soft_wrap=True)


class ProgressLines:
    """Plain lines for logs, at most one every `every_s` seconds, and one at the end."""

    def __init__(
        self,
        what: str,
        total: int,
        unit: str,
        out: TextIO,
        *,
        every_s: float = _LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._unit, self._out = what, total, unit, out
        self._every_s, self._clock = every_s, clock
        self._done = 0
        self._last_s = clock()

    def advance(self, steps: int = 1) -> None:
        """So many steps more are done."""
        self._done += steps
        now_s = self._clock()
        if now_s - self._last_s >= self._every_s:
            self._last_s = now_s
            self._line()

    def note(self, line: str) -> None:
        """Print a line."""
        print(printable(line), file=self._out, flush=True)

    def finish(self) -> None:
        """Print the last line."""
        self._line()

    def _line(self) -> None:
        percent = 100 * self._done // self._total if self._total else 100
        counts = f"{self._done:,} of {self._total:,} {self._unit} ({percent} %)"
        print(f"{self._what}: {counts}", file=self._out, flush=True)


__all__ = [
    "Progress",
    "ProgressLines",
    "exit_codes",
    "print_table",
    "printable",
    "progress",
    "stderr_console",
]
