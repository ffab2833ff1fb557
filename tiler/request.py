"""From what a person asked for to jobs: which slides, under which names, and what is known.

No pixel is read here. The result is a list of `Work`, one per store that the run should end with.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from manifests.slidetable import Row, SlidesTable
from manifests.vocabulary import Vocabulary, load_vocabulary
from tiler.errors import TilerError
from tiler.extract import SlideJob
from tiler.known import (
    assumed_mpp,
    canonical,
    catalogue_note,
    described,
    vocabulary_note,
)
from tiler.options import TileSpec
from tiler.packed import PackedJob, Picture
from tiler.roi import EXCLUDE_CLASSES, load_rois
from tiler.slides import Source, find_pictures, find_sources


@dataclass(frozen=True, slots=True)
class Request:
    """What a person asked for."""

    paths: tuple[Path, ...]
    out: Path
    spec: TileSpec
    table: SlidesTable = field(default_factory=lambda: SlidesTable(()))
    assumed_mpp: float | None = None
    constants: Mapping[str, str] = field(default_factory=dict)
    """Curated fields that hold for all slides (`organ`, `stain`, `dataset`, `license`)."""
    roi: Path | None = None
    """A GeoJSON file for all slides, or a folder with one per slide."""
    roi_exclude: tuple[str, ...] = ()
    """Class names whose regions are excluded, besides the usual ones."""
    packed: bool = False
    label_from: str | None = None
    """`parent`, or a column of the slides table."""
    organ_from: str | None = None
    """`parent`, `regex:PATTERN`, or a column of the slides table."""
    overwrite: bool = False
    preview: bool = False
    vocabulary: Vocabulary = field(default_factory=load_vocabulary)
    """The names that organs and stains get."""


@dataclass(frozen=True, slots=True)
class Work:
    """One store to make, and what people know of it."""

    job: SlideJob | PackedJob
    source_name: str
    """Name of the file or folder, without any path; the id, if the table gives one."""
    curated: Mapping[str, str]
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workload:
    """Everything that a run has to do."""

    works: tuple[Work, ...]
    notes: tuple[str, ...]
    """What a person should know before it starts: files ignored, rows unused."""


def make_workload(request: Request) -> Workload:
    """Find the sources and describe the stores to make, sorted by id.

    Raises:
        TilerError: a path does not exist, there is nothing to do, or the request contradicts
            itself.
    """
    asked, request = request, _from_anywhere(request)
    works, ignored = _packed(request) if request.packed else _slides(request)
    kinds = [work.job.source.kind for work in works if isinstance(work.job, SlideJob)]
    if not works:
        names = ", ".join(str(path) for path in asked.paths)
        kind = "picture" if request.packed else "slide"
        raise TilerError(f"there is no {kind} in {names}")
    notes = []
    table = request.table.file
    strange = [path for path in ignored if table is None or not path.samefile(table)]
    if strange:
        files = "file that is no image" if len(strange) == 1 else "files that are no images"
        notes.append(f"ignored {len(strange)} {files}: {_some(strange)}")
    pictures = sum(source == "picture" for source in kinds)
    if pictures >= _MANY_PICTURES:
        notes.append(f"{pictures} pictures get a store each; --packed puts them into one")
    if request.roi is not None and request.roi.is_dir():
        whole = [w.source_name for w in works if isinstance(w.job, SlideJob) and not w.job.roi]
        if whole:
            notes.append(f"{len(whole)} slides have no file in the --roi folder: {_some(whole)}")
    if unused := request.table.unused():
        notes.append(f"{len(unused)} rows of the slides table match no slide: {_some(unused)}")
    notes += catalogue_note(request.constants, request.assumed_mpp)
    notes += vocabulary_note([work.curated for work in works], request.vocabulary)
    return Workload(tuple(sorted(works, key=lambda work: work.job.id)), tuple(notes))


def _from_anywhere(request: Request) -> Request:
    """The same request with absolute paths: workers may run in another folder."""
    return replace(
        request,
        paths=tuple(path.absolute() for path in request.paths),
        out=request.out.absolute(),
        roi=None if request.roi is None else request.roi.absolute(),
    )


_MANY_PICTURES = 50
"""Plain pictures from which packing them is worth a word."""


def _some(names: Sequence[str | Path]) -> str:
    shown = [_shown(name.name if isinstance(name, Path) else name) for name in names[:3]]
    return ", ".join(shown) + (", …" if len(names) > len(shown) else "")


def _shown(name: str) -> str:
    """A file's name as text: names on disk are bytes, which need not be UTF-8."""
    return name.encode("utf-8", "replace").decode()


