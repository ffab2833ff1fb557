"""A manifest is written above its stores, and never over what others wrote meanwhile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manifests.errors import FileChanged
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Manifest
from manifests.placing import Destination, MisplacedManifest, rebase
from tests.manifests.make_manifest import done_entry, failed_entry

STORES = (
    done_entry("here", path="here.zarr"),
    done_entry("deep", path="a/b/deep.zarr"),
    done_entry("far", path="https://host/far.zarr"),
    failed_entry("broken"),
)


def paths(manifest: Manifest) -> dict[str, str | None]:
    """Where each entry lies."""
    return {entry.id: entry.path for entry in manifest.stores}


def test_paths_follow_the_manifest_up_and_back_down(tmp_path: Path) -> None:
    manifest = Manifest(STORES, tmp_path / "x/y")
    up = rebase(manifest, tmp_path)
    assert paths(up) == {
        "here": "x/y/here.zarr",
        "deep": "x/y/a/b/deep.zarr",
        "far": "https://host/far.zarr",
        "broken": None,
    }
    assert rebase(up, tmp_path / "x/y") == manifest
    deep = replace(manifest, stores=STORES[1:])
    assert paths(rebase(deep, tmp_path / "x/y/a"))["deep"] == "b/deep.zarr"


def test_a_link_to_the_folder_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    manifest = Manifest(STORES, tmp_path / "real")
    assert paths(rebase(manifest, tmp_path / "link")) == paths(manifest)


@pytest.mark.parametrize("folder", ["x/y/a", "x/z", "x/yy", "elsewhere"])
def test_stores_outside_are_refused_naming_the_nearest_folder(folder: str, tmp_path: Path) -> None:
    manifest = Manifest(STORES, tmp_path / "x/y")
    common = {"x/y/a": "x/y", "x/z": "x", "x/yy": "x", "elsewhere": ""}[folder]
    with pytest.raises(MisplacedManifest, match="outside of") as caught:
        rebase(manifest, tmp_path / folder)
    nearest = Path(str(caught.value).rpartition("write this one to ")[2])
    assert nearest == tmp_path / common
    assert rebase(manifest, nearest).root == nearest
    assert caught.value.exit_code == 2


def test_what_others_wrote_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "set.json"
    save_manifest(Manifest(STORES), file)
    mine = Destination(file)
    save_manifest(Manifest(STORES[:1]), file)
    with pytest.raises(FileChanged) as caught:
        mine.save(Manifest(STORES, tmp_path))
    assert caught.value.exit_code == 75
    assert len(load_manifest(file).stores) == 1
    Destination(file).save(Manifest(STORES, tmp_path))
    assert len(load_manifest(file).stores) == len(STORES)


def test_a_folder_that_is_not_there_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(MisplacedManifest, match=r"there is no folder .*nowhere to write"):
        Destination(tmp_path / "nowhere/set.json")
