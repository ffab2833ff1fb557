"""Errors that only training knows; the root and the exit codes live in `manifests.errors`."""

from __future__ import annotations

from manifests.errors import (
    EXIT_BAD_DATA,
    EXIT_NONE_SUCCEEDED,
    EXIT_TRY_LATER,
    EXIT_USAGE,
    HistotileError,
)


class ConfigError(HistotileError):
    """A setting is out of range, or does not fit the data or the machine."""

    exit_code = EXIT_USAGE


class CheckpointError(HistotileError):
    """An encoder file or a checkpoint is missing, damaged, or was not written by histotile."""

    exit_code = EXIT_BAD_DATA


class TrainingError(HistotileError):
    """Training cannot go on: the loss is no longer a number."""

    exit_code = EXIT_NONE_SUCCEEDED


class RunBusy(HistotileError):
    """Another process writes to the run folder."""

    exit_code = EXIT_TRY_LATER


class Interrupted(HistotileError):
    """A run was asked to stop, and did: the same command goes on with it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class DiskFull(HistotileError):
    """There is no room for a checkpoint."""

    exit_code = EXIT_TRY_LATER
