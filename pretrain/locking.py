"""One writer at a time: a folder that a long command fills is its own for as long as it runs."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from manifests.files import remove_temporaries
from pretrain.errors import RunBusy


@contextlib.contextmanager
def locked(out: Path) -> Iterator[None]:
    """Make a folder and hold it for this process alone; the lock goes with the process.

    What a killed run left half-written is deleted.

    Raises:
        RunBusy: another run holds it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusy(
                f"another run is writing to {out}; wait for it, or give another --out"
            ) from error
        except OSError:
            pass  # a file system without locks
        remove_temporaries(out)
        yield
