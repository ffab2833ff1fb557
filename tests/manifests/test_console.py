"""What the command lines share: exit codes, progress, and text that cannot steer a terminal."""

from __future__ import annotations

import errno
import io
import os

import pytest

from manifests.console import Display, exit_codes, printable
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


def test_a_pipe_gets_a_line_every_few_seconds_and_whatever_is_said() -> None:
    seconds = iter(range(100))
    out = io.StringIO()
    with Display("tiles", stream=out, every_s=5, clock=lambda: float(next(seconds))) as display:
        for done in range(100, 1300, 100):
            display.update("cutting", done, 2000)
        display.say("slide-1 failed: \x1b[31mred")
        display.update("cut", 2000, 2000, now=True)
    lines = out.getvalue().splitlines()
    assert lines[-2:] == ["slide-1 failed: \\x1b[31mred", "2,000/2,000 tiles, cut"]
    assert len(lines) == 4
    assert all(line.endswith("/2,000 tiles, cutting") for line in lines[:2])


def test_a_total_that_is_not_known_yet_is_left_out() -> None:
    out = io.StringIO()
    with Display("tiles", stream=out) as display:
        display.update("finding tissue", 0, None, now=True)
    assert out.getvalue() == "finding tissue\n"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_the_lines_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(os, "environ", {**os.environ, "TERM": "xterm", "COLUMNS": "100"})
    with Display("tiles", stream=terminal) as display:
        display.update("cutting [tiles]", 3, 4)
        display.say("slide-1 [failed]")
        display.update("cutting [tiles]", 4, 4)
    shown = terminal.getvalue()
    for text in ("cutting [tiles]", "4/4", "slide-1 [failed]"):
        assert text in shown


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["pipe", "terminal"])
def test_quiet_shows_nothing(stream: io.StringIO) -> None:
    with Display("tiles", stream=stream, quiet=True, every_s=-1) as display:
        display.say("hello")
        display.update("cutting", 1, 2, now=True)
    assert stream.getvalue() == ""
