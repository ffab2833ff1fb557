"""Many slides: plan, cut, commit, resume, and say how each one ended.

A run asks its executor to plan slides, then to cut the shards that are missing, then to commit
each store whose shards are all there. Resuming is the same run again: finished stores are found
and skipped, begun ones go on at the first missing shard. A slide that fails is recorded with its
reason; the others go on. The manifest and `failures.json` are written at the end, also after
Ctrl-C.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from manifests.errors import (
    EXIT_DONE,
    EXIT_NONE_SUCCEEDED,
    EXIT_SOME_FAILED,
    StoreError,
)
from manifests.files import Json, remove_temporaries
from manifests.store import TileStore, is_committed
from manifests.writer import StoreWriter
from tiler.errors import SlideError, SpecMismatch
from tiler.executor import Executor, Outcome, Task
from tiler.extract import (
    Planned,
    ShardDone,
    SlideJob,
    cut_shards,
    is_finished,
    plan_slide,
)
from tiler.finish import FinishJob, draw_store_preview, finish_store
from tiler.outcomes import (
    Failure,
    earlier_manifest,
    entry_of,
    failure_of,
    picture_failures,
    write_outcomes,
)
from tiler.outfolder import stop_if_disk_full
from tiler.packed import PackedJob, cut_packed_shards, is_packed, plan_packed
from tiler.request import Work, Workload
from tiler.slides.discover import PREVIEW_FOLDER


class Reporter(Protocol):
    """Is told how a run goes, to show it."""

    def started(self, slides: int, skipped: int) -> None:
        """The run knows its slides; so many of them are finished already."""
        ...

    def planned(self, shards: int) -> None:
        """A slide was planned, and has so many shards to cut."""
        ...

    def shard_done(self, done: ShardDone) -> None:
        """Some shards were written."""
        ...

    def ended(self, name: str, status: str, reason: str | None) -> None:
        """A slide ended as `done`, `empty` or `failed`."""
        ...


@dataclass(slots=True)
class RunResult:
    """How a run ended."""

    statuses: dict[str, str] = field(default_factory=dict)
    """`done`, `empty` or `failed` by id, of the slides of this run."""
    failures: list[Failure] = field(default_factory=list)
    skipped: int = 0
    """Stores that were finished before."""
    tiles: int = 0
    """Tiles cut by this run."""
    bytes: int = 0
    """Bytes of shards written by this run."""
    decoded: int = 0
    """Native cells decoded by this run."""
    native: int = 0
    """Tiles that were kept as the slide holds them."""
    cells: int = 0
    """Native cells that its tiles are made from; some are decoded twice, some not at all."""
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 all done, 3 some slides failed, 4 none succeeded."""
        failed = sum(status == "failed" for status in self.statuses.values())
        if failed == 0:
            # Pictures of a packed store may have failed all the same.
            return EXIT_SOME_FAILED if self.failures else EXIT_DONE
        return EXIT_SOME_FAILED if failed < len(self.statuses) else EXIT_NONE_SUCCEEDED


def extract(
    workload: Workload,
    out: Path,
    executor: Executor,
    reporter: Reporter,
    *,
    overwrite: bool = False,
    preview: bool = False,
) -> RunResult:
    """Make the stores of a workload and write `manifest.json` and `failures.json`.

    Raises:
        SpecMismatch: a store was made with other settings, and `overwrite` is not set.
        OutputBusy: another run is writing to `out`.
        ManifestError: `out` has a manifest that cannot be read.
        DiskFull, SchedulerLost: the run stopped early; running it again continues it.
        KeyboardInterrupt: as above; the manifest then says what is finished.
    """
    earlier_manifest(out)  # a damaged one is better refused before the work than after
    run = _Run(workload.works, out, preview)
    remove_temporaries_of_run(out)
    run.find_finished(overwrite)
    reporter.started(len(workload.works), run.result.skipped)
    try:
        run.go(executor, reporter)
    finally:
        run.result.seconds = time.monotonic() - run.begun
        write_outcomes(out, workload.works, run.result.statuses, run.result.failures)
    return run.result