def _slides(request: Request) -> tuple[list[Work], Sequence[Path]]:
    found = find_sources(request.paths)
    rows = [request.table.find(source.path) for source in found.found]
    ids = assign_ids(found.found, [row.id if row else None for row in rows])
    works = [
        _slide_work(request, source, row, name)
        for source, row, name in zip(found.found, rows, ids, strict=True)
    ]
    return works, found.ignored


def _slide_work(request: Request, source: Source, row: Row | None, name: str) -> Work:
    roi = _roi_of(request, source, row)
    curated = _curated(request, row, source.path.name)
    job = SlideJob(
        id=name,
        source=source,
        store=request.out / f"{name}.zarr",
        spec=request.spec,
        table_mpp=row.mpp if row else None,
        assumed_mpp=assumed_mpp(request.assumed_mpp, request.constants, curated),
        roi=roi,
        roi_exclude=request.roi_exclude,
        roi_digest=None
        if roi is None
        else load_rois(roi, (*EXCLUDE_CLASSES, *request.roi_exclude)).digest,
        overwrite=request.overwrite,
    )
    # Who gives a slide an id may do so because its file name says who the patient is.
    shown = name if row is not None and row.id else _shown(source.path.name)
    return Work(job, shown, curated, dict(row.columns) if row else {})


def _curated(request: Request, row: Row | None, name: str) -> dict[str, str]:
    said = described(name, request.constants, row.curated if row else {})
    return canonical(said, request.vocabulary)


def _roi_of(request: Request, source: Source, row: Row | None) -> Path | None:
    if row is not None and row.roi is not None:
        return (request.table.folder / row.roi).absolute()
    if request.roi is None or not request.roi.is_dir():
        return request.roi
    fitting = [request.roi / f"{source.name}{end}" for end in (".geojson", ".json")]
    return next((path for path in fitting if path.is_file()), None)


def assign_ids(sources: Sequence[Source], given: Sequence[str | None]) -> list[str]:
    """Names of the stores: the table's `id`, else the file's stem, told apart where they clash.

    A clash is solved by the file's suffix, then by its folder, so that names do not change when
    slides are added elsewhere.

    Raises:
        TilerError: the table gives one id to two slides.
    """
    names = [_plain(g) if g else "" for g in given]
    # Some file systems do not tell upper from lower case.
    for name, count in Counter(name.casefold() for name in names if name).items():
        if count > 1:
            raise TilerError(f"the slides table gives the id {name!r} to two slides")
    open_slots = [i for i, name in enumerate(names) if not name]
    for naming in _NAMINGS:
        proposed = {i: _plain(naming(sources[i])) for i in open_slots}
        taken = Counter(name.casefold() for name in (*names, *proposed.values()))
        for i, name in proposed.items():
            if taken[name.casefold()] == 1:
                names[i] = name
        open_slots = [i for i in open_slots if not names[i]]
        if not open_slots:
            break
    return names


_READABLE = 30
"""Characters of a name that stay before a hash, so that the whole is not cut off."""

_LONGEST_NAME = 150
"""Bytes; file systems allow 255, manifests 200, and temporary files need some."""


def _path_hash(source: Source) -> str:
    digest = hashlib.sha256(str(source.path.resolve()).encode()).hexdigest()
    return f"{source.name[:_READABLE]}-{digest[:12]}"


_NAMINGS: tuple[Callable[[Source], str], ...] = (
    lambda source: source.name,
    lambda source: source.path.name.replace(".", "-"),
    lambda source: f"{source.path.resolve().parent.name}-{source.name}",
    _path_hash,
)


def _plain(name: str) -> str:
    """A name that is safe as a folder on any file system."""
    cleaned = re.sub(r"[^\w.+=@(), -]", "_", name).encode()[:_LONGEST_NAME]
    return cleaned.decode(errors="ignore").strip(" .") or "slide"


def _packed(request: Request) -> tuple[list[Work], list[Path]]:
    works: list[Work] = []
    ignored: list[Path] = []
    for folder in request.paths:
        if not folder.is_dir():
            raise TilerError(f"--packed takes folders of pictures, and {folder} is not a folder")
        found, other = find_pictures(folder)
        if unnameable := [file.name for file in found if _shown(str(file)) != str(file)]:
            raise TilerError(
                f"a store names its pictures in UTF-8, and these names are none: "
                f"{_some(unnameable)}; rename them"
            )
        ignored += other
        works += _packed_works(request, folder, found)
    ids = [work.job.id for work in works]
    if len(set(ids)) != len(ids):
        raise TilerError("two of the packed folders have the same name; extract them one by one")
    return works, ignored


