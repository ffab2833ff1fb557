"""The error root that all of histotile shares, and the process exit codes.

Every error that a person may meet derives from `HistotileError` and carries the exit code that
the command line ends with. Its message is one sentence: what was given, what was found, what to do.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_USAGE = 2
EXIT_SOME_FAILED = 3
EXIT_NONE_SUCCEEDED = 4
EXIT_BAD_DATA = 5
EXIT_CONFLICT = 6
EXIT_TRY_LATER = 75
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class HistotileError(Exception):
    """Root of all errors that histotile raises on purpose."""

    exit_code: int = EXIT_USAGE


class ManifestError(HistotileError):
    """A manifest is missing, malformed, of an unknown version, or points where it must not."""

    exit_code = EXIT_BAD_DATA


class FileChanged(HistotileError):
    """A file was changed by someone else while a command worked on what it had read from it."""

    exit_code = EXIT_TRY_LATER


class StoreError(HistotileError):
    """A tile store is missing, uncommitted, or fails its checks."""

    exit_code = EXIT_BAD_DATA


class TableError(HistotileError):
    """A slides table cannot be read, or cannot be meant as it stands."""
