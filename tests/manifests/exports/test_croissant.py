"""Croissant: the description validates, its records are the slides, and its files are there."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from manifests.errors import ManifestError
from manifests.exports.croissant import About, CroissantError, slides_file, write_croissant
from manifests.jsonfile import save_manifest
from manifests.model import Manifest, Selection, StoreEntry
from manifests.tileset import TileSet
from tests.manifests.make_manifest import done_entry, failed_entry, full_manifest
from tests.manifests.make_set import tiny_set

LOADER = """
import json, sys
import mlcroissant as mlc
dataset = mlc.Dataset(sys.argv[1])
def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value
records = [{k: plain(v) for k, v in r.items()} for r in dataset.records("slides")]
print(json.dumps({"records": records, "metadata": dataset.metadata.to_json()}, default=str))
"""


def described(folder: Path, manifest: Manifest, **about: str) -> Any:
    """The description of a manifest that is saved in `folder`, as JSON."""
    save_manifest(manifest, folder / "manifest.json")
    write_croissant(folder / "manifest.json", folder / "croissant.json", About(**about))
    return json.loads((folder / "croissant.json").read_text())


def loaded(file: Path) -> tuple[list[dict[str, Any]], Any]:
    """The slides as mlcroissant reads them, and its metadata; an invalid description fails.

    In a process of its own, since mlcroissant's libraries warn of themselves.
    """
    ran = subprocess.run(
        [sys.executable, "-c", LOADER, str(file)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "not standard" not in ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    return [
        {name.removeprefix("slides/"): value for name, value in record.items()}
        for record in found["records"]
    ], found["metadata"]


def of_slides(records: Sequence[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(record[name] for name in names) for record in records]


def test_mlcroissant_loads_the_slides_with_their_types(tmp_path: Path) -> None:
    chosen = Selection((), {"1": TileSet.of([3, 4])})
    entries = (
        done_entry("a", patient="007", columns={"Grade (WHO)": "1.50", "it's": "NA"}),
        done_entry("b", path="b.zarr", patient=None, selection=chosen, packed=False, columns={}),
        failed_entry("c", source="=cmd|'/c'!A1"),
    )
    described(tmp_path, Manifest(entries), name="my set", license="CC0-1.0")
    records, metadata = loaded(tmp_path / "croissant.json")
    assert of_slides(records, "id", "patient", "status", "tiles", "packed", "width") == [
        ("a", "007", "done", 1500, True, 100_000),
        ("b", None, "done", 2, False, 100_000),
        ("c", None, "failed", 0, False, None),
    ]
    assert of_slides(records, "mpp_x", "resolutions", "tile_size", "objective_power") == [
        ([0.504, 1.0], ["0.5", "1"], [256, 256], 40.0),
        ([0.504, 1.0], ["0.5", "1"], [256, 256], 40.0),
        ([], [], [], None),
    ]
    assert of_slides(records, "column.Grade%20%28WHO%29", "column.it%27s", "source") == [
        ("1.50", "NA", "a.svs"),
        (None, None, "b.svs"),
        (None, None, "=cmd|'/c'!A1"),
    ]
    assert (metadata["name"], metadata["license"]) == ("my set", "CC0-1.0")


@pytest.mark.slow
@pytest.mark.parametrize("manifest", [Manifest(), full_manifest()], ids=["empty", "full"])
def test_any_manifest_validates(tmp_path: Path, manifest: Manifest) -> None:
    described(tmp_path, manifest)
    records, _ = loaded(tmp_path / "croissant.json")
    assert [record["id"] for record in records] == [entry.id for entry in manifest.stores]
    command = [sys.executable, "-m", "mlcroissant.scripts.validate"]
    subprocess.run([*command, "--jsonld", str(tmp_path / "croissant.json")], check=True)


def test_every_file_is_described_with_its_size_and_hash(tmp_path: Path) -> None:
    found = described(tmp_path, full_manifest())
    files = [item for item in found["distribution"] if item["@type"] == "cr:FileObject"]
    assert [item["contentUrl"] for item in files] == ["manifest.json", "croissant.slides.json"]
    for item in files:
        data = (tmp_path / item["contentUrl"]).read_bytes()
        assert item["sha256"] == hashlib.sha256(data).hexdigest()
        assert item["contentSize"] == f"{len(data)} B"


def test_the_patterns_of_the_stores_match_their_files_and_no_others(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path, "x/a.zarr", "x[1]/b.zarr", "c.zarr")
    tiny_set(tmp_path, "x/other.zarr", "x1/b.zarr")
    remote = done_entry("r", path="s3://bucket/r.zarr")
    entries = (*manifest.stores, remote, failed_entry("f"))
    found = described(tmp_path, replace(manifest, stores=entries))
    [stores] = [item for item in found["distribution"] if item["@type"] == "cr:FileSet"]
    files = [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()]
    # As mlcroissant does it; for others `**` is all that lies below a folder.
    matched = {f for pattern in stores["includes"] for f in files if fnmatchcase(f, pattern)}
    expected = {f for f in files if f.startswith(("x/a.zarr/", "x[1]/b.zarr/", "c.zarr/"))}
    assert matched == expected


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    found = described(tmp_path, Manifest((failed_entry(),)))
    absent = {"license", "url", "citeAs", "datePublished", "creator", "version"}
    assert not absent & found.keys()
    assert [item["@id"] for item in found["distribution"]] == ["manifest", "slides-table"]
    assert found["name"] == "histotile set"


@pytest.mark.parametrize(
    ("licenses", "said"),
    [(["MIT", "CC0-1.0", "MIT", None], ["CC0-1.0", "MIT"]), ([None, None], None)],
)
def test_licences_are_those_of_the_slides_unless_one_is_given(
    tmp_path: Path, licenses: list[str | None], said: list[str] | None
) -> None:
    entries = [failed_entry(f"s{i}", license=text) for i, text in enumerate(licenses)]
    assert described(tmp_path, Manifest(tuple(entries))).get("license") == said
    assert described(tmp_path, Manifest(tuple(entries)), license="x")["license"] == ["x"]


def test_the_set_is_described_by_what_can_be_counted(tmp_path: Path) -> None:
    chosen = Selection((), {"0.5": TileSet.of([3, 4])})
    entries: tuple[StoreEntry, ...] = (
        done_entry("a", dataset="BACH"),
        done_entry("b", dataset="BACH", path="b.zarr", selection=chosen, organ="lung"),
        failed_entry("c", dataset="BACH"),
    )
    found = described(tmp_path, Manifest(entries))
    assert found["name"] == "BACH"
    mixed = described(tmp_path, Manifest((*entries, failed_entry("d"))))
    assert mixed["name"] == "histotile set"
    assert found["description"] == (
        "Tiles of 2 histopathology slides: 1202 tiles of 256 px at 0.5 µm per pixel, "
        "300 tiles of 256 px at 1 µm per pixel."
    )
    assert found["keywords"] == ["histopathology", "breast", "lung", "H&E"]


def test_a_description_above_the_manifest_names_paths_from_its_own_folder(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    manifest = tiny_set(folder, "x/a.zarr")
    save_manifest(manifest, folder / "m.json")
    described_as = write_croissant(folder / "m.json", tmp_path / "c.json", About())
    assert [entry.path for entry in described_as.stores] == ["set/x/a.zarr"]
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["distribution"][0]["contentUrl"] == "set/m.json"
    assert found["distribution"][2]["includes"] == ["set/x/a.zarr/**"]
    slides = json.loads(slides_file(tmp_path / "c.json").read_text())["slides"]
    assert [slide["path"] for slide in slides] == ["set/x/a.zarr"]
    for name in ("c.json", "c.slides.json"):
        assert str(tmp_path) not in (tmp_path / name).read_text()


def test_a_description_below_the_manifest_is_refused(tmp_path: Path) -> None:
    save_manifest(full_manifest(), tmp_path / "manifest.json")
    (tmp_path / "deep").mkdir()
    with pytest.raises(CroissantError, match="write it next to the manifest"):
        write_croissant(tmp_path / "manifest.json", tmp_path / "deep/c.json", About())
    assert list((tmp_path / "deep").iterdir()) == []


def test_a_manifest_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"\xff")
    with pytest.raises(CroissantError, match="it is not UTF-8"):
        write_croissant(tmp_path / "manifest.json", tmp_path / "c.json", About())
    (tmp_path / "manifest.json").write_bytes(b"{}")
    with pytest.raises(ManifestError):
        write_croissant(tmp_path / "manifest.json", tmp_path / "c.json", About())


@pytest.mark.parametrize("url", ["ftp://x.y/z", "x.y", "https://", "https://x y", "file:///etc"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(CroissantError, match="is no http"):
        About(url=url)


def test_the_same_set_gives_the_same_bytes(tmp_path: Path) -> None:
    files = ("croissant.json", "croissant.slides.json")
    described(tmp_path, full_manifest())
    once = [(tmp_path / name).read_bytes() for name in files]
    described(tmp_path, full_manifest())
    assert [(tmp_path / name).read_bytes() for name in files] == once
