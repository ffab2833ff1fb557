"""Loading and saving manifests: what is kept, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.errors import ManifestError
from manifests.files import pretty_json
from manifests.jsonfile import (
    load_manifest,
    manifest_json,
    manifest_schema,
    parse_manifest,
    save_manifest,
    schema_violation,
)
from manifests.model import Manifest, Resolution, SlideInfo, StoreEntry
from tests.manifests.make_manifest import done_entry, failed_entry, full_manifest

Place = tuple[str | int, ...]
"""Where a value stands in a parsed manifest."""


def valid() -> dict[str, Any]:
    """A fresh parsed manifest; entry 1 has every field."""
    return json.loads(pretty_json(manifest_json(full_manifest())))  # type: ignore[no-any-return]


def load_value(folder: Path, value: object) -> Manifest:
    """Write any JSON value as a manifest and load it."""
    file = folder / "manifest.json"
    file.write_text(json.dumps(value), encoding="utf-8")
    return load_manifest(file)


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """Every place in a JSON value, the root first."""
    yield here
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*here, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, (*here, number))


def put(value: Any, where: Place, new: object) -> Any:
    """A copy with another value at one place."""
    if not where:
        return new
    found = copy.deepcopy(value)
    inner = found
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = new
    return found


def test_saving_and_loading_keeps_the_manifest_and_its_bytes(tmp_path: Path) -> None:
    file, again = tmp_path / "manifest.json", tmp_path / "again.json"
    save_manifest(full_manifest(), file)
    found = load_manifest(file)
    assert found == full_manifest()
    assert found.root == tmp_path
    save_manifest(found, again)
    assert again.read_bytes() == file.read_bytes()


def test_a_folder_stands_for_the_manifest_in_it(tmp_path: Path) -> None:
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    assert load_manifest(tmp_path) == load_manifest(str(tmp_path / "manifest.json"))


def test_the_order_of_entries_and_keys_does_not_change_the_file(tmp_path: Path) -> None:
    value = valid()
    shuffled = {key: value[key] for key in reversed(value)}
    shuffled["stores"] = [dict(reversed(entry.items())) for entry in reversed(value["stores"])]
    save_manifest(load_value(tmp_path, shuffled), tmp_path / "again.json")
    save_manifest(full_manifest(), tmp_path / "first.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "first.json").read_bytes()


@pytest.mark.parametrize("where", [(), ("stores", 1)])
def test_own_keys_survive_a_round_trip(tmp_path: Path, where: Place) -> None:
    own = {"deep": [1, 2.5, None, {"µ": "é\n"}], "big": 2**70}
    value = put(valid(), (*where, "x-own"), own)
    save_manifest(load_value(tmp_path, value), tmp_path / "again.json")
    found = json.loads((tmp_path / "again.json").read_bytes())
    assert found == value


@pytest.mark.parametrize(
    ("where", "place"),
    [
        ((), "$: "),
        (("stores", 1), "$.stores[1]: "),
        (("stores", 1, "slide"), "$.stores[1].slide: "),
        (("stores", 1, "resolutions", 0), "$.stores[1].resolutions[0]: "),
        (("generator",), "$.generator: "),
    ],
)
@pytest.mark.parametrize("key", ["colour", "extra", "root", "X-own", "_x-own", ""])
def test_unknown_keys_are_refused_with_their_place(
    tmp_path: Path, where: Place, place: str, key: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        load_value(tmp_path, put(valid(), (*where, key), 1))
    assert place in str(caught.value)
    assert repr(key) in str(caught.value)


@pytest.mark.parametrize("where", [("stores", 1, "slide"), ("stores", 1, "resolutions", 0)])
def test_own_keys_are_not_dropped_silently_where_they_have_no_home(
    tmp_path: Path, where: Place
) -> None:
    with pytest.raises(ManifestError, match="x-own"):
        load_value(tmp_path, put(valid(), (*where, "x-own"), 1))


def test_a_manifest_says_which_version_wrote_it() -> None:
    installed = importlib.metadata.version("histotile")
    assert valid()["generator"] == {"name": "histotile", "version": installed}


@pytest.mark.parametrize("version", [0, 3, "1", True, None, 1.5, [1], 10**300])
def test_other_versions_are_refused_by_number(tmp_path: Path, version: object) -> None:
    with pytest.raises(ManifestError, match=r"manifest version .*; this version of histotile"):
        load_value(tmp_path, put(valid(), ("version",), version))


@pytest.mark.parametrize("value", [None, [], "histotile-manifest", 1, {}, {"format": "other"}])
def test_other_json_is_no_manifest(tmp_path: Path, value: object) -> None:
    with pytest.raises(ManifestError, match='lacks "format": "histotile-manifest"'):
        load_value(tmp_path, value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": [Infinity]}', "Infinity is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 100_000, "not valid JSON"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b'{"a": "\xff"}', "it is not UTF-8"),
        ("{}".encode("utf-16"), "it is not UTF-8"),
        (b'{"a": 01}', "not valid JSON"),
        (b'{"a": "\n"}', "not valid JSON"),
    ],
)
def test_texts_that_are_no_json_are_refused(tmp_path: Path, text: bytes, reason: str) -> None:
    file = tmp_path / "manifest.json"
    file.write_bytes(text)
    with pytest.raises(ManifestError) as caught:
        load_manifest(file)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_duplicate_keys_are_refused_in_entries_too(tmp_path: Path) -> None:
    text = pretty_json(valid()).replace(b'"organ": "breast"', b'"organ": "breast", "organ": "skin"')
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(ManifestError, match="the key 'organ' stands twice"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("value", ["1e999", "-1e999", "[[1e400]]"])
@pytest.mark.parametrize("where", ["x-own", "codec"])
def test_numbers_too_large_for_json_readers_are_refused(
    tmp_path: Path, value: str, where: str
) -> None:
    # Python reads 1e999 as infinity, which it could then not write.
    text = json.dumps(put(valid(), ("stores", 1, where), {"name": "jpeg", "a": "HERE"}))
    (tmp_path / "manifest.json").write_text(text.replace('"HERE"', value))
    with pytest.raises(ManifestError, match="is not a JSON number"):
        load_manifest(tmp_path)


def test_deep_nesting_in_own_keys_is_refused_not_recursed_into(tmp_path: Path) -> None:
    def nested(depth: int) -> object:
        return [nested(depth - 1)] if depth else 1

    assert load_value(tmp_path, put(valid(), ("x-own",), nested(30))).extra["x-own"] == nested(30)
    for where in (("x-own",), ("stores", 1, "x-own"), ("stores", 1, "codec", "a")):
        for depth in (40, 300, 900):
            with pytest.raises(ManifestError, match="nested deeper than 32 levels"):
                load_value(tmp_path, put(valid(), where, nested(depth)))
    for where in (("stores",), ("stores", 1, "organ"), ("stores", 1, "slide", "mpp")):
        with pytest.raises(ManifestError):
            load_value(tmp_path, put(valid(), where, nested(900)))


WRONG: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1.5,
    -0.5,
    10**300,
    2**53 + 2,
    "",
    "text",
    [],
    [1],
    {},
    {"a": 1},
)


def test_every_value_of_a_wrong_type_is_a_manifest_error_or_valid_by_the_schema(
    tmp_path: Path,
) -> None:
    # All places of a full manifest times all sorts of values: the schema is the oracle.
    refused = accepted = 0
    base = valid()
    for where in places(base):
        for wrong in WRONG:
            value = put(base, where, wrong)
            try:
                parse_manifest(json.dumps(value), tmp_path / "manifest.json")
            except ManifestError:
                refused += 1
            else:
                accepted += 1
                assert schema_violation(value) is None, (where, wrong)
    assert refused > 900
    assert accepted > 100


@pytest.mark.parametrize(
    ("where", "wrong", "place"),
    [
        (("stores", 1, "bytes"), -1, "$.stores[1].bytes: -1"),
        (("stores", 1, "organ"), 7, "$.stores[1].organ: 7"),
        (("stores", 1, "resolutions", 1, "mpp", 0), 0, "$.stores[1].resolutions[1].mpp[0]: 0"),
        (("stores", 1, "slide", "width"), "wide", "$.stores[1].slide.width: 'wide'"),
        (("stores",), {}, "$.stores: {}"),
        (("stores", 0, "uuid"), "no", "$.stores[0].uuid: slide-0: 'no' is not a UUID"),
    ],
)
def test_refusals_name_the_file_and_the_place(
    tmp_path: Path, where: Place, wrong: object, place: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        load_value(tmp_path, put(valid(), where, wrong))
    assert str(caught.value).startswith(f"{tmp_path / 'manifest.json'}: {place}")


@pytest.mark.parametrize(
    "where",
    [("stores", 1, key) for key in ("id", "status", "source", "path", "uuid", "spec_hash")]
    + [("stores", 2, "reason"), ("stores",), ("stores", 1, "slide", "reader")]
    + [("stores", 1, "resolutions", 0, field.name) for field in dataclasses.fields(Resolution)],
)
def test_keys_that_an_entry_needs_cannot_be_left_out(tmp_path: Path, where: Place) -> None:
    value = valid()
    inner: Any = value
    for key in where[:-1]:
        inner = inner[key]
    del inner[where[-1]]
    assert schema_violation(value) is not None
    with pytest.raises(ManifestError, match=str(where[-1])):
        load_value(tmp_path, value)


def test_a_failed_slide_has_no_path_in_schema_and_classes_alike(tmp_path: Path) -> None:
    value = put(valid(), ("stores", 2, "path"), "a.zarr")
    assert schema_violation(value) is not None
    with pytest.raises(ManifestError):
        load_value(tmp_path, value)


def test_two_entries_of_one_id_are_refused(tmp_path: Path) -> None:
    value = valid()
    value["stores"].append(value["stores"][0])
    with pytest.raises(ManifestError, match="two entries with the id slide-0"):
        load_value(tmp_path, value)


def test_lone_surrogates_are_refused_since_they_cannot_be_saved(tmp_path: Path) -> None:
    for where in (("stores", 1, "organ"), ("x-own",), ("stores", 1, "columns", "batch")):
        with pytest.raises(ManifestError, match="not valid Unicode"):
            load_value(tmp_path, put(valid(), where, "\ud800"))
    with pytest.raises(ManifestError, match="not valid Unicode"):
        load_value(tmp_path, put(valid(), ("stores", 1, "columns", "\udc80"), ""))


@pytest.mark.parametrize("name", ["missing.json", "a\0b", "n" * 5000])
def test_a_manifest_that_cannot_be_read_is_a_manifest_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError):
        load_manifest(tmp_path / name)


def test_schema_and_classes_have_the_same_fields() -> None:
    schema = manifest_schema()["$defs"]
    for name, kind in (("store", StoreEntry), ("slide", SlideInfo), ("resolution", Resolution)):
        fields = {field.name: field for field in dataclasses.fields(kind)}
        fields.pop("extra", None)
        assert schema[name]["properties"].keys() == fields.keys()
        missing = dataclasses.MISSING
        needed = {
            field.name
            for field in fields.values()
            if field.default is missing and field.default_factory is missing
        }
        assert set(schema[name]["required"]) == needed


def test_the_schema_is_itself_valid_and_accepts_what_is_saved() -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(manifest_schema())
    assert schema_violation(valid()) is None
    assert schema_violation(manifest_json(Manifest())) is None


def test_a_failed_save_keeps_the_old_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "manifest.json"
    save_manifest(Manifest((done_entry(),)), file)
    before = file.read_bytes()

    def fsync(_descriptor: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="no space"):
            save_manifest(Manifest((failed_entry(),)), file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**52, 2**54)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", ".", "..", "../a", "/etc", "~", "a/b", "a\n", "1" * 64, "x" * 201])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=5,
)
PLACES = st.sampled_from(list(places(valid())))


@given(edits=st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=3), key=st.text(max_size=4))
@settings(deadline=None, max_examples=300)
def test_a_mutated_manifest_loads_and_is_valid_or_raises_a_manifest_error(
    edits: list[tuple[Place, object]], key: str
) -> None:
    value: Any = valid()
    for where, new in edits:
        try:
            value = put(value, where, new)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier edit removed the place
    if isinstance(value, dict) and len(key) > 2:
        value[key] = 1
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = load_value(Path(folder), value)
        except ManifestError:
            return
        assert schema_violation(value) is None
        again = Path(folder, "again.json")
        save_manifest(found, again)
        assert load_manifest(again) == found


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_mutated_bytes_load_or_raise_a_manifest_error(data: st.DataObject) -> None:
    text = bytearray(pretty_json(valid()))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text) - 1))
        length = data.draw(st.integers(0, 6))
        text[start : start + length] = data.draw(st.binary(max_size=6))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "manifest.json")
        file.write_bytes(text)
        try:
            found = load_manifest(file)
        except ManifestError:
            return
        save_manifest(found, file)
        assert load_manifest(file) == found
