"""`histopretrain embed`: the features of all tiles of a manifest in a folder, aligned with them.

Tiles go through the encoder chunk by chunk; each chunk is written whole, a store is committed when
its chunks are there, and `features.json` comes last. The same command goes on where it was stopped,
and gives the same bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from manifests import Manifest, StoreError, load_manifest
from manifests.errors import EXIT_DONE, EXIT_NONE_SUCCEEDED, EXIT_SOME_FAILED
from manifests.files import Json
from manifests.store import open_store
from pretrain.device import pick_device
from pretrain.digest import manifest_digest
from pretrain.embedding.encoders import Encoder, check_mpp, open_encoder
from pretrain.embedding.featurefolder import (
    H5Folder,
    ZarrFolder,
    begin_folder,
    check_folder,
    close_folder,
)
from pretrain.embedding.featureplan import Chunk, StorePlan, features_spec, plan_stores
from pretrain.embedding.featurestore import Features
from pretrain.embedding.settings import ZARR, EmbedSettings
from pretrain.embedding.stream import Rows, stream_features
from pretrain.errors import ConfigError, Interrupted
from pretrain.locking import locked
from pretrain.stopping import Stopper


class Watcher(Protocol):
    """Whoever wants to know how far it is."""

    def started(self, text: str) -> None:
        """What will be done, in one line."""

    def embedded(self, done: int, total: int, tiles_per_s: float) -> None:
        """How many tiles are done, of how many."""

    def noted(self, text: str) -> None:
        """Something that a person should know."""


class Silent:
    """A watcher that says nothing."""

    def started(self, text: str) -> None:
        """Say nothing."""

    def embedded(self, done: int, total: int, tiles_per_s: float) -> None:
        """Say nothing."""

    def noted(self, text: str) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """What is in the folder now."""

    out: Path
    encoder: str
    """Name of the encoder."""
    features: int
    """F."""
    stores: int
    """Tile stores that there are features of."""
    tiles: int
    """Their tiles."""
    embedded: int
    """Tiles that were embedded just now; the others were there."""
    seconds: float
    """Which that took, reading and writing included."""
    damaged: tuple[str, ...]
    """Tiles that could not be read, as store/resolution/number."""
    failed: Mapping[str, str]
    """Tile stores without features: id → why."""

    @property
    def tiles_per_s(self) -> float:
        """Tiles embedded per second; 0 if there were none."""
        return self.embedded / self.seconds if self.embedded else 0.0

    @property
    def exit_code(self) -> int:
        """0 if all is there, 3 if a part is missing, 4 if all is."""
        if not self.stores:
            return EXIT_NONE_SUCCEEDED
        return EXIT_SOME_FAILED if self.failed or self.damaged else EXIT_DONE

    def to_json(self) -> dict[str, Json]:
        """As `--json` prints it."""
        return {
            "out": str(self.out),
            "encoder": self.encoder,
            "features": self.features,
            "stores": self.stores,
            "tiles": self.tiles,
            "embedded": self.embedded,
            "seconds": round(self.seconds, 3),
            "tiles_per_s": round(self.tiles_per_s, 1),
            "damaged": list(self.damaged),
            "failed": sorted(self.failed),
        }


def embed(
    encoder: str,
    manifest: str | Path,
    out: str | Path,
    settings: EmbedSettings | None = None,
    watcher: Watcher | None = None,
    *,
    stopper: Stopper | None = None,
) -> EmbedResult:
    """Embed the tiles of a manifest into a folder, or go on with one that was interrupted.

    Args:
        encoder: its name, see `pretrain.embedding.encoders.FORMS`.
        stopper: asked after each batch whether to stop.

    Raises:
        ConfigError: the encoder or a setting does not fit the tiles, or the folder is in use.
        CheckpointError: the encoder's file is damaged.
        ManifestError: the manifest cannot be read.
        RunBusy: another process writes to the folder.
        Interrupted: the stopper asked to stop; what was embedded is kept.
        OSError: the disk is full, ...
    """
    settings = settings or EmbedSettings()
    watcher = watcher or Silent()
    device = pick_device(settings.device)
    loaded, digest = load_manifest(manifest), manifest_digest(manifest)
    opened = open_encoder(encoder, size=settings.image_size, seed=settings.seed)
    spec = features_spec(opened, settings)
    plans, failed = plan_stores(loaded, spec, split=settings.split, mpp=settings.mpp)
    check_mpp(opened, (p.mpp for plan in plans for p in plan.parts), any_mpp=settings.any_mpp)
    kind = ZarrFolder if settings.format == ZARR else H5Folder
    folder = kind(Path(out), loaded, plans)
    failed.update(folder.refused)
    for name, reason in failed.items():
        watcher.noted(f"{name} cannot be embedded: {reason}")
    job = _Job(folder, opened, device, settings, watcher, stopper or Stopper(), failed)
    if not folder.plans:
        return job.result({})
    said = {**spec, "encoder": opened.to_json()}
    check_folder(folder, said, failed)
    watcher.started(job.described())
    with locked(folder.path):
        begin_folder(folder, said)
        job.work()
        if all(plan.id in failed for plan in folder.plans):
            return job.result({})
        return job.result(close_folder(folder, {**said, "manifest_sha256": digest}, failed))


class _Job:
    """The embedding of what a folder lacks."""

    def __init__(
        self,
        folder: ZarrFolder,
        encoder: Encoder,
        device: str,
        settings: EmbedSettings,
        watcher: Watcher,
        stopper: Stopper,
        failed: dict[str, str],
    ) -> None:
        self._folder, self._encoder, self._device = folder, encoder, device
        self._settings, self._watcher, self._stopper = settings, watcher, stopper
        self._failed = failed
        self._left: Counter[str] = Counter()
        """Chunks that a store still lacks, by its id."""
        self._prepared: set[str] = set()
        self._total = sum(plan.tiles for plan in folder.plans)
        self._before = self._embedded = 0
        """Tiles that were there, and tiles that were embedded since."""
        self._began = time.perf_counter()
        self._seconds = 0.0

    def described(self) -> str:
        """What will be done, in one line."""
        encoder, stores = self._encoder, len(self._folder.plans)
        size = "" if encoder.size is None else f" at {encoder.size} px"
        return (
            f"{encoder.name} ({encoder.arch}, {encoder.features} features) on {self._device}: "
            f"{self._total:,} tiles of {stores:,} stores{size}, {self._settings.stored_dtype}"
        )

    def work(self) -> None:
        """Embed what is missing, store by store."""
        todo = [chunk for plan in self._folder.plans for chunk in self._missing(plan)]
        self._before = self._total - sum(len(chunk.wanted()) for chunk in todo)
        self._began = time.perf_counter()
        while todo:
            done = 0
            try:
                for chunk, rows, damaged in self._computed(todo):
                    self._write(chunk, rows, damaged)
                    done += 1
                todo = []
            except StoreError as error:
                gone = _first_gone(self._folder.manifest, todo[done:])
                if gone is None:
                    raise
                self._fail(gone, error)
                todo = [chunk for chunk in todo[done:] if chunk.plan.id not in self._failed]
        self._seconds = time.perf_counter() - self._began

    def result(self, damaged: Mapping[str, Mapping[str, Sequence[int]]]) -> EmbedResult:
        """What is in the folder now, with the tiles that are damaged by store and resolution."""
        there = [plan for plan in self._folder.plans if plan.id not in self._failed]
        return EmbedResult(
            out=self._folder.path,
            encoder=self._encoder.name,
            features=self._encoder.features,
            stores=len(there),
            tiles=sum(plan.tiles for plan in there),
            embedded=self._embedded,
            seconds=self._seconds,
            damaged=tuple(
                f"{name}/{group}/{tile}"
                for name, groups in damaged.items()
                for group, tiles in groups.items()
                for tile in tiles
            ),
            failed=self._failed,
        )

    def _missing(self, plan: StorePlan) -> list[Chunk]:
        """The chunks that a store lacks; one that lacks none is finished here."""
        if self._folder.is_done(plan):
            return []
        writer = self._folder.writer(plan)
        is_begun = writer.existing_attributes() is not None
        missing = [c for c in plan.chunks() if not (is_begun and writer.has_chunk(c))]
        self._left[plan.id] = len(missing)
        if not missing:
            try:
                self._folder.finish(plan)
            except StoreError as error:
                self._fail(plan, error)
        return missing

    def _computed(
        self, chunks: Sequence[Chunk]
    ) -> Iterator[tuple[Chunk, Rows, npt.NDArray[np.bool_]]]:
        """The features of chunks, (n, F), and which of their tiles are damaged, (n,)."""
        settings = self._settings
        stream = stream_features(
            self._folder.manifest,
            [chunk.wanted() for chunk in chunks],
            self._encoder,
            device=self._device,
            batch_size=settings.batch_size,
            threads=settings.threads,
            bf16=settings.precision == "bf16",
        )
        first = 0
        with closing(stream) as batches:
            for chunk in chunks:
                count = len(chunk.wanted())
                rows = np.empty((count, self._encoder.features), dtype=np.float32)
                damaged = np.zeros(count, dtype=bool)
                done = 0
                while done < count:
                    batch = next(batches)
                    rows[done : done + len(batch.features)] = batch.features
                    damaged[[row - first for row in batch.damaged]] = True
                    done += len(batch.features)
                    self._tell(done)
                first += count
                yield chunk, rows, damaged

    def _tell(self, in_chunk: int) -> None:
        """Say how far it is, with so many tiles of a chunk embedded, and stop if that is asked."""
        embedded = self._embedded + in_chunk
        per_s = embedded / max(time.perf_counter() - self._began, 1e-9)
        self._watcher.embedded(self._before + embedded, self._total, per_s)
        if self._stopper.asked:
            raise Interrupted(
                f"stopped: {self._before + self._embedded:,} of {self._total:,} tiles are embedded "
                "and kept; the same command goes on from there",
                self._stopper.exit_code,
            )

    def _write(self, chunk: Chunk, rows: Rows, damaged: npt.NDArray[np.bool_]) -> None:
        """Write a chunk; finish its store if it was the last one."""
        plan = chunk.plan
        if plan.id in self._failed:
            return
        stored = _stored(rows, chunk, damaged, self._settings.stored_dtype)
        try:
            if plan.id not in self._prepared:
                self._folder.prepare(plan)
                self._prepared.add(plan.id)
            self._folder.writer(plan).write_chunk(chunk, stored)
            self._left[plan.id] -= 1
            if not self._left[plan.id]:
                self._folder.finish(plan)
        except StoreError as error:
            self._fail(plan, error)
        else:
            self._embedded += len(rows)

    def _fail(self, plan: StorePlan, error: StoreError) -> None:
        self._failed[plan.id] = str(error)
        self._watcher.noted(f"{plan.id} cannot be embedded: {error}")


def _stored(rows: Rows, chunk: Chunk, damaged: npt.NDArray[np.bool_], dtype: str) -> Features:
    """Features (n, F) in the type that they are stored in.

    Raises:
        ConfigError: they are no numbers, or too large for float16.
    """
    is_bad = ~np.isfinite(rows).all(axis=1) & ~damaged
    if is_bad.any():
        tile = chunk.wanted().indices[is_bad][0]
        raise ConfigError(
            f"the encoder's features of tile {chunk.plan.id}/{chunk.part.group}/{tile} are no "
            "numbers: its weights are broken, or --precision bf16 is too coarse for it"
        )
    most = np.abs(rows[~damaged]).max(initial=0)
    if dtype == "float16" and most > np.finfo(np.float16).max:
        raise ConfigError(f"features of up to {most:.3g} exceed float16: give --dtype float32")
    return rows.astype(dtype)


def _first_gone(manifest: Manifest, chunks: Sequence[Chunk]) -> StorePlan | None:
    """The first tile store of chunks that cannot be opened any more."""
    seen: set[str] = set()
    for chunk in chunks:
        if chunk.plan.id not in seen:
            seen.add(chunk.plan.id)
            try:
                open_store(manifest, chunk.plan.entry)
            except StoreError:
                return chunk.plan
    return None


__all__ = ["EmbedResult", "Silent", "Watcher", "embed"]
