"""From paths that a person typed to the list of slides behind them.

A source is one slide or picture, with all the files that belong to it: the files of a DICOM
series count once, and the companions of MRXS and VMS slides are no slides of their own. Nothing
is decoded here; files are told apart by their suffix and their first bytes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from tiler.errors import TilerError
from tiler.slides import dicom

SLIDE_SUFFIXES: Final = frozenset(
    {".svs", ".svslide", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".czi", ".dcm"}
    | {".tif", ".tiff", ".btf", ".tf8", ".qptiff"}
)
PICTURE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg"})
PREVIEW_FOLDER: Final = "preview"
"""Where a run draws what a person checks, beside its stores."""
_TILE_SUFFIXES: Final = PICTURE_SUFFIXES | {".tif", ".tiff"}

_PICTURE_STARTS: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_TIFF_STARTS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MIRAX_INDEX = "Slidedat.ini"
_INDEXED_SUFFIXES: Final = frozenset({".vms", ".vmu"})
_LONGEST_INDEX = 1024 * 1024
_TOKEN_DIGITS = 16

Kind = Literal["slide", "picture", "dicom"]


@dataclass(frozen=True, slots=True)
class Source:
    """One slide or picture."""

    path: Path
    """What to open: the file, or the folder of a DICOM slide that has it to itself."""
    name: str
    """File name without its suffix, or the name of a DICOM slide's folder."""
    files: tuple[Path, ...]
    """All files that belong to it, sorted."""
    kind: Kind
    """`picture` is a PNG or JPEG; `dicom` a DICOM series; `slide` the rest."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What lies behind the given paths."""

    found: tuple[Source, ...]
    """In the order of the given paths, sorted within a folder, each once."""
    ignored: tuple[Path, ...]
    """What lies in the given folders and is no slide or picture."""


def find_sources(paths: Sequence[Path]) -> Sources:
    """Expand files and folders into slides and pictures.

    A file that is named itself is always a source, so that it is opened and its trouble reported.
    In folders, searched to any depth, files are taken by suffix or by content; hidden files, the
    insides of `.zarr` stores, and the previews beside them are passed over.

    Raises:
        TilerError: a path does not exist, is a Zarr store, or is a folder that cannot be listed.
    """
    found: dict[str, Source] = {}
    ignored: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            _refuse_store(path)
            sources, others = _in_folder(path)
        elif path.exists():
            sources, others = [_named(path)], []
        else:
            raise TilerError(f"{path} does not exist")
        for source in sources:
            found.setdefault(os.path.realpath(source.files[0]), source)
        ignored.update(dict.fromkeys(others))
    return Sources(tuple(found.values()), tuple(ignored))


def find_pictures(folder: Path) -> tuple[list[Path], list[Path]]:
    """List the pictures (PNG, JPEG, TIFF) below a folder, and what else lies there.

    Returns:
        The pictures and the ignored files, each sorted by the path below `folder`, written with
        forward slashes. Hidden files are in neither list.

    Raises:
        TilerError: `folder` is no folder, is a Zarr store, or one in it cannot be listed.
    """
    if not folder.is_dir():
        raise TilerError(f"{folder} is no folder")
    _refuse_store(folder)
    pictures: list[Path] = []
    ignored: list[Path] = []
    for place in _folders(folder):
        ignored += place.stores
        for path in place.files:
            start = _first_bytes(path)
            is_picture = start.startswith(_PICTURE_STARTS) or start.startswith(_TIFF_STARTS)
            known = path.suffix.lower() in _TILE_SUFFIXES or is_picture
            (pictures if known else ignored).append(path)

    def order(path: Path) -> str:
        return path.relative_to(folder).as_posix()

    return sorted(pictures, key=order), sorted(ignored, key=order)


def _refuse_store(folder: Path) -> None:
    """The chunks in a store begin like pictures, but are none."""
    if (folder / "zarr.json").is_file():
        raise TilerError(f"{folder} is a Zarr store; give the slides that it was made from")


