"""Running tasks: a serial twin, and Dask on this machine or on an existing cluster.

An executor asks for the next task when it has room, so a run of 30,000 slides never holds more than
a window of them; it yields each outcome as it comes, in no particular order. Tasks are functions of
one picklable job with a small result. A task that raises, or that kills its worker, gives an
outcome with the error; the others go on. This is the one module that knows Dask.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from manifests.errors import EXIT_TRY_LATER
from tiler.errors import SlideError, TilerError

TASK_DEADLINE_S = 1800
"""Seconds after which a task counts as hung, and its worker is killed."""

_CONNECT_S = 30
"""Seconds to wait for a given scheduler."""

_ALLOWED_DEATHS = 1
"""Worker deaths a task may be near before it is held to be their cause."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A call that can be made in any process."""

    function: Callable[[Any], Any]
    """A module-level function of one argument."""
    job: Any
    """Its argument; picklable."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a task ended."""

    task: Task
    result: Any = None
    error: BaseException | None = None
    trace: str = ""
    """The traceback as text, if it failed."""


class WorkerDied(SlideError):
    """The process that worked on a task crashed, ran out of memory, or hung."""


class SchedulerLost(TilerError):
    """The Dask scheduler cannot be reached, or went away."""

    exit_code = EXIT_TRY_LATER


class Executor(Protocol):
    """Runs tasks."""

    def run(self, next_task: Callable[[], Task | None]) -> Iterator[Outcome]:
        """Yield the outcome of every task.

        Args:
            next_task: gives a task that is ready, or None if there is none at the moment; it is
                asked again after each outcome. The run ends when there is none and none is at work.

        Raises:
            SchedulerLost: the scheduler went away.
        """
        ...


class SerialExecutor:
    """Runs tasks one by one in this process: the twin that the others are tested against."""

    def run(self, next_task: Callable[[], Task | None]) -> Iterator[Outcome]:
        """See `Executor.run`."""
        hush_libraries()
        while (task := next_task()) is not None:
            yield _call(task)


class DaskExecutor:
    """Runs tasks on a Dask cluster, local or given, through a rolling window."""

    def __init__(
        self,
        workers: int | None = None,
        scheduler: str | None = None,
        scheduler_file: Path | None = None,
    ) -> None:
        """Describe the cluster; it starts with `run`.

        Args:
            workers: processes on this machine, with one thread each, so that a slide that aborts
                its decoder kills a worker and not the run; None for an existing cluster.
            scheduler: address of a running scheduler, `tcp://host:port`.
            scheduler_file: file that a running scheduler wrote its address to.
        """
        self._workers = workers
        self._scheduler = scheduler
        self._scheduler_file = scheduler_file

    def run(self, next_task: Callable[[], Task | None]) -> Iterator[Outcome]:
        """See `Executor.run`."""
        from distributed import as_completed

        with contextlib.ExitStack() as stack:
            client = stack.enter_context(self._client(stack))
            done = as_completed(raise_errors=False)
            pending: dict[Any, Task] = {}
            while True:
                room = self._window(client) - len(pending)
                for task in _take(next_task, room):
                    future = client.submit(_guarded, task, TASK_DEADLINE_S, pure=False)
                    pending[future] = task
                    done.add(future)
                if not pending:
                    return
                future = self._next(done)
                yield _outcome(pending.pop(future), future)
                # Released at once: a finished task that its worker's death takes along would rerun.
                future.release()

    def _client(self, stack: contextlib.ExitStack) -> Any:
        import dask
        from distributed import Client, LocalCluster

        hush_libraries()
        settings = {"distributed.scheduler.allowed-failures": _ALLOWED_DEATHS}
        stack.enter_context(dask.config.set(settings))
        try:
            if self._scheduler_file is not None:
                return Client(scheduler_file=str(self._scheduler_file), timeout=_CONNECT_S)
            if self._scheduler is not None:
                return Client(self._scheduler, timeout=_CONNECT_S)
        except (OSError, ValueError) as error:
            where = self._scheduler or self._scheduler_file
            raise SchedulerLost(f"no Dask scheduler answers at {where} ({error})") from error
        with _interrupts_ignored():
            cluster = LocalCluster(
                n_workers=self._workers,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        stack.enter_context(cluster)
        return Client(cluster)

    def _window(self, client: Any) -> int:
        """Tasks at work and waiting: half as many more than there are workers."""
        workers = self._workers or max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
        return workers + (workers + 1) // 2

    def _next(self, done: Any) -> Any:
        from distributed.comm.core import CommClosedError

        try:
            return next(done)
        except (CommClosedError, StopIteration) as error:
            raise SchedulerLost("the Dask scheduler went away; run the command again") from error


def make_executor(
    workers: int | None, scheduler: str | None = None, scheduler_file: Path | None = None
) -> Executor:
    """The executor for the command line's options; `workers` None means one per CPU, 0 serial."""
    if scheduler is not None or scheduler_file is not None:
        return DaskExecutor(None, scheduler, scheduler_file)
    if workers == 0:
        return SerialExecutor()
    return DaskExecutor(workers or available_cpus())


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Let processes that start now ignore Ctrl-C, which is for the run to answer, not for them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def hush_libraries() -> None:
    """Keep libraries from printing: what matters of their warnings is in an outcome's reason."""
    for name in ("distributed", "tifffile"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _take(next_task: Callable[[], Task | None], room: int) -> Iterator[Task]:
    for _ in range(room):
        task = next_task()
        if task is None:
            return
        yield task


def _call(task: Task) -> Outcome:
    try:
        return Outcome(task, task.function(task.job))
    except Exception as error:  # noqa: BLE001 - whatever a slide raises is that slide's failure
        return Outcome(task, None, error, traceback.format_exc())


def _guarded(task: Task, deadline_s: float) -> Any:
    """Run a task in a worker; if it hangs, even inside C code, the worker ends."""
    hush_libraries()
    with Path(os.devnull).open("w") as nowhere:
        faulthandler.dump_traceback_later(deadline_s, exit=True, file=nowhere)
        try:
            return task.function(task.job)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _outcome(task: Task, future: Any) -> Outcome:
    from distributed import KilledWorker

    if future.status == "finished":
        return Outcome(task, future.result())
    if future.status != "error":
        raise SchedulerLost("the Dask scheduler dropped a task; run the command again")
    error = future.exception()
    if isinstance(error, KilledWorker):
        died = WorkerDied(
            "the process that worked on it was killed more than once: "
            "the file crashes its decoder, takes too much memory, or hangs"
        )
        return Outcome(task, None, died, str(error))
    lines = traceback.format_exception(type(error), error, future.traceback())
    return Outcome(task, None, error, "".join(lines))
