"""Loading and saving manifests: versioned, validated against the JSON schema, atomic, byte-stable.

A manifest is hostile until checked. Every refusal is one `ManifestError`, one line that names the
file and the place in it (`$.stores[3].path`). Saving the same manifest twice gives the same bytes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NoReturn

from manifests import __version__
from manifests.checks import check_text, on_one_line, short
from manifests.errors import ManifestError
from manifests.files import Json, pretty_json, unchanged, write_atomic
from manifests.jsontext import parse_json
from manifests.model import (
    Manifest,
    ManifestInput,
    Resolution,
    Selection,
    SlideInfo,
    StoreEntry,
    TileSets,
)
from manifests.tileset import TileSet

FORMAT = "histotile-manifest"
VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 2 added keys to version 1 and changed none, so both are read alike."""
MAX_BYTES = 2**30
"""Length of the longest file that is read; 30,000 stores are some 60 MB."""
_SCHEMA_FILE = "manifest-v2.schema.json"
_PIECE_BYTES = 2**26
_MOST_VIOLATIONS = 100


def load_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestError: the file is missing, not JSON, of another format or version, or breaks
            the schema; the message names the place.
    """
    file = Path(path)
    try:
        file = file / "manifest.json" if file.is_dir() else file
        text = _read(file).decode()
    except UnicodeDecodeError as error:
        _refuse(file, f"$: it is not UTF-8, first at byte {error.start}", error)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ManifestError(f"{_name_of(file)} cannot be read ({reason})") from error
    return parse_manifest(text, file)


def _read(file: Path) -> bytes:
    pieces: list[bytes] = []
    with file.open("rb") as opened:
        while piece := opened.read(_PIECE_BYTES):
            pieces.append(piece)
            # Counted, not asked for: a pipe or a device does not say how long it is.
            if sum(map(len, pieces)) > MAX_BYTES:
                _refuse(file, f"$: it is longer than {MAX_BYTES:,} bytes")
    return b"".join(pieces)


def parse_manifest(text: str, file: Path) -> Manifest:
    """Check the text of a manifest that came from `file`.

    Raises:
        ManifestError: as `load_manifest`.
    """
    try:
        with _without_collecting():
            data = parse_json(text)
            _check_version(data)
            return _manifest(data, file.parent)
    except ManifestError as error:
        _refuse(file, str(error), error)


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    """Look for no garbage: loading makes none, and looking at it all takes a third of its time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _refuse(file: Path, what: str, cause: Exception | None = None) -> NoReturn:
    raise ManifestError(f"{_name_of(file)}: {on_one_line(what)}") from cause


def _name_of(file: Path) -> str:
    return on_one_line(str(file), 500)


def save_manifest(manifest: Manifest, path: str | Path, *, replacing: str | None = None) -> None:
    """Write a manifest atomically; the folder must exist.

    Args:
        replacing: what `file_digest(path)` was before the inputs were read. Whoever reads a
            manifest, changes it and writes it back gives it, so that nobody's changes are lost.

    Raises:
        FileChanged: the file is no longer the one of `replacing`.
        OSError: the disk is full, read-only, ...; a file that was there is then untouched.
    """
    data = pretty_json(manifest_json(manifest))
    file = Path(path)
    with contextlib.nullcontext() if replacing is None else unchanged(file, replacing):
        write_atomic(file, data)


def manifest_json(manifest: Manifest) -> Json:
    """The manifest as a JSON value, as it stands in the file."""
    found = {
        **manifest.extra,
        "format": FORMAT,
        "version": VERSION,
        "generator": {"name": "histotile", "version": __version__},
        "stores": [entry_json(entry) for entry in manifest.stores],
    }
    if manifest.inputs:
        found["inputs"] = {k: dataclasses.asdict(item) for k, item in manifest.inputs.items()}
    if manifest.splits:
        found["splits"] = [dict(made) for made in manifest.splits]
    return found


@functools.cache
def manifest_schema() -> Json:
    """The JSON schema (draft 2020-12) of the file, for other languages and for `load_manifest`."""
    from importlib.resources import files

    return json.loads(files("manifests").joinpath(_SCHEMA_FILE).read_bytes())


def schema_violation(data: Json) -> str | None:
    """What the JSON schema has to say against a parsed manifest: `$.place: message`, or None."""
    found = _violation(data, manifest_schema())
    return found and f"{found[0]}: {found[1]}"