def source_token(source: Source) -> str:
    """Hash names, sizes and times of a source's files, to notice that one has changed.

    Returns:
        16 hexadecimal digits, the same as long as no file is touched. Names and dates cannot be
        read from it.
    """
    root = source.path if source.path.is_dir() else source.path.parent
    digest = hashlib.sha256()
    for name, path in sorted((os.path.relpath(path, root), path) for path in source.files):
        try:
            status = path.stat()
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:
            state = "missing"
        digest.update(f"{name}\0{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:_TOKEN_DIGITS]


@dataclass(frozen=True, slots=True)
class _Folder:
    """One visited folder: its visible files, and the folders that were not entered."""

    path: Path
    files: list[Path]
    stores: list[Path]
    """Zarr stores, and the folder of their previews: an output folder may lie among the slides."""


def _folders(folder: Path) -> Iterator[_Folder]:
    """Visit a folder and those below it, sorted; each real folder once, so that links cannot loop.

    Folders of MRXS slides are left out: they belong to the file beside them.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        status = current.stat()
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        files, folders, stores = _list(current)
        mirax = {path.stem for path in files if path.suffix.lower() == ".mrxs"}
        waiting += [path for path in reversed(folders) if path.name not in mirax]
        yield _Folder(current, files, stores)


def _list(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the visible files, the folders to enter, and those not to, each sorted."""
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        folders = [path for path in paths if path.is_dir()]
    except OSError as error:
        raise TilerError(f"{folder} cannot be listed: {error.strerror}") from error
    closed = [path for path in folders if path.suffix == ".zarr"]
    if closed:
        closed += [path for path in folders if path.name == PREVIEW_FOLDER]
    is_folder, is_closed = set(folders), set(closed)
    files = [path for path in paths if path not in is_folder]
    return files, [path for path in folders if path not in is_closed], closed


def _in_folder(folder: Path) -> tuple[list[Source], list[Path]]:
    sources: list[Source] = []
    ignored: list[Path] = []
    for place in _folders(folder):
        ignored += place.stores
        if any(path.name == _MIRAX_INDEX for path in place.files):
            ignored += place.files  # the folder of an MRXS slide whose .mrxs file is missing
            continue
        here, others = _in_one_folder(place)
        sources += here
        ignored += others
    return sources, ignored


def _in_one_folder(place: _Folder) -> tuple[list[Source], list[Path]]:
    series = dicom.series_beside(place.path)
    in_series = {path for files in series.values() for path in files}
    companions = {
        other
        for path in place.files
        if path.suffix.lower() in _INDEXED_SUFFIXES
        for other in _named_in_index(path)
    }
    single: list[Source] = []
    ignored: list[Path] = []
    for path in place.files:
        if path in in_series or path in companions:
            continue
        if _is_slide_or_picture(path):
            single.append(_single(path))
        else:
            ignored.append(path)
    is_alone = len(series) == 1 and not single
    slides = [_series_source(files, is_alone=is_alone) for files in series.values()]
    return sorted([*single, *slides], key=lambda source: source.files[0]), ignored


def _named(path: Path) -> Source:
    """Make the source of a file that was named itself."""
    header = dicom.read_header(path) if dicom.is_dicom(path) else None
    if header is None:
        return _single(path)
    here, _ = _in_one_folder(_Folder(path.parent, _list(path.parent)[0], []))
    for source in here:
        if path in source.files:
            return source
    return _single(path)


def _single(path: Path) -> Source:
    start = _first_bytes(path)
    suffix = path.suffix.lower()
    is_picture = suffix in PICTURE_SUFFIXES or start.startswith(_PICTURE_STARTS)
    kind: Kind = "slide"
    if is_picture and suffix not in SLIDE_SUFFIXES:
        kind = "picture"
    elif suffix == ".dcm" or dicom.is_dicom(path):
        kind = "dicom"
    return Source(path, _stem(path), _with_companions(path), kind)


def _series_source(files: tuple[Path, ...], *, is_alone: bool) -> Source:
    if is_alone:
        folder = files[0].parent
        return Source(folder, folder.resolve().name, files, "dicom")
    return Source(files[0], _stem(files[0]), files, "dicom")


def _stem(path: Path) -> str:
    for suffix in (".ome.tif", ".ome.tiff"):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    return path.stem


def _with_companions(path: Path) -> tuple[Path, ...]:
    suffix = path.suffix.lower()
    others: Iterable[Path] = ()
    if suffix == ".mrxs":
        folder = path.with_suffix("")
        others = (other for other in folder.rglob("*") if other.is_file())
    elif suffix in _INDEXED_SUFFIXES:
        others = _named_in_index(path)
    return (path, *sorted(others))


def _named_in_index(path: Path) -> set[Path]:
    """Return the files beside a Hamamatsu VMS or VMU index that it names as its pictures."""
    try:
        with path.open("rb") as file:
            text = file.read(_LONGEST_INDEX).decode("utf-8", "replace")
    except OSError:
        return set()
    values = (line.partition("=")[2].strip() for line in text.splitlines() if "=" in line)
    beside = {other.name: other for other in path.parent.iterdir() if other.is_file()}
    return {beside[value] for value in values if value in beside} - {path}


def _is_slide_or_picture(path: Path) -> bool:
    """Tell by the suffix or the content; a file with a DICOM suffix must be a whole slide."""
    if dicom.is_dicom(path):
        # A whole slide was found with its series before; the rest are annotations and reports.
        header = dicom.read_header(path)
        return header is None and path.suffix.lower() == ".dcm"
    if path.suffix.lower() in SLIDE_SUFFIXES | PICTURE_SUFFIXES:
        return True
    start = _first_bytes(path)
    return start.startswith(_PICTURE_STARTS) or start.startswith(_TIFF_STARTS)


def _first_bytes(path: Path) -> bytes:
    """Return the first 8 bytes; none of a file that cannot be read, which opening will explain."""
    try:
        with path.open("rb") as file:
            return file.read(8)
    except OSError:
        return b""
