"""Relinking: which store counts as found, which is left out, and where paths lead afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from manifests.cli.changing import relink
from manifests.combine.relink import (
    Relinked,
    StoresNotFound,
    WrongPrefix,
    relink_below,
    relink_prefix,
)
from manifests.errors import ManifestError
from manifests.jsonfile import load_manifest, save_manifest
from manifests.model import Manifest
from manifests.store import open_store
from tests.manifests.make_manifest import failed_entry
from tests.manifests.make_set import make_tiny_store, tiny_set


def places(found: Relinked) -> dict[str, str | None]:
    """Path of each entry; those on this machine are opened, so they are the right ones."""
    for entry in found.manifest.stores:
        if entry.path is not None and not entry.is_remote:
            open_store(found.manifest, entry)
    return {entry.id: entry.path for entry in found.manifest.stores}


@pytest.mark.parametrize(
    "new",
    ["new/lung/a.zarr", "new/a.zarr", "new/archive/2024/lung/a.zarr", "new/deep/other.zarr"],
    ids=["old path", "end of it", "below another", "renamed"],
)
def test_a_store_is_found_by_its_path_its_end_or_its_uuid(tmp_path: Path, new: str) -> None:
    manifest = tiny_set(tmp_path / "old", "lung/a.zarr", "lung/b.zarr")
    (tmp_path / new).parent.mkdir(parents=True)
    shutil.move(tmp_path / "old/lung/a.zarr", tmp_path / new)
    shutil.move(tmp_path / "old/lung/b.zarr", tmp_path / "new/b.zarr")
    found = relink_below(manifest, tmp_path / "new", tmp_path)
    assert places(found) == {"a": new, "b": "new/b.zarr"}
    assert (found.moved, found.kept, found.left_out) == (("a", "b"), (), {})


def test_names_that_were_swapped_do_not_deceive(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path, "a.zarr", "b.zarr")
    (tmp_path / "a.zarr").rename(tmp_path / "c")
    (tmp_path / "b.zarr").rename(tmp_path / "a.zarr")
    (tmp_path / "c").rename(tmp_path / "b.zarr")
    assert places(relink_below(manifest, tmp_path, tmp_path)) == {"a": "b.zarr", "b": "a.zarr"}


def test_the_longest_end_of_a_path_that_fits_wins(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path / "old", "x/a.zarr")
    for copy in ("new/x/a.zarr", "new/a.zarr", "new/z.zarr"):
        shutil.copytree(tmp_path / "old/x/a.zarr", tmp_path / copy)
    found = relink_below(manifest, tmp_path / "new", tmp_path / "new")
    assert places(found) == {"a": "x/a.zarr"}


def test_a_store_in_two_places_of_other_names_is_not_chosen_between(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path / "old", "a.zarr")
    for copy in ("new/y.zarr", "new/z.zarr"):
        shutil.copytree(tmp_path / "old/a.zarr", tmp_path / copy)
    with pytest.raises(StoresNotFound, match=r"a: it lies in two places, y\.zarr and z\.zarr"):
        relink_below(manifest, tmp_path / "new", tmp_path)


def test_of_copies_the_one_counts_whose_path_ends_most_like_the_old_one(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path / "old", "lung/x/a.zarr")
    for copy in ("new/1/y/a.zarr", "new/2/x/a.zarr", "new/z.zarr"):
        shutil.copytree(tmp_path / "old/lung/x/a.zarr", tmp_path / copy)
    assert places(relink_below(manifest, tmp_path / "new", tmp_path)) == {"a": "new/2/x/a.zarr"}


def test_a_damaged_copy_is_passed_over_for_a_whole_one(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path / "old", "x/a.zarr")
    for copy in ("new/x/a.zarr", "new/y.zarr"):
        shutil.copytree(tmp_path / "old/x/a.zarr", tmp_path / copy)
    (tmp_path / "new/x/a.zarr/commit.json").write_text("{}")
    found = relink_below(manifest, tmp_path / "new", tmp_path)
    assert places(found) == {"a": "new/y.zarr"}


def test_every_store_that_is_not_found_is_listed_with_why(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path / "old", "a.zarr", "b.zarr", "c.zarr", "d.zarr", "e.zarr")
    shutil.copytree(tmp_path / "old/a.zarr", tmp_path / "new/a.zarr")
    shutil.copytree(tmp_path / "old/b.zarr", tmp_path / "new/b.zarr")
    (tmp_path / "new/b.zarr/commit.json").unlink()
    make_tiny_store(tmp_path / "new/c.zarr", 2, {"0.5": 6})  # cut again: another commit
    outside = tmp_path / "elsewhere/d.zarr"
    shutil.copytree(tmp_path / "old/d.zarr", outside)
    (tmp_path / "new/d.zarr").symlink_to(outside)
    with pytest.raises(StoresNotFound) as caught:
        relink_below(manifest, tmp_path / "new", tmp_path)
    assert caught.value.exit_code == 5
    reasons = caught.value.reasons
    assert sorted(reasons) == ["b", "c", "d", "e"]
    assert "no store below" in reasons["b"]
    assert "was cut again, or changed" in reasons["c"]
    assert "no store below" in reasons["e"]
    assert all(f"\n  {name}: " in str(caught.value) for name in reasons)

    found = relink_below(manifest, tmp_path / "new", tmp_path, partial=True)
    assert places(found) == {"a": "new/a.zarr"}
    assert found.left_out == reasons


def test_long_lists_are_cut_in_the_text_alone(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path / "old", *(f"{n:02d}.zarr" for n in range(23)))
    (tmp_path / "new").mkdir()
    with pytest.raises(StoresNotFound, match="23 stores were not found") as caught:
        relink_below(manifest, tmp_path / "new", tmp_path)
    assert len(caught.value.reasons) == 23
    assert str(caught.value).count("\n  ") == 21
    assert str(caught.value).endswith("and 3 more")


def test_a_store_that_was_fetched_from_a_url_is_found(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path / "old", "x/a.zarr", "x/b.zarr")
    remote = [replace(e, path=f"s3://bucket/set/{e.path}") for e in manifest.stores]
    shutil.move(tmp_path / "old/x/a.zarr", tmp_path / "new/set/x/a.zarr")
    found = relink_below(Manifest(tuple(remote)), tmp_path / "new", tmp_path / "new")
    assert places(found) == {"a": "set/x/a.zarr", "b": "s3://bucket/set/x/b.zarr"}
    assert (found.moved, found.kept) == (("a",), ("b",))


def test_an_entry_without_a_commit_is_found_by_its_uuid_alone(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path, "a.zarr", commit=None)
    make_tiny_store(tmp_path / "a.zarr", 0, {"0.5": 5}, attributes={"warnings": ["later"]})
    assert places(relink_below(manifest, tmp_path, tmp_path)) == {"a": "a.zarr"}


def test_a_manifest_must_lie_above_its_stores(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path / "new", "a.zarr")
    (tmp_path / "out").mkdir()
    with pytest.raises(ManifestError, match="lies outside of") as caught:
        relink_below(manifest, tmp_path / "new", tmp_path / "out")
    assert caught.value.exit_code == 2


def test_slides_that_failed_are_kept(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path, "a.zarr")
    both = replace(manifest, stores=(*manifest.stores, failed_entry("f")))
    assert places(relink_below(both, tmp_path, tmp_path)) == {"a": "a.zarr", "f": None}
    assert places(relink_prefix(both, ".", str(tmp_path), tmp_path)) == {"a": "a.zarr", "f": None}


@pytest.mark.parametrize("old", ["x", "x/", "./x", "ABSOLUTE"])
def test_a_folder_becomes_another(tmp_path: Path, old: str) -> None:
    manifest = tiny_set(tmp_path / "set", "x/a.zarr", "xy/b.zarr")
    shutil.move(tmp_path / "set/x", tmp_path / "set/moved/here")
    begin = str(tmp_path / "set/x") if old == "ABSOLUTE" else old
    found = relink_prefix(manifest, begin, str(tmp_path / "set/moved/here"), tmp_path / "set")
    assert places(found) == {"a": "moved/here/a.zarr", "b": "xy/b.zarr"}
    assert (found.moved, found.kept) == (("a",), ("b",))


def test_a_bucket_becomes_a_folder_and_a_folder_a_bucket(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path, "x/a.zarr", "y/b.zarr")
    up = relink_prefix(manifest, "x", "s3://bucket/set/", tmp_path)
    assert places(up) == {"a": "s3://bucket/set/a.zarr", "b": "y/b.zarr"}
    across = relink_prefix(up.manifest, "s3://bucket", "gs://other/x", tmp_path)
    assert places(across) == {"a": "gs://other/x/set/a.zarr", "b": "y/b.zarr"}
    down = relink_prefix(across.manifest, "gs://other/x/set", str(tmp_path / "x"), tmp_path)
    assert down.manifest == manifest


def test_one_store_can_be_named_whole(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path, "a.zarr", "b.zarr")
    (tmp_path / "a.zarr").rename(tmp_path / "c.zarr")
    found = relink_prefix(manifest, "a.zarr", str(tmp_path / "c.zarr"), tmp_path)
    assert places(found) == {"a": "c.zarr", "b": "b.zarr"}


def test_a_prefix_ends_where_a_folder_ends(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path, "set1/a.zarr")
    remote = replace(manifest, stores=(replace(manifest.stores[0], path="s3://b/set1/a.zarr"),))
    for some, old in ((manifest, "set"), (remote, "s3://b/set"), (remote, "set1"), (remote, ".")):
        with pytest.raises(WrongPrefix, match=r"no path of the manifest begins with .*; one is "):
            relink_prefix(some, old, str(tmp_path), tmp_path)


def test_what_does_not_lie_there_is_refused_unless_unchecked(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path / "old", "a.zarr", "b.zarr")
    shutil.copytree(tmp_path / "old/b.zarr", tmp_path / "new/a.zarr")
    with pytest.raises(StoresNotFound) as caught:
        relink_prefix(manifest, ".", str(tmp_path / "new"), tmp_path)
    assert "holds another store" in caught.value.reasons["a"]
    assert "there is no store at" in caught.value.reasons["b"]
    found = relink_prefix(manifest, ".", str(tmp_path / "new"), tmp_path, check=False)
    assert [e.path for e in found.manifest.stores] == ["new/a.zarr", "new/b.zarr"]


@pytest.mark.parametrize("new", ["ftp://host/x", "s3://user:key@bucket/x", "s3://bucket/../x"])
def test_a_url_that_no_manifest_may_hold_is_refused(tmp_path: Path, new: str) -> None:
    with pytest.raises(WrongPrefix, match=r"^--to: ") as caught:
        relink_prefix(tiny_set(tmp_path, "a.zarr"), ".", new, tmp_path)
    assert caught.value.exit_code == 2


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the command."""
    ran = CliRunner().invoke(relink, [str(a) for a in arguments], catch_exceptions=False)
    return ran.exit_code, ran.stdout, ran.stderr


