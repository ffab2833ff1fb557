"""Loading and saving manifests: versioned, validated against the JSON schema, atomic, byte-stable.

A manifest is hostile until checked. Every refusal is one `ManifestError` that names the file and
the place in it. Saving the same manifest twice gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from manifests import __version__
from manifests.checks import check_text, short
from manifests.errors import ManifestError
from manifests.files import Json, pretty_json, write_atomic
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
_SCHEMA_FILE = "manifest-v2.schema.json"


def load_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestError: the file is missing, not JSON, of another format or version, or breaks
            the schema; the message names the place.
    """
    file = Path(path)
    try:
        file = file / "manifest.json" if file.is_dir() else file
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file} cannot be read (it is not UTF-8)") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = error.strerror if isinstance(error, OSError) else error
        raise ManifestError(f"{file} cannot be read ({reason})") from error
    return parse_manifest(text, file)


def parse_manifest(text: str, file: Path) -> Manifest:
    """Check the text of a manifest that came from `file`.

    Raises:
        ManifestError: as `load_manifest`.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{file} is not valid JSON ({error})") from error
    _check_version(data, file)
    try:
        return _manifest(data, file.parent)
    except ManifestError as error:
        # The dataclasses are stricter than the schema and ten times as fast; the schema is asked
        # only where it can name the place in the file.
        raise ManifestError(f"{file}: {schema_violation(data) or error}") from error


def save_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest atomically; the folder must exist.

    Raises:
        OSError: the disk is full, read-only, ...; a file that was there is then untouched.
    """
    write_atomic(Path(path), pretty_json(manifest_json(manifest)))


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
    import jsonschema

    validator = jsonschema.Draft202012Validator(manifest_schema())
    try:
        error = jsonschema.exceptions.best_match(validator.iter_errors(data))
    except RecursionError:
        return "$: nested too deeply"
    if error is None:
        return None
    message = error.message if len(error.message) < 300 else error.message[:300] + "…"
    return f"{error.json_path}: {message}"


def _check_version(data: Json, path: Path) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ManifestError(f'{path} is not a histotile manifest: it lacks "format": "{FORMAT}"')
    version = data.get("version")
    if version not in READABLE_VERSIONS or not isinstance(version, int) or version is True:
        raise ManifestError(
            f"{path} has manifest version {short(version)}; "
            f"this version of histotile reads {' and '.join(map(str, READABLE_VERSIONS))}"
        )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {short(twice)} stands twice in one object")
    return found


def _manifest(data: Json, root: Path) -> Manifest:
    known = {"format", "version", "generator", "stores", "inputs", "splits"}
    fields = _known(_without_own_keys(data, "the manifest"), known, {"stores"}, "the manifest")
    if "generator" in fields:
        names = {"name", "version"}
        for key, value in _known(fields["generator"], names, names, "generator").items():
            check_text(value, f"generator.{key}")
    entries = tuple(_entry(entry) for entry in _list(fields["stores"], "stores"))
    inputs = _object(fields.get("inputs", {}), "inputs")
    return Manifest(
        stores=entries,
        root=root,
        inputs={k: ManifestInput(**_fields(v, ManifestInput, "inputs")) for k, v in inputs.items()},
        splits=tuple(_list(fields.get("splits", []), "splits")),
        extra=_own_keys(data),
    )


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
    found = _without_defaults(entry)
    if entry.slide is not None:
        found["slide"] = _without_defaults(entry.slide)
    if entry.resolutions:
        found["resolutions"] = [dataclasses.asdict(item) for item in entry.resolutions]
    if entry.selection is not None:
        steps, tiles = entry.selection.steps, entry.selection.tiles
        found["selection"] = {"steps": [*map(dict, steps)], "tiles": _tile_sets_json(tiles)}
    if entry.splits:
        found["splits"] = {name: _tile_sets_json(s) for name, s in entry.splits.items()}
    return {**found.pop("extra", {}), **found}


def _without_defaults(value: StoreEntry | SlideInfo) -> dict[str, Any]:
    """The fields that say something; what is None, zero or empty is left out."""
    found = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    plain = {key: dict(item) if isinstance(item, Mapping) else item for key, item in found.items()}
    return {key: item for key, item in plain.items() if item not in (None, (), {}, False)}


def _own_keys(data: Mapping[str, Json]) -> dict[str, Json]:
    """The keys that users add: they begin with `x-` and are kept on a round trip."""
    return {key: value for key, value in data.items() if key.startswith("x-")}


def _without_own_keys(data: Json, what: str) -> dict[str, Json]:
    if not isinstance(data, dict):
        raise ManifestError(f"{what} must be an object, got {short(data)}")
    return {key: value for key, value in data.items() if not key.startswith("x-")}