def remove_temporaries_of_run(out: Path) -> None:
    """Delete what a killed run left beside the stores; each store is swept when it is planned."""
    for leftover in out.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


@dataclass(slots=True)
class _Slide:
    """A slide that the run is at work on."""

    work: Work
    tasks: int = 0
    """Tasks of shards that are not yet done."""
    damage: str | None = None
    """Why some of its tiles could not be read."""
    planned: bool = False
    """Whether this run planned its store: only then is what lies at its place this slide's."""


class _Run:
    def __init__(self, works: Sequence[Work], out: Path, preview: bool) -> None:
        self.begun = time.monotonic()
        self.result = RunResult()
        self._slides = {work.job.id: _Slide(work) for work in works}
        self._preview = (out / PREVIEW_FOLDER).absolute() if preview else None
        self._ready: deque[tuple[str, Task]] = deque()
        self._unplanned: deque[str] = deque()
        self._owner: dict[Task, str] = {}
        self._pieces = 1
        if self._preview is not None:
            self._preview.mkdir(exist_ok=True)

    def find_finished(self, overwrite: bool) -> None:
        """Sort out which slides are finished; refuse stores that were made with other settings."""
        mismatches = []
        for name, slide in self._slides.items():
            job = slide.work.job
            found = _stored_spec(job.store, overwrite)
            if found is not None and found != job.spec_json():
                if not overwrite:
                    mismatches.append(_describe_mismatch(name, found, job.spec_json()))
                    continue
                shutil.rmtree(job.store)
            if _is_finished(job):
                self._skip(name, job.store)
            else:
                self._unplanned.append(name)
        if mismatches:
            raise SpecMismatch(
                "\n".join(mismatches[:5])
                + (f"\n… and {len(mismatches) - 5} more stores" if len(mismatches) > 5 else "")
                + "\nGive another --out, the same settings, or --overwrite to cut them anew."
            )

    def _skip(self, name: str, store: Path) -> None:
        StoreWriter(store).remove_parts()
        remove_temporaries(store)
        self.result.statuses[name] = "done" if TileStore(store).totals["tiles"] else "empty"
        self.result.skipped += 1
        self.result.failures += picture_failures(self._slides[name].work)
        picture = self._preview_file(name)
        if picture is not None and not picture.exists():
            self._add(name, Task(draw_store_preview, FinishJob(name, store, picture)))

    def go(self, executor: Executor, reporter: Reporter) -> None:
        """Work until nothing is left."""
        # Many slides keep all workers busy; of few, each is split.
        wanted = _TASKS_PER_WORKER * executor.parallel if executor.parallel > 1 else 1
        self._pieces = -(-wanted // max(1, len(self._unplanned)))
        for outcome in executor.run(self._next_task):
            name = self._owner.pop(outcome.task)
            stop_if_disk_full(outcome.error)
            if outcome.error is not None:
                self._fail(name, outcome, reporter)
            elif name in self.result.statuses:
                continue  # it has failed already, while this task was at work
            elif isinstance(outcome.result, ShardDone):
                self._count(name, outcome.result, reporter)
            elif isinstance(outcome.result, Planned):
                self._planned(name, outcome.result, reporter)
            else:
                entry = entry_of(self._slides[name].work)
                self.result.statuses[name] = entry.status
                self.result.failures += picture_failures(self._slides[name].work)
                remark = entry.reason or "; ".join(f"warning: {text}" for text in entry.warnings)
                reporter.ended(name, entry.status, remark or None)

    def _next_task(self) -> Task | None:
        # Shards first: stores then complete one after another, and little is left half-done.
        if self._ready:
            name, task = self._ready.popleft()
        elif self._unplanned:
            name = self._unplanned.popleft()
            job = self._slides[name].work.job
            if isinstance(job, PackedJob):
                task = Task(plan_packed, job)
            else:
                task = Task(plan_slide, replace(job, pieces=self._pieces))
        else:
            return None
        self._owner[task] = name
        return task

    def _add(self, name: str, task: Task) -> None:
        self._ready.append((name, task))

    def _planned(self, name: str, left: Planned, reporter: Reporter) -> None:
        slide = self._slides[name]
        slide.tasks, slide.planned = len(left.jobs), True
        self.result.cells += left.cells
        reporter.planned(sum(len(job.shards) for job in left.jobs))
        cut = cut_packed_shards if isinstance(slide.work.job, PackedJob) else cut_shards
        for job in left.jobs:
            self._add(name, Task(cut, job))
        if not left.jobs:
            self._finish(name)

    def _count(self, name: str, done: ShardDone, reporter: Reporter) -> None:
        self.result.tiles += done.tiles
        self.result.bytes += done.bytes
        self.result.decoded += done.decoded
        self.result.native += done.native
        reporter.shard_done(done)
        slide = self._slides[name]
        slide.damage = slide.damage or done.damage
        slide.tasks -= 1
        if slide.tasks == 0:
            self._finish(name)

    def _finish(self, name: str) -> None:
        slide = self._slides[name]
        job = slide.work.job
        picture = None if isinstance(job, PackedJob) else self._preview_file(name)
        task = Task(finish_store, FinishJob(name, job.store, picture, slide.damage))
        self._ready.appendleft((name, task))

    def _preview_file(self, name: str) -> Path | None:
        return None if self._preview is None else self._preview / f"{name}.png"

    def _fail(self, name: str, outcome: Outcome, reporter: Reporter) -> None:
        if self.result.statuses.get(name) == "failed":
            return
        slide = self._slides[name]
        self._ready = deque(item for item in self._ready if item[0] != name)
        failure = failure_of(slide.work, outcome.error, outcome.trace)
        self.result.statuses[name] = "failed"
        self.result.failures.append(failure)
        store = slide.work.job.store
        if slide.planned and isinstance(outcome.error, SlideError) and not is_committed(store):
            # It would fail again; nothing of it is worth continuing.
            shutil.rmtree(store, ignore_errors=True)
        reporter.ended(name, "failed", failure.reason)


_TASKS_PER_WORKER = 2
"""Tasks for each worker that few slides are split into: the last ones then end together."""


def _stored_spec(store: Path, overwrite: bool) -> dict[str, Json] | None:
    """The spec of a store that is there, whole or begun; None if there is none.

    Of a damaged store that may be overwritten it is empty.

    Raises:
        StoreError: it is no store of histotile, or damaged and to be kept.
    """
    writer = StoreWriter(store)
    if not writer.is_planned():
        return None
    try:
        spec: dict[str, Json] = writer.attributes()["spec"]
    except (ValueError, KeyError) as error:
        if not writer.is_own():
            raise StoreError(f"{store} is not a store of histotile; move it away") from error
        if overwrite:
            return {}
        raise StoreError(
            f"{store} is damaged; give --overwrite to cut it anew, or move it away"
        ) from error
    return spec


def _is_finished(job: SlideJob | PackedJob) -> bool:
    return is_packed(job) if isinstance(job, PackedJob) else is_finished(job)


def _describe_mismatch(name: str, found: dict[str, Json], asked: dict[str, Json]) -> str:
    if found.get("versions") != asked["versions"]:
        return f"{name} was cut by another version of histotile, which cuts other tiles."
    keys = [key for key in sorted({*found, *asked}) if found.get(key) != asked.get(key)]
    before = ", ".join(f"{key} {found.get(key)}" for key in keys)
    now = ", ".join(f"{key} {asked.get(key)}" for key in keys)
    return f"{name} was cut with {before}; now asked for {now}."
