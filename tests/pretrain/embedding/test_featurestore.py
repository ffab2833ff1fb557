"""Stores of features: any Zarr reader opens them, and ours notices what it does not."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

torch = pytest.importorskip("torch")

from manifests import StoreError, TileStore, load_manifest  # noqa: E402
from pretrain.embedding import featurestore  # noqa: E402
from pretrain.embedding.embed import embed  # noqa: E402
from pretrain.embedding.featurestore import (  # noqa: E402
    FeatureStore,
    chunk_rows,
    decode_chunk,
    encode_chunk,
    features_json,
    load_features,
    open_features,
)
from pretrain.embedding.settings import EmbedSettings  # noqa: E402
from pretrain.embedding.wanted import wanted_tiles  # noqa: E402
from tests.manifests.make import tile_pixels  # noqa: E402
from tests.pretrain.embedding.placed import FEW_ROWS, make_placed, two_slides  # noqa: E402
from tests.pretrain.make import save  # noqa: E402

CPU = EmbedSettings(device="cpu")
RANDOM = "random:test_resnet"
PAGE = Path(__file__).parents[3] / "docs/reference/features.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest `tiles/manifest.json` and its features `f`, three chunks for the first slide."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(featurestore, "CHUNK_ROWS", FEW_ROWS)
        embed(RANDOM, two_slides(root / "tiles"), root / "f", CPU)
    return root


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the features that a test may damage."""
    return shutil.copytree(made / "f", tmp_path / "f")


def features(rows: int) -> st.SearchStrategy[Any]:
    return st.one_of(
        arrays.arrays(np.float16, (rows, 3)),
        arrays.arrays(np.float32, (rows, 3)),
    )


