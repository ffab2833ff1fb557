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

_GONE = "the Dask scheduler went away; run the command again, it continues"

_CONNECT_S = 30
"""Seconds to wait for a given scheduler."""

_ALLOWED_DEATHS = 0
"""A task whose worker died is not tried again among others, but alone at the end."""

_WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": 1,
    "MKL_NUM_THREADS": 1,
    "OPENBLAS_NUM_THREADS": 1,
    "DASK_LOGGING__DISTRIBUTED": "critical",
}
"""What worker processes start with. Dask's own MALLOC_TRIM_THRESHOLD_ is left out on purpose: it
hands every freed tile back to the system, which took twice the time of cutting."""

_WORKERS_OF_A_CLUSTER = 16
"""Guess for a given cluster, which is asked only when it is joined."""

_TASKS_PER_WORKER = 1.0
"""Tasks that wait do so at the scheduler: one that waits at a worker would share its death."""


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

    @property
    def parallel(self) -> int:
        """Tasks that it runs at the same time, as far as that is known."""
        ...

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

    parallel = 1

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
        self.parallel = workers or _WORKERS_OF_A_CLUSTER

    def run(self, next_task: Callable[[], Task | None]) -> Iterator[Outcome]:
        """See `Executor.run`."""
        from distributed.comm.core import CommClosedError

        with contextlib.ExitStack() as stack:
            window = _Window(stack.enter_context(self._client(stack)))
            try:
                yield from self._outcomes(window, next_task)
            except CommClosedError as error:
                raise SchedulerLost(_GONE) from error

    def _outcomes(self, window: _Window, next_task: Callable[[], Task | None]) -> Iterator[Outcome]:
        suspects: list[Task] = []
        accused: set[Task] = set()
        while True:
            for task in _take(next_task, self._size(window.client) - len(window)):
                window.submit(task)
            if not len(window):
                if not suspects:
                    self._settle(window.client, died=bool(accused))
                    return
                # Alone, so that another death is its own doing.
                window.submit(suspects.pop())
            outcome = window.next()
            if isinstance(outcome.error, WorkerDied) and outcome.task not in accused:
                accused.add(outcome.task)
                suspects.append(outcome.task)
                continue
            yield outcome

    def _client(self, stack: contextlib.ExitStack) -> Any:
        import dask
        from distributed import Client, LocalCluster

        hush_libraries()
        settings = {
            "distributed.scheduler.allowed-failures": _ALLOWED_DEATHS,
            "distributed.scheduler.worker-saturation": _TASKS_PER_WORKER,
            "distributed.nanny.pre-spawn-environ": _WORKER_ENVIRONMENT,
        }
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

    def _settle(self, client: Any, *, died: bool) -> None:
        """Let workers that replace dead ones start: stopped half-way they print tracebacks."""
        if died and self._workers:
            with contextlib.suppress(TimeoutError):
                client.wait_for_workers(self._workers, timeout=10)

    def _size(self, client: Any) -> int:
        """Tasks at work and waiting: half as many more than there are workers."""
        workers = self._workers or max(1, len(client.nthreads()))
        return workers + (workers + 1) // 2


class _Window:
    """The tasks that are with a Dask cluster."""

    def __init__(self, client: Any) -> None:
        from distributed import as_completed

        self.client = client
        self._done = as_completed(raise_errors=False)
        self._tasks: dict[Any, Task] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def submit(self, task: Task) -> None:
        """Hand a task to the cluster."""
        future = self.client.submit(_guarded, task, TASK_DEADLINE_S, pure=False)
        self._tasks[future] = task
        self._done.add(future)

    def next(self) -> Outcome:
        """Wait for the next outcome."""
        while True:
            future = next(self._done)
            task = self._tasks.pop(future)
            outcome = _outcome(task, future)
            # Released at once: a finished task that its worker's death takes along would rerun.
            future.release()
            if outcome is not None:
                return outcome
            # Its result was lost with its worker before it got here.
            self.submit(task)


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
    # Dask gives some of its loggers levels of their own.
    own = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    for name in ("distributed", "tifffile", *own):
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


def _outcome(task: Task, future: Any) -> Outcome | None:
    """How a finished future ended; None if its result is lost and must be computed anew.

    Raises:
        SchedulerLost: nobody here cancels a task: the client has lost its scheduler.
    """
    from distributed import CancelledError, KilledWorker

    if future.status == "cancelled":
        raise SchedulerLost(_GONE)
    if future.status not in ("finished", "error"):
        return None
    try:
        return Outcome(task, future.result())
    except KilledWorker as error:
        died = WorkerDied(
            "the process that worked on it was killed, and again when it worked on nothing else: "
            "the file crashes its decoder, takes too much memory, or hangs"
        )
        return Outcome(task, None, died, str(error))
    except CancelledError as error:
        raise SchedulerLost(_GONE) from error
    except Exception as error:  # noqa: BLE001 - whatever a slide raises is that slide's failure
        lines = traceback.format_exception(type(error), error, error.__traceback__)
        return Outcome(task, None, error, "".join(lines))
