"""A set described in Croissant, the JSON-LD that dataset search and loaders read.

Two files are written: the description, and a table of the slides as JSON next to it, with types and
missing values as they are (readers of Croissant guess types in CSV: patient `007` becomes 7). Tiles
are described as a set of files, the stores; Croissant knows no Zarr. Format: Croissant 1.1,
https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from manifests.errors import HistotileError
from manifests.exports.tables import OWN_PREFIX, Column, slides_table
from manifests.files import Json, canonical_json, pretty_json, sha256, write_atomic
from manifests.jsonfile import parse_manifest
from manifests.model import Manifest
from manifests.placing import rebase

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
ZARR_FORMAT = "https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html"
"""Zarr has no registered media type; Croissant asks for a URL that says what it is instead."""

_DATA_TYPES = {
    "string": "sc:Text",
    "bool": "sc:Boolean",
    "int64": "sc:Integer",
    "float64": "sc:Float",
}
_SLIDES_ID = "slides-table"
_WEB = re.compile(r"https?://[^\s/]+(/\S*)?")


class CroissantError(HistotileError):
    """A description cannot be written where, or with what, it was asked for."""


@dataclass(frozen=True, slots=True)
class About:
    """What people say of the whole set."""

    name: str | None = None
    """The data set's name if all slides come from one, else `histotile set`."""
    license: str | None = None
    """Licence of the whole; by default those of the slides."""
    url: str | None = None
    """Its page on the web."""
    description: str | None = None
    """By default what can be counted."""

    def __post_init__(self) -> None:
        if self.url is not None and not _WEB.fullmatch(self.url):
            raise CroissantError(f"--url {self.url!r} is no http(s) address")


def slides_file(file: Path) -> Path:
    """Where the slides of a description are written: `croissant.slides.json`."""
    return file.with_name(f"{file.name.removesuffix('.json')}.slides.json")


def write_croissant(manifest_file: Path, file: Path, about: About) -> Manifest:
    """Describe the set of a manifest in `file`, and write its slides next to it.

    Returns the manifest as described, with paths relative to the folder of `file`.

    Raises:
        ManifestError: the manifest cannot be read, or a store lies outside of that folder.
        CroissantError: the manifest lies outside of that folder.
        OSError: the disk is full, read-only, ...; a description that was there is then untouched.
    """
    place = _below(manifest_file, file.parent)
    data = manifest_file.read_bytes()
    manifest = rebase(parse_manifest(_text(data, manifest_file), manifest_file), file.parent)
    slides = slides_file(file)
    slides_data = canonical_json(_slides_json(manifest))
    distribution = [
        _file_object("manifest", place, data, "what each tile store is; see docs of histotile"),
        _file_object(_SLIDES_ID, slides.name, slides_data, "a record per slide"),
        *_file_sets(manifest),
    ]
    described = _dataset_json(manifest, about, distribution)
    write_atomic(slides, slides_data)
    write_atomic(file, pretty_json(described))
    return manifest


def _text(data: bytes, file: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise CroissantError(f"{file} cannot be read (it is not UTF-8)") from error


def _below(file: Path, folder: Path) -> str:
    try:
        return file.resolve().relative_to(folder.resolve()).as_posix()
    except ValueError as error:
        raise CroissantError(
            f"a description names the manifest by a path below its own folder, and {file} does not "
            f"lie below {folder}; write it next to the manifest"
        ) from error


def _slides_json(manifest: Manifest) -> Json:
    """The slides: fields by name, columns of one's own in the order of `columns`."""
    table = slides_table(manifest)
    [block] = table.blocks
    own = [column.name for column in table.columns if column.name.startswith(OWN_PREFIX)]
    fields = [column.name for column in table.columns if column.name not in own]
    slides = []
    for row in range(block.rows):
        record: dict[str, Json] = {name: _value(block.cells[name], row) for name in fields}
        record["columns"] = [_value(block.cells[name], row) for name in own]
        slides.append(record)
    return {"columns": [name.removeprefix(OWN_PREFIX) for name in own], "slides": slides}


def _value(cells: object, row: int) -> Json:
    assert isinstance(cells, list)
    return cells[row]


def _file_object(name: str, place: str, data: bytes, description: str) -> Json:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": Path(place).name,
        "description": description,
        "contentUrl": place,
        "contentSize": f"{len(data)} B",
        "encodingFormat": "application/json",
        "sha256": sha256(data),
    }


def _file_sets(manifest: Manifest) -> list[Json]:
    """The stores that lie with the manifest; those behind URLs are in the slides' `path` alone."""
    local = [entry.path for entry in manifest.stores if entry.path and not entry.is_remote]
    if not local:
        return []
    stores = {
        "@type": "cr:FileSet",
        "@id": "stores",
        "name": "stores",
        "description": "tile stores (Zarr v3), one per slide or per folder of ready-made pictures",
        "encodingFormat": ZARR_FORMAT,
        "includes": [f"{glob.escape(path)}/**" for path in local],
    }
    return [stores]


def _dataset_json(manifest: Manifest, about: About, distribution: list[Json]) -> Json:
    licenses = [about.license] if about.license else _said(e.license for e in manifest.stores)
    keywords = [*_said(e.organ for e in manifest.stores), *_said(e.stain for e in manifest.stores)]
    sets = {entry.dataset for entry in manifest.stores}
    one_set = sets.pop() if len(sets) == 1 else None
    found = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": about.name or one_set or "histotile set",
        "description": about.description or _description(manifest),
        "license": licenses,
        "url": about.url,
        "keywords": ["histopathology", *keywords],
        "distribution": distribution,
        "recordSet": [_record_set(slides_table(manifest).columns)],
    }
    return {key: value for key, value in found.items() if value not in (None, [])}


def _record_set(columns: Iterable[Column]) -> Json:
    own = 0
    fields = []
    for column in columns:
        place = column.name
        if column.name.startswith(OWN_PREFIX):
            place, own = f"columns[{own}]", own + 1
        fields.append(_field(column, f"$.slides[*].{place}"))
    return {
        "@type": "cr:RecordSet",
        "@id": "slides",
        "name": "slides",
        "description": "the slides of the set, one record each",
        "key": {"@id": "slides/id"},
        "field": fields,
    }


def _field(column: Column, place: str) -> Json:
    inner = column.kind.removeprefix("list<").removesuffix(">")
    found = {
        "@type": "cr:Field",
        # An @id may hold no white space, and not all that a column's name may.
        "@id": f"slides/{quote(column.name, safe='')}",
        "name": column.name,
        "description": column.about,
        "dataType": _DATA_TYPES[inner],
        "source": {"fileObject": {"@id": _SLIDES_ID}, "extract": {"jsonPath": place}},
    }
    return found if inner == column.kind else {**found, "repeated": True}


def _said(values: Iterable[str | None]) -> list[str]:
    return sorted({value for value in values if value})


def _description(manifest: Manifest) -> str:
    """What can be counted, in one sentence for each resolution."""
    counts: Counter[tuple[float, int]] = Counter()
    for entry in manifest.stores:
        for resolution in entry.resolutions:
            counts[resolution.mpp_requested, resolution.tile_size] += entry.count(resolution)
    parts = [
        f"{tiles} tiles of {size} px at {mpp:g} µm per pixel"
        for (mpp, size), tiles in sorted(counts.items())
    ]
    slides = len(manifest.committed())
    what = f"Tiles of {slides} histopathology {'slide' if slides == 1 else 'slides'}"
    return f"{what}: {', '.join(parts)}." if parts else f"{what}."


_CONTEXT: Json = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context that Croissant 1.1 prescribes."""