def _packed_works(request: Request, folder: Path, files: Sequence[Path]) -> list[Work]:
    """One work per combination of what a store can say of all its pictures, and of their mpp."""
    groups: dict[tuple[tuple[str, str], ...], list[tuple[Path, Row | None]]] = {}
    for file in files:
        row = request.table.find(file)
        known = {k: v for k, v in _curated(request, row, "").items() if k != "patient"}
        organ = _derived(request.organ_from, "--organ-from", file, folder, row)
        if organ is not None:
            known = canonical({**known, "organ": organ}, request.vocabulary)
        assumed = assumed_mpp(request.assumed_mpp, request.constants, known)
        mpp = row.mpp if row is not None and row.mpp is not None else assumed
        if mpp is None:
            raise TilerError(
                f"pictures carry no µm per pixel: give them by --assume-mpp, or in the column mpp "
                f"of --slides (there is none for {file.name})"
            )
        source = "slides table" if row is not None and row.mpp is not None else "--assume-mpp"
        key = (*sorted(known.items()), ("mpp", f"{mpp!r}"), ("mpp_source", source))
        groups.setdefault(key, []).append((file, row))
    differing = _differing(list(groups))
    return [
        _packed_work(request, folder, dict(key), members, differing)
        for key, members in sorted(groups.items())
    ]


def _differing(keys: Sequence[tuple[tuple[str, str], ...]]) -> list[str]:
    """Fields in which the stores of one folder differ, and that so belong in their names."""
    fields = sorted({name for key in keys for name, _ in key})
    return [f for f in fields if f != "mpp_source" and len({dict(k).get(f) for k in keys}) > 1]


def _packed_work(
    request: Request,
    folder: Path,
    known: dict[str, str],
    members: Sequence[tuple[Path, Row | None]],
    differing: Sequence[str],
) -> Work:
    parts = [folder.resolve().name, *(known[f] for f in differing if f in known)]
    name = _plain("-".join(parts))
    mpp, mpp_source = float(known.pop("mpp")), known.pop("mpp_source")
    found = [_derived(request.label_from, "--label-from", f, folder, row) for f, row in members]
    labels = sorted({label for label in found if label is not None})
    pictures = tuple(
        Picture(
            name=file.relative_to(folder).as_posix(),
            label=None if label is None else labels.index(label),
            columns=_picture_columns(row),
        )
        for (file, row), label in zip(members, found, strict=True)
    )
    job = PackedJob(
        id=name,
        source=Source(folder, name, tuple(file for file, _ in members), "picture"),
        pictures=pictures,
        labels=tuple(labels),
        store=request.out / f"{name}.zarr",
        spec=request.spec,
        mpp=mpp,
        mpp_source=mpp_source,
        overwrite=request.overwrite,
    )
    return Work(job, _shown(folder.resolve().name), known)


def _picture_columns(row: Row | None) -> dict[str, str]:
    if row is None:
        return {}
    patient = {"patient": row.curated["patient"]} if "patient" in row.curated else {}
    return {**patient, **row.columns}


def _derived(
    rule: str | None, option: str, file: Path, folder: Path, row: Row | None
) -> str | None:
    """A label or organ by a rule: `parent`, `regex:PATTERN`, or a column of the table."""
    if rule is None:
        return None
    if rule == "parent":
        if file.parent == folder:
            raise TilerError(f"{option} parent: {file.name} lies in no folder below {folder.name}")
        return file.parent.name
    if rule.startswith("regex:"):
        return _by_pattern(rule.removeprefix("regex:"), option, file.relative_to(folder).as_posix())
    value = None if row is None else row.value(rule)
    if value is None:
        raise TilerError(
            f"{option} {rule}: the slides table has no value in the column {rule!r} for {file.name}"
        )
    return value


def _by_pattern(pattern: str, option: str, name: str) -> str:
    try:
        found = re.search(pattern, name)
    except re.error as error:
        raise TilerError(f"{option}: {pattern!r} is not a regular expression ({error})") from error
    if found is None:
        raise TilerError(f"{option}: {pattern!r} matches nothing in {name}")
    return found.group(1) if found.groups() else found.group(0)