def _violation(data: Json, schema: Json, better: str | None = None) -> tuple[str, str] | None:
    """Where a value breaks a schema, and how; `better` says it where the schema cannot."""
    import jsonschema

    violations = jsonschema.Draft202012Validator(schema).iter_errors(data)
    try:
        error = jsonschema.exceptions.best_match(itertools.islice(violations, _MOST_VIOLATIONS))
    except RecursionError:
        return "$", "nested too deeply"
    if error is None:
        return None
    unclear = error.validator in ("pattern", "anyOf", "oneOf", "not")
    words = better if better and unclear else error.message
    return on_one_line(error.json_path, 300), words if len(words) < 300 else words[:300] + "…"


def _check_version(data: Json) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ManifestError(
            f'$.format: this is not a histotile manifest: it lacks "format": "{FORMAT}"'
        )
    version = data.get("version")
    if version not in READABLE_VERSIONS or not isinstance(version, int) or version is True:
        raise ManifestError(
            f"$.version: manifest version {short(version)}; "
            f"this version of histotile reads {' and '.join(map(str, READABLE_VERSIONS))}"
        )


def _manifest(data: Json, root: Path) -> Manifest:
    known = {"format", "version", "generator", "stores", "inputs", "splits"}
    # Without the entries: the schema takes a minute for 30,000 of them.
    head = {**data, "stores": []} if isinstance(data.get("stores"), list) else data
    try:
        fields = _known(_without_own_keys(data, "the manifest"), known, {"stores"}, "the manifest")
        found = _list(fields.pop("stores"), "stores")
        rest = _rest(fields)
    except ManifestError as error:
        raise ManifestError(_placed(head, manifest_schema(), error)) from error
    entries = tuple(_entry_at(number, entry) for number, entry in enumerate(found))
    try:
        return Manifest(stores=entries, root=root, extra=_own_keys(data), **rest)
    except ManifestError as error:
        where = _place_in_set(entries, rest["inputs"].keys())
        said = f"{where}: {error}" if where else _placed(head, manifest_schema(), error)
        raise ManifestError(said) from error


def _rest(fields: Mapping[str, Json]) -> dict[str, Any]:
    """What a manifest says besides its entries."""
    if "generator" in fields:
        names = {"name", "version"}
        for key, value in _known(fields["generator"], names, names, "generator").items():
            check_text(value, f"generator.{key}")
    inputs = _object(fields.get("inputs", {}), "inputs")
    return {
        "inputs": {
            key: ManifestInput(**_fields(value, ManifestInput, "inputs"))
            for key, value in inputs.items()
        },
        "splits": tuple(_list(fields.get("splits", []), "splits")),
    }


def _entry_at(number: int, data: Json) -> StoreEntry:
    try:
        return _entry(data)
    except ManifestError as error:
        schema = {"$ref": "#/$defs/store", "$defs": manifest_schema()["$defs"]}
        where = f"$.stores[{number}]"
        raise ManifestError(where + _placed(data, schema, error).removeprefix("$")) from error


def _placed(data: Json, schema: Json, error: ManifestError) -> str:
    """What was refused, with its place: the dataclasses are stricter than the schema and ten times
    as fast, but only the schema can name the place."""
    where, what = _violation(data, schema, str(error)) or ("$", str(error))
    return f"{where}: {what}"


def _place_in_set(entries: Sequence[StoreEntry], inputs: Set[str]) -> str | None:
    """Where the entries contradict each other, though each is fine in itself."""
    ids: set[str] = set()
    for number, entry in enumerate(entries):
        if entry.id in ids:
            return f"$.stores[{number}].id"
        if not inputs >= set(entry.inputs):
            return f"$.stores[{number}].inputs"
        ids.add(entry.id)
    return None


def _entry(data: Json) -> StoreEntry:
    fields = _fields(_without_own_keys(data, "a store"), StoreEntry, "a store")
    if "slide" in fields:
        slide = _fields(fields["slide"], SlideInfo, "slide")
        fields["slide"] = SlideInfo(**_with_tuples(slide, "mpp"))
    if "resolutions" in fields:
        fields["resolutions"] = tuple(
            Resolution(**_with_tuples(_fields(item, Resolution, "a resolution"), "mpp", "scale"))
            for item in _list(fields["resolutions"], "resolutions")
        )
    if "selection" in fields:
        found = _fields(fields["selection"], Selection, "selection")
        steps = tuple(_list(found["steps"], "selection.steps"))
        fields["selection"] = Selection(steps, _tile_sets(found["tiles"], "selection.tiles"))
    if "splits" in fields:
        fields["splits"] = {
            name: _tile_sets(tiles, f"splits.{short(name)}")
            for name, tiles in _object(fields["splits"], "splits").items()
        }
    return StoreEntry(**_with_tuples(fields, "labels", "warnings", "inputs"), extra=_own_keys(data))