def test_the_command_writes_a_manifest_that_works_from_where_it_lies(tmp_path: Path) -> None:
    save_manifest(tiny_set(tmp_path / "old", "a.zarr", "b.zarr"), tmp_path / "old/manifest.json")
    shutil.copytree(tmp_path / "old/a.zarr", tmp_path / "new/a.zarr")
    out = tmp_path / "m.json"
    code, _, err = run(tmp_path / "old", "-o", out, "--root", tmp_path / "new")
    assert code == 5
    assert "1 store was not found" in err
    assert "b: no store below" in err
    assert not out.exists()

    code, text, err = run(tmp_path / "old", "-o", out, "--root", tmp_path / "new", "--partial")
    assert (code, text.partition(": ")[2]) == (
        0,
        "1 stores found anew, 0 left where they were, 1 left out\n",
    )
    assert "b was left out: no store below" in err
    [entry] = load_manifest(out).stores
    open_store(load_manifest(out), entry)

    code, text, _ = run(out, "-o", out, "--from", ".", "--to", "s3://b/x", "--json")
    assert (code, json.loads(text)) == (0, {"moved": ["a"], "kept": [], "left_out": {}})
    assert str(tmp_path) not in out.read_text()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--from", "x"],
        ["--to", "x"],
        ["--root", ".", "--from", "x", "--to", "y"],
        ["--from", "x", "--to", "y", "--partial"],
        ["--root", ".", "--no-check"],
    ],
)
def test_options_that_cannot_be_meant_are_refused(tmp_path: Path, options: list[str]) -> None:
    code, _, err = run(tmp_path, "-o", tmp_path / "m.json", *options)
    assert code == 2
    assert "say either --root" in err or "goes with" in err
