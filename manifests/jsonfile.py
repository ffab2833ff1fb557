"""Loading and saving manifests: versioned, validated against the JSON schema, atomic, byte-stable.

A manifest is hostile until checked. Every refusal is one `ManifestError` that names the file and
the place in it. Saving the same manifest twice gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from manifests.errors import ManifestError
from manifests.files import Json, pretty_json, write_atomic
from manifests.model import Manifest, Resolution, SlideInfo, StoreEntry

FORMAT = "histotile-manifest"
VERSION = 1
_SCHEMA_FILE = "manifest-v1.schema.json"


def load_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        ManifestError: the file is missing, not JSON, of another format or version, or breaks
            the schema; the message names the place.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "manifest.json"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path} cannot be read ({error.strerror})") from error
    try:
        data = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is not valid JSON ({error})") from error
    _check_version(data, path)
    _check_schema(data, path)
    try:
        return _manifest(data, path.parent)
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def save_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a manifest atomically; the folder must exist."""
    write_atomic(Path(path), pretty_json(manifest_json(manifest)))


def manifest_json(manifest: Manifest) -> Json:
    """The manifest as a JSON value, as it stands in the file."""
    return {
        **manifest.extra,
        "format": FORMAT,
        "version": VERSION,
        "generator": {"name": "histotile", "version": importlib.metadata.version("histotile")},
        "stores": [_entry_json(entry) for entry in manifest.stores],
    }


@functools.cache
def manifest_schema() -> Json:
    """The JSON schema (draft 2020-12) of the file, for other languages and for `load_manifest`."""
    return json.loads(files("manifests").joinpath(_SCHEMA_FILE).read_bytes())


def _check_version(data: Json, path: Path) -> None:
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ManifestError(f'{path} is not a histotile manifest: it lacks "format": "{FORMAT}"')
    if data.get("version") != VERSION or isinstance(data["version"], bool):
        raise ManifestError(
            f"{path} has manifest version {data.get('version')!r}; this histotile reads {VERSION}"
        )


def _check_schema(data: Json, path: Path) -> None:
    import jsonschema

    validator = jsonschema.Draft202012Validator(manifest_schema())
    error = jsonschema.exceptions.best_match(validator.iter_errors(data))
    if error is not None:
        message = error.message if len(error.message) < 300 else error.message[:300] + "…"
        raise ManifestError(f"{path}: {error.json_path}: {message}")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return found


def _manifest(data: Json, root: Path) -> Manifest:
    return Manifest(
        stores=tuple(_entry(entry) for entry in data["stores"]), root=root, extra=_extra(data)
    )


def _entry(data: Json) -> StoreEntry:
    fields = {key: value for key, value in data.items() if not key.startswith("x-")}
    if "slide" in fields:
        slide = fields["slide"]
        mpp = slide.get("mpp")
        fields["slide"] = SlideInfo(**{**slide, "mpp": None if mpp is None else tuple(mpp)})
    fields["resolutions"] = tuple(
        Resolution(**{**item, "mpp": tuple(item["mpp"]), "scale": tuple(item["scale"])})
        for item in fields.get("resolutions", ())
    )
    fields["labels"] = tuple(fields.get("labels", ()))
    fields["warnings"] = tuple(fields.get("warnings", ()))
    return StoreEntry(**fields, extra=_extra(data))


def _entry_json(entry: StoreEntry) -> Json:
    found = _without_defaults(entry)
    if entry.slide is not None:
        found["slide"] = _without_defaults(entry.slide)
    if entry.resolutions:
        found["resolutions"] = [dataclasses.asdict(item) for item in entry.resolutions]
    return {**found.pop("extra", {}), **found}


def _without_defaults(value: StoreEntry | SlideInfo) -> dict[str, Any]:
    """The fields that say something; what is None or empty is left out."""
    found = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    return {key: item for key, item in found.items() if item not in (None, (), {}, False)}


def _extra(data: Mapping[str, Json]) -> dict[str, Json]:
    return {key: value for key, value in data.items() if key.startswith("x-")}