@given(st.data(), st.integers(1, 12), st.integers(1, 5))
def test_a_chunk_comes_back_to_the_bit_and_a_changed_one_not_at_all(
    data: Any, count: int, size: int
) -> None:
    values = data.draw(features(count))
    metadata = features_json(count, 3, values.dtype.name)
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [size, 3]
    number = data.draw(st.integers(0, -(-count // size) - 1))
    part = values[number * size : (number + 1) * size]
    encoded = encode_chunk(part, size)
    assert len(encoded) == size * 3 * values.itemsize + 4
    found = decode_chunk(encoded, metadata, number)
    assert found.dtype == values.dtype
    assert found.tobytes() == part.tobytes()
    place = data.draw(st.integers(0, len(encoded) - 1))
    broken = bytearray(encoded)
    broken[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(StoreError, match="checksum"):
        decode_chunk(bytes(broken), metadata, number)


def test_a_small_array_is_one_chunk_and_a_large_one_many() -> None:
    assert [chunk_rows(n) for n in (0, 1, 9, 512, 513, 10**6)] == [1, 1, 9, 512, 512, 512]


def test_plain_zarr_reads_what_we_read(made: Path) -> None:
    for name in ("a", "b"):
        ours = open_features(made / "f").open(name)
        root = zarr.open_group(made / "f" / f"{name}.zarr", mode="r")
        theirs = np.asarray(root["0.5/features"])
        assert theirs.dtype == np.float16
        assert theirs.tobytes() == ours.read("0.5").tobytes()
        for column in ("index", "x", "y"):
            values = np.asarray(root[f"0.5/{column}"])
            assert values.dtype == np.int64
            assert values.tolist() == ours.column("0.5", column).tolist()
        assert dict(root.attrs) == ours.attributes


@pytest.mark.parametrize(
    "name", ["0.5/features/c.1.0", "0.5/index/c.0", "0.5/features/zarr.json", "zarr.json"]
)
def test_a_changed_byte_is_noticed(name: str, folder: Path) -> None:
    file = folder / "a.zarr" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(StoreError, match="was changed after"):
        read_all(folder)


def read_all(folder: Path) -> None:
    store = open_features(folder).open("a")
    store.read("0.5")
    store.column("0.5", "index")


def test_what_is_missing_is_told(folder: Path, tmp_path: Path) -> None:
    opened = open_features(folder)
    with pytest.raises(StoreError, match="has no features of c: embed that store"):
        opened.open("c")
    with pytest.raises(StoreError, match=r"has no features of '1'; it has 0\.5"):
        opened.open("a").read("1")
    with pytest.raises(StoreError, match=r"has no file 0\.5/source/zarr\.json"):
        opened.open("a").column("0.5", "source")
    (folder / "a.zarr/commit.json").unlink()
    with pytest.raises(StoreError, match="is not committed"):
        opened.open("a")
    (folder / "features.json").unlink()
    with pytest.raises(StoreError, match="no finished features"):
        open_features(folder)
    (folder / "features.json").write_text("{}")
    with pytest.raises(StoreError, match="is not of features of version 1"):
        open_features(folder)


def test_a_store_of_another_run_is_noticed(made: Path, folder: Path, tmp_path: Path) -> None:
    embed("random:test_vit", made / "tiles/manifest.json", tmp_path / "g", CPU)
    shutil.rmtree(folder / "a.zarr")
    shutil.copytree(tmp_path / "g/a.zarr", folder / "a.zarr")
    with pytest.raises(StoreError, match=r"is not the one that features\.json lists"):
        open_features(folder).open("a")


def test_a_tile_store_holds_no_features(made: Path) -> None:
    with pytest.raises(StoreError, match="is not a store of features"):
        FeatureStore(made / "tiles/a.zarr")
    with pytest.raises(StoreError):
        _ = TileStore(made / "f/a.zarr")["0.5"]


def test_features_are_found_for_any_part_of_the_tiles(made: Path) -> None:
    parts = wanted_tiles(load_manifest(made / "tiles/manifest.json"))
    folder = open_features(made / "f")
    whole, damaged = load_features(folder, parts)
    assert damaged == ()
    assert whole.dtype == np.float32
    stored = [folder.open(name).read("0.5") for name in ("a", "b")]
    assert (whole == np.concatenate(stored)).all()
    some = [replace(part, indices=part.indices[1::2]) for part in reversed(parts)]
    found, _ = load_features(folder, some)
    assert (found == np.concatenate([stored[1][1::2], stored[0][1::2]])).all()


def test_features_of_other_tiles_are_not_given_out(made: Path) -> None:
    part = wanted_tiles(load_manifest(made / "tiles/manifest.json"))[0]
    folder = open_features(made / "f")
    more = replace(part, indices=np.append(part.indices, 99))
    with pytest.raises(StoreError, match=r"lacks the features of 1 tiles of 0\.5"):
        load_features(folder, [more])
    anew = replace(part, entry=replace(part.entry, commit="0" * 64))
    with pytest.raises(StoreError, match="of another state of the tile store a"):
        load_features(folder, [anew])


def test_packed_stores_keep_source_and_label(tmp_path: Path) -> None:
    entry = make_placed(
        tmp_path,
        "p",
        {"0.5": tile_pixels(4)},
        packed=[1, 0, 1, 1],
        names=["x/1.png", "x/2.png"],
        selected=[0, 1, 3],
    )
    embed(RANDOM, save(tmp_path, entry), tmp_path / "f", CPU)
    store = open_features(tmp_path / "f").open("p")
    assert store.column("0.5", "source").tolist() == [1, 0, 1]
    assert [source["name"] for source in store.sources()] == ["x/1.png", "x/2.png"]


def keys_named(title: str) -> set[str]:
    """The keys in the first column of the table under a heading of the reference page."""
    section = PAGE.read_text(encoding="utf-8").split(title, 1)[1]
    table = re.search(r"\n\|.*?\n\n", section, re.DOTALL)
    assert table is not None
    rows = table[0].strip().splitlines()[2:]
    return {key for row in rows for key in re.findall(r"`([\w.]+)`", row.split("|")[1])}


def test_the_reference_names_every_key(made: Path) -> None:
    said = json.loads((made / "f/features.json").read_text())
    assert keys_named("## features.json") == set(said)
    assert keys_named("### `stores`") == set(said["stores"][0])
    assert keys_named("### `encoder`") == set(said["encoder"])
    root = json.loads((made / "f/a.zarr/zarr.json").read_text())["attributes"]
    assert keys_named("## Root group") == set(root)
    group = json.loads((made / "f/a.zarr/0.5/zarr.json").read_text())["attributes"]
    assert keys_named("## Group of a resolution") == set(group)
    columns = {path.name for path in (made / "f/a.zarr/0.5").iterdir() if path.is_dir()}
    assert columns <= keys_named("## Arrays")


def test_nothing_says_where_it_was_made(made: Path) -> None:
    for file in (made / "f").rglob("*.json"):
        assert str(made) not in file.read_text()
