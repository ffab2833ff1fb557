"""The reference pages say what the code does: their examples load, their tables are complete."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest

from manifests import TileStore
from manifests.codec import TileCodec
from manifests.jsonfile import load_manifest, manifest_json, manifest_schema, schema_violation
from tests.manifests.make import make_store, tile_pixels

REFERENCE = Path(__file__).parents[2] / "docs/reference"


def page(name: str) -> str:
    """The text of a reference page."""
    return (REFERENCE / name).read_text(encoding="utf-8")


def json_examples(text: str) -> list[Any]:
    """The fenced JSON blocks of a page, parsed."""
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]


def test_the_example_of_the_manifest_page_is_valid_and_loses_nothing(tmp_path: Path) -> None:
    [example] = json_examples(page("manifest.md"))
    assert schema_violation(example) is None
    (tmp_path / "manifest.json").write_text(json.dumps(example))
    found = load_manifest(tmp_path)
    saved = json.loads(json.dumps(manifest_json(found)))
    saved["generator"] = example["generator"]
    by_id = {entry["id"]: entry for entry in example["stores"]}
    assert {entry["id"]: entry for entry in saved["stores"]} == by_id


@pytest.mark.parametrize("kind", ["store", "slide", "resolution"])
def test_the_tables_of_the_manifest_page_name_every_key(kind: str) -> None:
    title = {"store": "## An entry of", "slide": "### `slide`", "resolution": "### `resolutions`"}
    section = page("manifest.md").split(title[kind], 1)[1]
    table = re.search(r"\n\|.*?\n\n", section, re.DOTALL)
    assert table is not None
    named: set[str] = set()
    needed: set[str] = set()
    for row in table[0].strip().splitlines()[2:]:
        keys, need, _ = (cell.strip() for cell in row.strip("|").split("|", 2))
        named |= set(re.findall(r"`(\w+)`", keys))
        if need == "needed":
            needed |= set(re.findall(r"`(\w+)`", keys))
    schema = manifest_schema()["$defs"][kind]
    assert named == set(schema["properties"])
    assert needed == set(schema["required"])


class PageReader:
    """A store reader written from store.md alone, without the product's code."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = (path / "commit.json").read_text(encoding="utf-8")
        self.commit = json.loads(text)
        body = "".join(
            line for line in text.splitlines(keepends=True) if not line.startswith(' "sha256": ')
        )
        assert hashlib.sha256(body.encode()).hexdigest() == self.commit["sha256"]
        assert (self.commit["format"], self.commit["version"]) == ("histotile-commit", 1)
        for name, (size, digest) in self.commit["files"].items():
            data = (path / name).read_bytes()
            assert (len(data), hashlib.sha256(data).hexdigest()) == (size, digest)

    def metadata(self, name: str) -> Any:
        """A parsed `zarr.json`."""
        return json.loads((self.path / name / "zarr.json").read_bytes())

    def payload(self, group: str, i: int) -> bytes:
        """The encoded bytes of a tile."""
        per_shard = self.metadata(f"{group}/tiles")["chunk_grid"]["configuration"]["chunk_shape"][0]
        k, slot = divmod(i, per_shard)
        data = (self.path / group / f"tiles/c.{k}.0.0.0").read_bytes()
        label = f"{self.metadata('')['attributes']['uuid']}/{group}/{k}".encode()
        assert data[:16] == hashlib.sha256(label).digest()[:16]
        index, checksum = data[-16 * per_shard - 4 : -4], data[-4:]
        assert google_crc32c.value(index) == int.from_bytes(checksum, "little")
        offset, length = struct.unpack_from("<QQ", index, 16 * slot)
        return checked(data[offset : offset + length])

    def column(self, group: str, name: str) -> Any:
        """A column's values."""
        data = checked((self.path / group / name / "c.0").read_bytes())
        return np.frombuffer(data, self.metadata(f"{group}/{name}")["data_type"])


def checked(data: bytes) -> bytes:
    """Data without the crc32c that they end in."""
    assert google_crc32c.value(data[:-4]) == int.from_bytes(data[-4:], "little")
    return data[:-4]


@pytest.mark.parametrize("codec", [TileCodec("jpeg"), TileCodec("zstd")], ids=["jpeg", "zstd"])
def test_a_reader_written_from_the_store_page_reads_the_store(
    tmp_path: Path, codec: TileCodec
) -> None:
    path = tmp_path / "a.zarr"
    make_store(path, tile_pixels(11), codec=codec)
    reader, group = PageReader(path), TileStore(path)["0.5"]
    for i in range(11):
        assert reader.payload("0.5", i) == group.read_encoded(i)
    for name in group.columns:
        np.testing.assert_array_equal(reader.column("0.5", name), group.column(name))
    start = {"jpeg": b"\xff\xd8", "zstd": b"\x28\xb5"}[codec.name]
    assert checked((path / "thumbnail/c.0.0.0").read_bytes())[:2] == start
    assert reader.commit["groups"] == reader.metadata("")["attributes"]["groups"] == ["0.5"]


def test_the_store_page_names_every_key_of_the_commit_record(tmp_path: Path) -> None:
    make_store(tmp_path / "a.zarr", tile_pixels(1), codec=TileCodec("jpeg"))
    commit = json.loads((tmp_path / "a.zarr/commit.json").read_bytes())
    section = page("store.md").split("## commit.json", 1)[1].split("\n## ", 1)[0]
    named = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
    assert named == set(commit)
