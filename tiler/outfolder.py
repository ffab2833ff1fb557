"""The folder that a run writes to: held by one run at a time, and full at times."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from manifests.errors import EXIT_TRY_LATER
from tiler.errors import OutputBusy, TilerError


class DiskFull(TilerError):
    """There is no room left for the output."""

    exit_code = EXIT_TRY_LATER


def stop_if_disk_full(error: BaseException | None) -> None:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise DiskFull(
            "the disk of the output folder is full; free some space and run the command again, "
            "it continues where it stopped"
        ) from error


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make an output folder, and hold it for this run alone.

    The lock goes with the process, however it ends.

    Raises:
        OutputBusy: another run holds it.
        TilerError: it cannot be a folder for stores, or cannot be written to.
    """
    if any((folder / "zarr.json").is_file() for folder in (out, *out.absolute().parents)):
        raise TilerError(f"the output folder {out} lies in a Zarr store; give another --out")
    path = out / ".lock"
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = _take(path)
    except OSError as error:
        stop_if_disk_full(error)
        raise TilerError(
            f"the output folder {out} cannot be written to ({error.strerror}); give another --out"
        ) from error
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _take(path: Path) -> TextIO:
    """Open and lock a file that its last owner may be deleting."""
    import fcntl

    for _ in range(_LOCK_TRIES):
        file = path.open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, file):
                return file
        except BlockingIOError:
            file.close()
            break
        file.close()
    raise OutputBusy(f"another run is writing to {path.parent}; wait for it, or give another --out")


_LOCK_TRIES = 10
"""How often the owner of a lock may change while it is taken."""


def _is_still(path: Path, file: TextIO) -> bool:
    """Whether an open file still has its name: a lock on a deleted one keeps nobody out."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
