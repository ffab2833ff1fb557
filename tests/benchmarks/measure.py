"""What a command costs: CPU-seconds, wall time in seconds, and the largest process in MiB.

All processes that a command starts count, also those that it leaves behind, once `take_orphans` was
called (Linux): they are waited for. Memory is that of the largest single process, shared pages
included; it cannot be seen below that of this process, some 60 MiB.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO

TIMEOUT_S = 3600.0
ORPHANS_S = 10.0
"""How long processes may live on after the command has ended."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""For all contenders: threads of a numerical library spin while they wait, and that counts."""

_PR_SET_CHILD_SUBREAPER = 36


class CommandFailed(Exception):
    """A command ended with an error, or not at all; the message is its last line."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a command took."""

    cpu_s: float
    """User and system time of all its processes."""
    wall_s: float
    peak_mib: float
    """Largest resident size of one process."""


@dataclass(frozen=True, slots=True)
class Done:
    """A command that ended well."""

    cost: Cost
    stdout: str


def run(command: Sequence[str | Path], timeout_s: float = TIMEOUT_S) -> Done:
    """Run a command to its end and measure it.

    Raises:
        CommandFailed: it ended with another code than 0, was not found, or ran out of time.
    """
    os.sync()  # what the one before left to be written is not this one's business
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        before, began = _cpu_seconds(), time.perf_counter()
        code, peak_kib = _run(command, stdout, stderr, timeout_s)
        wall_s, after = time.perf_counter() - began, _cpu_seconds()
        said, complaint = _text(stdout), _text(stderr)
    if code != 0:
        raise CommandFailed(_why(code, complaint or said))
    return Done(Cost(after - before, wall_s, peak_kib / 1024), said)


def _cpu_seconds() -> float:
    """Of all children that were waited for; `os.times` would count in hundredths of a second."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _run(
    command: Sequence[str | Path], stdout: IO[bytes], stderr: IO[bytes], timeout_s: float
) -> tuple[int, int]:
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            env=_environment(),
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from error
    watch = threading.Timer(timeout_s, os.killpg, (process.pid, signal.SIGKILL))
    watch.start()
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    finally:
        watch.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, max(usage.ru_maxrss, _orphans(process.pid))


def _environment() -> dict[str, str]:
    """This process's, without the setting that makes Python compile all modules anew each time."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return kept | ONE_THREAD


def take_orphans() -> None:
    """Become the parent of processes whose own parent ends before them, so that they count.

    For good, and for all processes below this one: call it once, in a process that only measures.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _orphans(session: int) -> int:
    """Wait for children that a session left to this process; their largest resident size in KiB."""
    peak, deadline = 0, time.monotonic() + ORPHANS_S
    while True:
        try:
            pid, _, usage = os.wait4(-session, os.WNOHANG)
        except ChildProcessError:
            return peak
        peak = max(peak, usage.ru_maxrss if pid else 0)
        if not pid:
            if time.monotonic() > deadline:
                os.killpg(session, signal.SIGKILL)
                raise CommandFailed(f"processes still ran {ORPHANS_S:g} s after its end")
            time.sleep(0.01)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _why(code: int, said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reason = lines[-1] if lines else "it said nothing"
    return f"not available: {reason}" if code == 2 else f"failed with {code}: {reason}"


def machine() -> dict[str, object]:
    """What the figures depend on: processor, cores, Python, versions of the libraries."""
    names = ("histotile", "numpy", "openslide-python", "openslide-bin", "pillow", "simplejpeg")
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {name: version(name) for name in (*names, "tifffile", "imagecodecs")},
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
