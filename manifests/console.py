"""What the command lines share: errors as exit codes, progress on stderr, tables on stdout.

Standard output carries results alone, standard error everything else. A bar is drawn on terminals
only; elsewhere progress is a plain line every few seconds, so that log files stay readable.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from manifests.errors import EXIT_INTERRUPTED, EXIT_TRY_LATER, EXIT_USAGE, HistotileError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress as RichProgress

_PIPE_WIDTH = 10_000
_LINE_EVERY_S = 10.0
_BAR_WIDTH = 16
"""Columns: a terminal of 100 then shows how fast and how well, too."""


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


def without_blas_threads() -> None:
    """Keep numpy, once it is imported, from starting a thread per CPU for matrices.

    Waking them costs more than cutting a hundred tiles; and beside threads of our own they wait for
    each other so actively that small products take three times as long.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def print_table(table: RenderableType) -> None:
    """Print a table on stdout; in a pipe or a file as wide as it needs, so that nothing is cut."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, markup=False, highlight=False, emoji=False).print(table)


class Display:
    """How far a long command is, and what it has to say: use as a context manager.

    On a terminal a bar with a text beside it; elsewhere the text as a plain line, at most one every
    `every_s` seconds, so that log files stay readable.
    """

    def __init__(
        self,
        unit: str,
        *,
        stream: TextIO | None = None,
        quiet: bool = False,
        every_s: float = _LINE_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a display.

        Args:
            unit: what a step is, as in "shards".
            stream: where to show it; stderr by default.
            quiet: show nothing at all.
            every_s: seconds between two plain lines.
            clock: seconds; for tests.
        """
        self._stream = sys.stderr if stream is None else stream
        self._unit, self._quiet, self._every_s, self._clock = unit, quiet, every_s, clock
        self._next_line_s = clock() + every_s
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if self._stream.isatty() and not self._quiet:
            self._bar = _bar_on(self._stream, self._unit)
            self._task = self._bar.add_task("starting", total=None)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(printable(line), soft_wrap=True)
        else:
            print(printable(line), file=self._stream, flush=True)

    def update(self, text: str, done: int, total: int | None, *, now: bool = False) -> None:
        """Show that `done` of `total` steps are done; `now` prints a plain line in any case."""
        if self._bar is not None:
            self._bar.update(self._task, description=text, completed=done, total=total)
        elif now or self._clock() >= self._next_line_s:
            self._next_line_s = self._clock() + self._every_s
            known = "" if total is None else f"{done:,}/{total:,} {self._unit}, "
            self.say(f"{known}{text}")


def _bar_on(stream: TextIO, unit: str) -> RichProgress:
    from rich import progress as bars
    from rich.console import Console

    columns = (
        bars.BarColumn(bar_width=_BAR_WIDTH),
        bars.MofNCompleteColumn(),
        bars.TextColumn(unit),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.description}", markup=False),
    )
    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    return bars.Progress(*columns, console=console)


__all__ = ["Display", "exit_codes", "print_table", "printable", "without_blas_threads"]
