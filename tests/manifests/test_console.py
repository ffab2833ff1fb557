"""What the command lines share: exit codes, progress, and text that cannot steer a terminal."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest

from manifests.console import ProgressLines, exit_codes, printable, progress, stderr_console
from manifests.errors import HistotileError, ManifestError, StoreError


class Busy(HistotileError):
    """An error of another room."""

    exit_code = 75


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (HistotileError("wrong use"), 2, "Error: wrong use\n"),
        (ManifestError("a bad manifest"), 5, "Error: a bad manifest\n"),
        (StoreError("a bad store"), 5, "Error: a bad store\n"),
        (Busy("another run is writing"), 75, "Error: another run is writing\n"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.zarr"),
            75,
            "Error: a.zarr: No space left on device\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "a.zarr"),
            2,
            "Error: a.zarr: Permission denied\n",
        ),
    ],
)
def test_errors_become_one_sentence_and_an_exit_code(
    error: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, exit_codes():
        raise error
    assert caught.value.code == code
    assert capsys.readouterr() == ("", sentence)


@pytest.mark.parametrize(
    "error", [ValueError("a defect"), RuntimeError(), BrokenPipeError(), OSError("a library's own")]
)
def test_defects_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), exit_codes():
        raise error


def test_exit_codes_decorate_functions_any_number_of_times() -> None:
    @exit_codes()
    def command(fail: bool) -> int:
        if fail:
            raise StoreError("no")
        return 7

    for _ in range(2):
        assert command(fail=False) == 7
        with pytest.raises(SystemExit):
            command(fail=True)


def test_control_characters_are_written_out() -> None:
    assert printable("µm × é 日本, plain") == "µm × é 日本, plain"
    assert printable("a\x1b[2Jb\rc\x00d\u202ee\ud800") == "a\\x1b[2Jb\\rc\\x00d\\u202ee\\ud800"
    assert printable("two\nlines") == "two\nlines"


def test_progress_lines_come_every_few_seconds_and_at_the_end() -> None:
    seconds = iter(range(100))
    out = io.StringIO()
    lines = ProgressLines(
        "cutting", 2000, "tiles", out, every_s=5, clock=lambda: float(next(seconds))
    )
    for _ in range(12):
        lines.advance(100)
    lines.note("slide-1 failed: \x1b[31mred")
    lines.finish()
    assert out.getvalue().splitlines() == [
        "cutting: 500 of 2,000 tiles (25 %)",
        "cutting: 1,000 of 2,000 tiles (50 %)",
        "slide-1 failed: \\x1b[31mred",
        "cutting: 1,200 of 2,000 tiles (60 %)",
    ]


def test_progress_over_nothing_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("cutting", 0, "tiles"):
        pass
    assert capsys.readouterr() == ("", "cutting: 0 of 0 tiles (100 %)\n")


def test_progress_that_fails_prints_no_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with progress("cutting", 9, "tiles") as bar:
            bar.advance(3)
            raise StoreError("no")

    with pytest.raises(StoreError):
        fail()
    assert capsys.readouterr() == ("", "")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(os, "environ", {**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    with progress("cutting [tiles]", 4, "tiles") as bar:
        bar.advance(3)
        bar.note("slide-1 [failed]")
        bar.advance()
    shown = terminal.getvalue()
    for text in ("cutting [tiles]", "4/4", "slide-1 [failed]"):
        assert text in shown


def test_messages_are_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    stderr_console().print("[red]not red[/red] :smile:")
    assert capsys.readouterr() == ("", "[red]not red[/red] :smile:\n")