def _tile_sets(data: Json, where: str) -> dict[str, TileSet]:
    sets = _object(data, where).items()
    return {group: TileSet.from_json(item, f"{where}.{short(group)}") for group, item in sets}


def _tile_sets_json(sets: TileSets) -> Json:
    return {group: tiles.to_json() for group, tiles in sets.items()}


def _fields(data: Json, kind: type, what: str) -> dict[str, Any]:
    """The keys of an object as fields of a dataclass; unknown keys and gaps are refused."""
    fields = _known(data, *_field_names(kind), what)
    for key, value in fields.items():
        # None stands for an absent key in the dataclasses; in the file it stands for nothing.
        if value is None:
            raise ManifestError(f"{what}: {key} must not be null")
    return fields


def _known(data: Json, known: Set[str], needed: Set[str], what: str) -> dict[str, Any]:
    found = _object(data, what)
    if not needed <= found.keys():
        raise ManifestError(f"{what} lacks {', '.join(sorted(needed - found.keys()))}")
    if not found.keys() <= known:
        raise ManifestError(f"{what} has the unknown key {short(min(found.keys() - known))}")
    return found


def _object(value: Json, what: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise ManifestError(f"{what} must be an object, got {short(value)}")
    found: dict[str, Json] = value
    return found


def _list(value: Json, what: str) -> list[Json]:
    if not isinstance(value, list):
        raise ManifestError(f"{what} must be a list, got {short(value)}")
    return value


@functools.cache
def _field_names(kind: type) -> tuple[frozenset[str], frozenset[str]]:
    """Names of the fields of a dataclass that may stand in the file, and of those that must."""
    fields = [item for item in dataclasses.fields(kind) if item.name != "extra"]
    nothing = dataclasses.MISSING
    needed = [f.name for f in fields if f.default is nothing and f.default_factory is nothing]
    return frozenset(item.name for item in fields), frozenset(needed)


def _with_tuples(fields: dict[str, Any], *names: str) -> dict[str, Any]:
    """The fields with the named JSON lists as tuples; what is no list is left to the checks."""
    found = {name: fields[name] for name in names if isinstance(fields.get(name), list)}
    return {**fields, **{name: tuple(value) for name, value in found.items()}}


def entry_json(entry: StoreEntry) -> Json:
    """An entry as it stands in the file."""
    found = _without_defaults(entry, _all_fields(StoreEntry))
    if entry.slide is not None:
        found["slide"] = _without_defaults(entry.slide, _all_fields(SlideInfo))
    if entry.resolutions:
        names = _all_fields(Resolution)
        found["resolutions"] = [{n: getattr(r, n) for n in names} for r in entry.resolutions]
    if entry.selection is not None:
        steps, tiles = entry.selection.steps, entry.selection.tiles
        found["selection"] = {"steps": [*map(dict, steps)], "tiles": _tile_sets_json(tiles)}
    if entry.splits:
        found["splits"] = {name: _tile_sets_json(s) for name, s in entry.splits.items()}
    return {**found.pop("extra", {}), **found}


def _without_defaults(value: StoreEntry | SlideInfo, names: Sequence[str]) -> dict[str, Any]:
    """The fields that say something; what is None, zero or empty is left out."""
    found = {}
    for name in names:
        if item := getattr(value, name):
            found[name] = dict(item) if isinstance(item, Mapping) else item
    return found


@functools.cache
def _all_fields(kind: type) -> tuple[str, ...]:
    return tuple(item.name for item in dataclasses.fields(kind))


def _own_keys(data: Mapping[str, Json]) -> dict[str, Json]:
    """The keys that users add: they begin with `x-` and are kept on a round trip."""
    return {key: value for key, value in data.items() if key.startswith("x-")}


def _without_own_keys(data: Json, what: str) -> dict[str, Json]:
    if not isinstance(data, dict):
        raise ManifestError(f"{what} must be an object, got {short(data)}")
    return {key: value for key, value in data.items() if not key.startswith("x-")}
