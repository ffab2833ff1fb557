"""What a manifest in memory refuses, above all paths that lead out of its folder."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import ManifestError
from manifests.jsonfile import load_manifest, manifest_json
from manifests.model import Manifest, Resolution, SlideInfo
from tests.manifests.make_manifest import done_entry, failed_entry

PATH_TRICKS = [
    "",
    ".",
    "./",
    "././.",
    "..",
    "../a.zarr",
    "../../etc/passwd",
    "a/..",
    "a/../b",
    "a/../../b",
    "./../a",
    "a/b/../../../c",
    "a/./../..",
    "a//../..//b",
    "/",
    "//",
    "//server/share",
    "/etc/passwd",
    "/tmp/a.zarr",
    "///a",
    "~",
    "~/a.zarr",
    "~root/a.zarr",
    "~nobody",
    "\\",
    "\\\\server\\share",
    "..\\a",
    "a\\..\\..\\b",
    "a\\b",
    "C:",
    "C:\\a",
    "C:/a",
    "c:a.zarr",
    "a:b",
    "file:///etc/passwd",
    "http://example.org/a.zarr",
    "s3://user:key@bucket/a.zarr",
    "s3://bucket/../a.zarr",
    "https://host/a%2F..%2Fb",
    "https://host/a.zarr?token=1",
    "\0",
    "a\0b",
    "a.zarr\0.png",
    "\0/etc/passwd",
    "a\n",
    "\n",
    "a\n../b",
    "..\n",
    "\ud800",
    "a/\udcff",
    "a" * 5000,
    "a/" * 3000 + "b",
    "../" * 500 + "etc/passwd",
    "file:/etc/passwd",
    "FILE:///etc/passwd",
    "HTTPS://host/a.zarr",
    "ftp://host/a.zarr",
    "javascript://host/a.zarr",
    "s3+https://host/a.zarr",
    "https:",
    "https:/host/a.zarr",
    "https://",
    "https:///etc/passwd",
    "https://host",
    "https://host/",
    "https://host//a.zarr",
    "https://host/..",
    "https://host/a/../../b",
    "https://host/%2e%2e/b",
    "https://host/.%2E/b",
    "https://host/a%00b",
    "https://host/a%5C..%5Cb",
    "https://host/a\\..\\b",
    "https://host/a.zarr#part",
    "https://host/a b",
    "https://host/a\n",
    "https://host:port/a.zarr",
    "https://host:123456/a.zarr",
    "https://[::1]/a.zarr",
    "https://user@host/a.zarr",
    "https://höst/a.zarr",
    "https://host/" + "a" * 5000,
    "/" * 4097,
]


@pytest.mark.parametrize("path", PATH_TRICKS, ids=[ascii(p)[:30] for p in PATH_TRICKS])
def test_paths_that_are_absolute_or_lead_out_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ManifestError):
        done_entry(path=path)
    value = json.loads(json.dumps(manifest_json(Manifest((done_entry(),)))))
    value["stores"][0]["path"] = path
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", [None, 7, ["a"], b"a.zarr", Path("a.zarr")])
def test_paths_of_another_type_are_refused(path: Any) -> None:
    with pytest.raises(ManifestError):
        done_entry(path=path)


@pytest.mark.parametrize(
    "path", ["a.zarr", "deep/er/a.zarr", "a..zarr", "..a", "...", ".hidden", "a b", "é/日本.zarr"]
)
def test_plain_relative_paths_are_taken(tmp_path: Path, path: str) -> None:
    manifest = Manifest((done_entry(path=path),), root=tmp_path)
    assert manifest.store_path(manifest.stores[0]) == tmp_path / path


@pytest.mark.parametrize("target", ["..", "../outside", "/", "/etc", "inside/../../outside"])
def test_links_that_lead_out_of_the_folder_are_refused(tmp_path: Path, target: str) -> None:
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(target)
    for path in ("link", "link/a.zarr", "link/b/c"):
        entry = done_entry(path=path)
        with pytest.raises(ManifestError, match="leads out of the manifest's folder"):
            Manifest((entry,), root=root).store_path(entry)


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk1/a.zarr").mkdir(parents=True)
    (tmp_path / "a.zarr").symlink_to("disk1/a.zarr")
    manifest = Manifest((done_entry(path="a.zarr"),), root=tmp_path)
    assert manifest.store_path(manifest.stores[0]).resolve() == tmp_path / "disk1/a.zarr"


def test_a_root_that_is_itself_a_link_is_no_way_out(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    manifest = Manifest((done_entry(path="a.zarr"),), root=tmp_path / "link")
    assert manifest.store_path(manifest.stores[0]) == tmp_path / "link/a.zarr"


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="resolve() no longer refuses rings")
def test_a_ring_of_links_is_a_manifest_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    manifest = Manifest((done_entry(path="a/store.zarr"),), root=tmp_path)
    with pytest.raises(ManifestError, match="cannot be followed"):
        manifest.store_path(manifest.stores[0])


def test_refusing_a_path_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_args: object, **_settings: object) -> None:
        raise AssertionError("a refused path was looked up")

    for name in ("stat", "lstat", "open", "readlink", "listdir"):
        monkeypatch.setattr(os, name, touched)
    for path in PATH_TRICKS:
        with pytest.raises(ManifestError):
            done_entry(path=path)


NAMES = ["", ".", "..", "a/b", "/a", "a\\b", "C:", "a\0", "a\n", "x" * 201, "é" * 101, "\ud800"]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(n)[:20] for n in NAMES])
def test_ids_and_groups_are_one_plain_name(name: str) -> None:
    with pytest.raises(ManifestError):
        done_entry(id=name)
    with pytest.raises(ManifestError):
        Resolution(name, (0.5, 0.5), 0.5, 256, 1, 0, (1.0, 1.0))


def test_why_there_is_no_store_is_said_on_one_line_that_steers_no_terminal() -> None:
    hostile = failed_entry("\u202e\x1b[2J", reason="two\nlines " + "and more " * 500)
    with pytest.raises(ManifestError) as caught:
        Manifest().store_path(hostile)
    assert str(caught.value).startswith("\\u202e\\x1b[2J failed and has no store: two\\nlines")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 2000


def test_a_failed_slide_has_no_store_path() -> None:
    with pytest.raises(ManifestError, match="slide-2 failed and has no store: no reader opens"):
        Manifest().store_path(failed_entry())


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "ok"},
        {"status": "failed"},
        {"status": ["done"]},
        {"path": None},
        {"uuid": None},
        {"uuid": "12345678-1234-5678-1234-56781234567G"},
        {"uuid": "12345678-1234-5678-1234-567812345678\n"},
        {"spec_hash": "AB" * 32},
        {"spec_hash": None},
        {"source": ""},
        {"organ": ""},
        {"stain": 7},
        {"packed": 1},
        {"labels": ["a"]},
        {"labels": ("a", "")},
        {"warnings": "one"},
        {"bytes": -1},
        {"bytes": 1.0},
        {"bytes": True},
        {"dropped": {"tissue": -1}},
        {"dropped": {7: 1}},
        {"dropped": []},
        {"columns": {"batch": 7}},
        {"codec": {}},
        {"codec": {"name": "webp"}},
        {"codec": {"name": "jpeg", "quality": math.nan}},
        {"codec": {"name": "jpeg", "quality": object()}},
        {"codec": ["jpeg"]},
        {"extra": {"own": 1}},
        {"extra": {"x-own": {1: 2}}},
        {"extra": {"x-own": math.inf}},
    ],
    ids=str,
)
def test_an_entry_that_exists_is_valid(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        done_entry(**changes)


@pytest.mark.parametrize("value", [0, -0.5, math.nan, math.inf, 2e9, "0.5", None, True])
def test_resolutions_are_positive_numbers(value: Any) -> None:
    fine: dict[str, Any] = {
        "group": "0.5",
        "mpp": (0.5, 0.5),
        "mpp_requested": 0.5,
        "tile_size": 256,
        "tiles": 0,
        "level": 0,
        "scale": (1.0, 1.0),
    }
    Resolution(**fine)
    for wrong in ({"mpp": (0.5, value)}, {"mpp_requested": value}, {"scale": (value, 1.0)}):
        with pytest.raises(ManifestError, match="must be a number above 0"):
            Resolution(**{**fine, **wrong})
    with pytest.raises(ManifestError):
        SlideInfo("tiff", "generic", "jpeg", "sha256:00", mpp=(value, 0.5))


@pytest.mark.parametrize("value", [-1, 0.5, 65536, "1", None, True, 10**400])
def test_counts_are_integers_in_their_range(value: Any) -> None:
    with pytest.raises(ManifestError, match=r"resolutions\.tile_size"):
        Resolution("0.5", (0.5, 0.5), 0.5, value, 1, 0, (1.0, 1.0))


def test_duplicate_ids_are_named_however_many_there_are() -> None:
    entries = tuple(failed_entry(f"slide-{i // 2}") for i in range(40_000))
    with pytest.raises(ManifestError, match="two entries with the id slide-0, ") as caught:
        Manifest(entries)
    assert len(str(caught.value)) < 300


def test_own_keys_of_the_manifest_begin_with_x() -> None:
    with pytest.raises(ManifestError, match="unknown key 'note'; own keys begin with x-"):
        Manifest(extra={"note": 1})


def test_committed_entries_are_those_with_tiles() -> None:
    manifest = Manifest((failed_entry("a"), done_entry("b"), done_entry("c", status="empty")))
    assert [entry.id for entry in manifest.committed()] == ["b"]
    assert manifest.stores[1].tiles == 1500
