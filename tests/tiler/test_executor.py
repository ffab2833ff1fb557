"""Executors: the serial twin and Dask end every task, whatever it does to its process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tiler import executor
from tiler.executor import DaskExecutor, Executor, Outcome, SerialExecutor, Task, make_executor


def square(number: int) -> int:
    return number * number


def fail_on_three(number: int) -> int:
    if number == 3:
        raise ValueError("three is not wanted")
    return number


def abort_on_three(number: int) -> int:
    if number == 3:
        os.abort()
    time.sleep(0.02)
    return number


def hang_on_three(number: int) -> int:
    while number == 3:
        time.sleep(0.1)
    return number


def run_all(chosen: Executor, function: Callable[[int], int], jobs: Sequence[int]) -> list[Outcome]:
    tasks = iter([Task(function, job) for job in jobs])
    return list(chosen.run(lambda: next(tasks, None)))


def results(outcomes: Sequence[Outcome]) -> dict[int, Any]:
    return {outcome.task.job: outcome.result for outcome in outcomes}


EXECUTORS = [pytest.param(SerialExecutor(), id="serial"), pytest.param(DaskExecutor(2), id="dask")]


@pytest.mark.parametrize("chosen", EXECUTORS)
def test_every_task_ends_once(chosen: Executor) -> None:
    outcomes = run_all(chosen, square, range(20))
    assert len(outcomes) == 20
    assert results(outcomes) == {number: number**2 for number in range(20)}


@pytest.mark.parametrize("chosen", EXECUTORS)
def test_a_task_that_raises_gives_its_error_and_traceback_and_the_others_go_on(
    chosen: Executor,
) -> None:
    outcomes = run_all(chosen, fail_on_three, range(6))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert [outcome.task.job for outcome in failed] == [3]
    assert isinstance(failed[0].error, ValueError)
    assert "fail_on_three" in failed[0].trace
    assert len(outcomes) == 6


@pytest.mark.parametrize("chosen", EXECUTORS)
def test_tasks_that_become_ready_later_are_asked_for_after_each_outcome(chosen: Executor) -> None:
    ready = [Task(square, 2)]
    seen = []
    for outcome in chosen.run(lambda: ready.pop() if ready else None):
        seen.append(outcome.result)
        if outcome.result < 1000:
            ready.append(Task(square, outcome.result))
    assert seen == [4, 16, 256, 65536]


def test_a_task_that_aborts_its_process_fails_alone() -> None:
    outcomes = run_all(DaskExecutor(2), abort_on_three, range(8))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert [outcome.task.job for outcome in failed] == [3]
    assert isinstance(failed[0].error, executor.WorkerDied)
    assert "crashes its decoder" in str(failed[0].error)
    assert results(outcomes) == {n: None if n == 3 else n for n in range(8)}


def test_a_task_that_hangs_is_ended_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "TASK_DEADLINE_S", 1)
    outcomes = run_all(DaskExecutor(2), hang_on_three, range(5))
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert [outcome.task.job for outcome in failed] == [3]
    assert isinstance(failed[0].error, executor.WorkerDied)


def test_no_more_tasks_are_taken_than_the_window_holds() -> None:
    taken: list[int] = []

    def next_task() -> Task | None:
        if len(taken) == 30:
            return None
        taken.append(len(taken))
        return Task(square, taken[-1])

    done = 0
    for _ in DaskExecutor(2).run(next_task):
        assert len(taken) - done <= 3
        done += 1
    assert done == 30


def test_a_local_cluster_listens_on_loopback_only() -> None:
    tasks = iter([Task(square, number) for number in range(3)])
    for _ in DaskExecutor(2).run(lambda: next(tasks, None)):
        me = psutil.Process()
        processes = [me, *me.children(recursive=True)]
        addresses = {
            connection.laddr.ip
            for process in processes
            for connection in process.net_connections()
            if connection.status == psutil.CONN_LISTEN
        }
        assert addresses == {"127.0.0.1"}


def test_a_running_scheduler_is_used_by_address_and_by_file(tmp_path: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        file = tmp_path / "scheduler.json"
        cluster.scheduler.identity()
        file.write_text(f'{{"address": "{cluster.scheduler_address}"}}')
        by_address = make_executor(None, scheduler=cluster.scheduler_address)
        by_file = make_executor(None, scheduler_file=file)
        for chosen in (by_address, by_file):
            assert results(run_all(chosen, square, range(4))) == {0: 0, 1: 1, 2: 4, 3: 9}


def nap(number: int) -> int:
    time.sleep(0.3)
    return number


@pytest.mark.slow
def test_a_scheduler_that_dies_in_the_middle_ends_the_run_with_try_again_later(
    tmp_path: Path,
) -> None:
    import dask

    file = tmp_path / "scheduler.json"
    local = ["--host", "127.0.0.1", "--scheduler-file", str(file)]
    dask_program = [sys.executable, "-m", "dask"]
    ports = ["--port", "0", "--dashboard-address", "127.0.0.1:0"]
    scheduler = subprocess.Popen(
        [*dask_program, "scheduler", *local, *ports], stderr=subprocess.DEVNULL
    )
    worker = subprocess.Popen(
        [*dask_program, "worker", *local, "--nthreads", "1", "--death-timeout", "5"],
        stderr=subprocess.DEVNULL,
    )
    endless = iter(range(10_000))
    run = make_executor(None, scheduler_file=file).run(lambda: Task(nap, next(endless)))
    try:
        while not file.exists():
            time.sleep(0.1)
        with dask.config.set({"distributed.comm.timeouts.connect": "3s"}):
            next(run)
            scheduler.kill()
            with pytest.raises(executor.SchedulerLost, match="went away") as caught:
                for _ in run:
                    pass
        assert caught.value.exit_code == 75
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()


def test_a_scheduler_that_does_not_answer_is_one_sentence_and_try_again_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(executor, "_CONNECT_S", 1)
    with pytest.raises(
        executor.SchedulerLost, match=r"no Dask scheduler answers at tcp://127"
    ) as e:
        run_all(make_executor(None, scheduler="tcp://127.0.0.1:9"), square, range(3))
    assert e.value.exit_code == 75


def test_zero_workers_is_the_serial_twin_and_none_is_one_per_cpu() -> None:
    assert isinstance(make_executor(0), SerialExecutor)
    assert isinstance(make_executor(None), DaskExecutor)
