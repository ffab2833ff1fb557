"""Duplicates of slides and tiles: what is found, what is not, and what is kept."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from manifests.cli.duplicates import duplicates as command
from manifests.codec import Rgb, TileCodec, decode_jpeg, encode_jpeg
from manifests.errors import StoreError
from manifests.jsonfile import load_manifest, save_manifest
from manifests.layout import TilesLayout
from manifests.likeness.duplicates import (
    BadThreshold,
    DuplicateGroup,
    Member,
    _equal,
    _groups,
    drop_duplicates,
    find_duplicates,
)
from manifests.likeness.fingerprints import (
    GLANCE,
    LOOK,
    compare,
    describe,
    encode,
    spectra,
    tile_squares,
)
from manifests.likeness.neighbours import find_alike
from manifests.model import Manifest, Resolution, Selection, SlideInfo, StoreEntry
from manifests.store import GroupPlan, StoreWriter, TileStore, open_store
from manifests.tileset import TileSet
from tests.manifests.make import UUID, groups_of, make_store

LOSSLESS = TileCodec("zstd")


def tissue(count: int, seed: int = 0, size: int = 128) -> Rgb:
    """Tiles with blobs of several sizes on pink, no two alike."""
    rng = np.random.default_rng(seed)
    blobs = sum(
        ndimage.gaussian_filter(rng.normal(size=(count, size, size)), (0, px, px), mode="wrap") * px
        for px in (size / 64, size / 24, size / 12)
    )
    dark = 1 / (1 + np.exp(-6 * blobs / blobs.std()))
    pink, violet = np.array([235.0, 190, 215]), np.array([110.0, 60, 140])
    pixels = pink + (violet - pink) * dark[..., None]
    return np.asarray(pixels.astype(np.uint8))


def add(
    folder: Path, name: str, tiles: Rgb, codec: TileCodec = LOSSLESS, **changes: object
) -> StoreEntry:
    """A store of these tiles, and its entry."""
    path = folder / f"{name}.zarr"
    make_store(path, tiles, codec=codec)
    attributes = TileStore(path).attributes
    resolution = Resolution("0.5", (0.5, 0.5), 0.5, tiles.shape[1], len(tiles), 0, (1.0, 1.0))
    entry = StoreEntry(
        id=name,
        status="done",
        source=name,
        path=path.name,
        uuid=attributes["uuid"],
        spec_hash=attributes["spec_hash"],
        packed=True,
        resolutions=(resolution,),
    )
    return replace(entry, **changes)  # type: ignore[arg-type]


def manifest_of(folder: Path, **stores: Rgb) -> Manifest:
    return Manifest(tuple(add(folder, name, tiles) for name, tiles in stores.items()), root=folder)


def tiles_of(groups: list[DuplicateGroup]) -> list[set[tuple[str, int | None]]]:
    return [{(m.entry, m.tile) for m in group.members} for group in groups]


def slide(fingerprint: str) -> SlideInfo:
    return SlideInfo(reader="tiff", vendor="aperio", compression="jpeg", fingerprint=fingerprint)


def reencoded(quality: int) -> Callable[[Rgb], Rgb]:
    def work(tiles: Rgb) -> Rgb:
        size = tiles.shape[1]
        return np.stack([decode_jpeg(encode_jpeg(t, quality, "420"), size, size) for t in tiles])

    return work


def resized(scale: float) -> Callable[[Rgb], Rgb]:
    def work(tiles: Rgb) -> Rgb:
        zoomed = ndimage.zoom(tiles.astype(float), (1, scale, scale, 1), order=1)
        return np.asarray(zoomed.clip(0, 255).astype(np.uint8))

    return work


def enlarged_and_turned(tiles: Rgb) -> Rgb:
    """By 20 degrees, and 1.3 times larger."""
    turned = ndimage.rotate(tiles.astype(float), 20, axes=(2, 1), reshape=False, order=1)
    size = tiles.shape[1]
    edge = round(size * (1 - 1 / 1.3) / 2)
    inner = turned[:, edge : size - edge, edge : size - edge]
    scale = size / inner.shape[1]
    return np.asarray(ndimage.zoom(inner, (1, scale, scale, 1), order=1).clip(0, 255).astype("u1"))


COPIES: dict[str, Callable[[Rgb], Rgb]] = {
    "quality 50": reencoded(50),
    "half the size": resized(0.5),
    "larger": resized(1.5),
    "mirrored": lambda tiles: tiles[:, :, ::-1],
    "quarter turn": lambda tiles: np.rot90(tiles, axes=(1, 2)),
    "brighter": lambda tiles: (tiles * 1.05).clip(0, 255).astype(np.uint8),
    "turned and enlarged": enlarged_and_turned,
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_changed_copy_is_found_and_nothing_else(
    tmp_path: Path, copy: Callable[[Rgb], Rgb]
) -> None:
    tiles = tissue(24)
    manifest = manifest_of(tmp_path, a=tiles, b=np.ascontiguousarray(copy(tiles[:12])))
    found = groups_of(manifest)
    assert tiles_of(found) == [{("a", i), ("b", i)} for i in range(12)]
    assert all(not group.exact and 0.35 <= group.similarity <= 1 for group in found)


def test_neighbours_that_overlap_by_half_are_no_duplicates(tmp_path: Path) -> None:
    field = tissue(1, size=512)[0]
    tiles = np.stack([field[y : y + 128, x : x + 128] for y in (0, 64, 128) for x in (0, 64, 128)])
    assert groups_of(manifest_of(tmp_path, a=tiles)) == []


def test_equal_bytes_are_exact_within_a_store_and_across(tmp_path: Path) -> None:
    tiles = tissue(6)
    manifest = manifest_of(tmp_path, a=tiles[[0, 1, 2, 1]], b=tiles[[3, 0, 4]])
    for near in (False, True):
        found = groups_of(manifest, near=near)
        assert tiles_of(found) == [{("a", 0), ("b", 1)}, {("a", 1), ("a", 3)}]
        assert all(group.exact and group.similarity == 1 for group in found)
    assert groups_of(manifest, exact=False) == []


def test_an_equal_and_a_changed_copy_make_one_group_that_is_near(tmp_path: Path) -> None:
    tiles = tissue(4)
    manifest = manifest_of(tmp_path, a=tiles, b=tiles[:1], c=tiles[:1, :, ::-1].copy())
    [group] = groups_of(manifest)
    assert group.members == (Member("a", "0.5", 0), Member("b", "0.5", 0), Member("c", "0.5", 0))
    assert not group.exact


def test_blank_tiles_are_counted_and_make_no_group(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 1, (10, 128, 128, 3))
    glass = (np.full((10, 128, 128, 3), 240) + noise).astype(np.uint8)
    glass[:4] = 240
    manifest = manifest_of(tmp_path, a=glass, b=tissue(3))
    found = find_duplicates(manifest)
    assert (found.groups, found.tiles, found.blank) == ((), 13, 10)
    assert find_duplicates(manifest, near=False).groups == ()


def test_tiles_with_one_edge_are_no_duplicates(tmp_path: Path) -> None:
    tiles = np.full((8, 128, 128, 3), 240, dtype=np.uint8)
    rng = np.random.default_rng(2)
    for i, texture in enumerate(tissue(8, seed=3)):
        part = 30 + int(rng.integers(0, 20))
        tiles[i, :part] = texture[:part]
    assert groups_of(manifest_of(tmp_path, a=tiles)) == []


def test_what_is_not_selected_is_not_looked_at(tmp_path: Path) -> None:
    tiles = tissue(4)
    entry = add(tmp_path, "a", tiles)
    chosen = replace(entry, selection=Selection((), {"0.5": TileSet.of([1, 3])}))
    copies = add(tmp_path, "b", tiles)
    found = find_duplicates(Manifest((chosen, copies), root=tmp_path))
    assert tiles_of(list(found.groups)) == [{("a", 1), ("b", 1)}, {("a", 3), ("b", 3)}]
    assert found.tiles == 6


def add_slide(
    folder: Path, name: str, groups: dict[str, Rgb], thumbnail: Rgb, mask: npt.NDArray[np.bool_]
) -> StoreEntry:
    """A slide's store with these tiles by resolution, and its entry."""
    writer = StoreWriter(folder / f"{name}.zarr")
    plans = {
        group: GroupPlan(
            layout=TilesLayout(len(tiles), tiles.shape[1], 8, LOSSLESS),
            attributes={"mpp": [float(group)] * 2, "mpp_requested": float(group)},
            columns={"x": np.zeros(len(tiles), dtype=np.int64)},
        )
        for group, tiles in groups.items()
    }
    attributes = {
        "format": "histotile-store",
        "version": 1,
        "uuid": UUID,
        "groups": list(groups),
        "spec": {},
        "spec_hash": "ab" * 32,
    }
    writer.plan(attributes, plans, {"thumbnail": thumbnail, "tissue_mask": mask})
    for group, tiles in groups.items():
        writer.write_shard(group, 0, [LOSSLESS.encode(tile) for tile in tiles], {})
    writer.commit()
    resolutions = tuple(
        Resolution(g, (float(g), float(g)), float(g), t.shape[1], len(t), 0, (1.0, 1.0))
        for g, t in groups.items()
    )
    return StoreEntry(
        id=name,
        status="done",
        source=f"{name}.svs",
        path=f"{name}.zarr",
        uuid=UUID,
        spec_hash="ab" * 32,
        slide=slide(f"sha256:{name}"),
        resolutions=resolutions,
    )


def section(seed: int, size: int = 160) -> tuple[Rgb, npt.NDArray[np.bool_]]:
    """A thumbnail of an oblong piece of tissue on glass, and its mask."""
    y, x = np.mgrid[:size, :size] - size / 2
    angle = np.arctan2(y, x)
    outline = size * (0.3 + 0.06 * np.cos(2 * angle + seed) + 0.03 * np.cos(5 * angle + 2 * seed))
    mask = np.hypot(x, y) < outline
    thumbnail = np.where(mask[..., None], tissue(1, seed=seed, size=size)[0], 245)
    return thumbnail.astype(np.uint8), mask


def blank_tile() -> dict[str, Rgb]:
    return {"0.5": np.full((1, 32, 32, 3), 240, dtype=np.uint8)}


SLIDE_COPIES: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "quarter turn": lambda picture: np.rot90(picture),
    "mirrored": lambda picture: picture[::-1],
    "more glass": lambda picture: np.pad(
        picture,
        ((40, 0), (0, 25), (0, 0))[: picture.ndim],
        constant_values=245 if picture.ndim == 3 else 0,
    ),
    "coarser": lambda picture: picture[::2, ::2],
}


@pytest.mark.parametrize("copy", SLIDE_COPIES.values(), ids=SLIDE_COPIES)
def test_a_changed_copy_of_a_slide_is_found_and_no_other_slide(
    tmp_path: Path, copy: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> None:
    entries = []
    for seed in range(6):
        thumbnail, mask = section(seed)
        entries.append(add_slide(tmp_path, f"s{seed}", blank_tile(), thumbnail, mask))
    thumbnail, mask = (np.ascontiguousarray(copy(picture)) for picture in section(2))
    thumbnail = decode_jpeg(encode_jpeg(thumbnail, 70, "420"), *mask.shape)
    entries.append(add_slide(tmp_path, "x", blank_tile(), thumbnail, mask))
    [group] = groups_of(Manifest(tuple(entries), root=tmp_path))
    assert (group.kind, group.members) == ("slide", (Member("s2"), Member("x")))
    assert not group.exact


def test_slides_without_a_picture_of_tissue_are_counted(tmp_path: Path) -> None:
    thumbnail, mask = section(0)
    entry = add_slide(tmp_path, "a", blank_tile(), thumbnail, np.zeros_like(mask))
    packed = add(tmp_path, "b", tissue(2))
    found = find_duplicates(Manifest((entry, packed), root=tmp_path), tiles=False)
    assert (found.slides, found.unpictured, found.tiles) == (2, 2, 0)


def test_a_slide_at_two_resolutions_has_no_near_duplicates_of_itself(tmp_path: Path) -> None:
    tiles = tissue(3)
    groups = {"0.5": tiles, "0.6": tiles[:, ::-1].copy()}
    entry = add_slide(tmp_path, "a", groups, *section(0))
    assert groups_of(Manifest((entry,), root=tmp_path)) == []
    other = add(tmp_path, "b", tiles[:1, :, ::-1].copy())
    [group] = groups_of(Manifest((entry, other), root=tmp_path))
    assert [m.group for m in group.members] == ["0.5", "0.6", "0.5"]


def test_a_damaged_tile_is_an_error_that_names_the_store(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path, a=tissue(3))
    shard = tmp_path / "a.zarr/0.5/tiles/c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[200] ^= 1
    shard.write_bytes(data)
    with pytest.raises(StoreError, match=r"a\.zarr"):
        groups_of(manifest)


def test_slides_with_one_fingerprint_are_exact_duplicates(tmp_path: Path) -> None:
    tiles = tissue(6)
    entries = tuple(
        add(tmp_path, name, tiles[2 * i : 2 * i + 2], slide=slide(print_))
        for i, (name, print_) in enumerate(
            [("a", "sha256:1"), ("b", "sha256:2"), ("c", "sha256:1")]
        )
    )
    found = groups_of(Manifest(entries, root=tmp_path))
    members = (Member("a"), Member("c"))
    assert found == [DuplicateGroup("slide", exact=True, members=members, similarity=1.0)]


@given(st.lists(st.integers(0, 5), max_size=30), st.data())
def test_equal_contents_are_linked_as_a_dictionary_would(
    contents: list[int], data: st.DataObject
) -> None:
    among = [i for i in range(len(contents)) if data.draw(st.booleans())]
    links = _equal(np.array(contents, dtype=np.int64), np.array(among, dtype=np.int64))
    expected = defaultdict(list)
    for number in among:
        expected[contents[number]].append(number)
    groups = _groups(links, "tile", lambda number: Member("a", "0.5", number))
    found = [[member.tile for member in group.members] for group in groups]
    assert found == sorted(numbers for numbers in expected.values() if len(numbers) > 1)


def looks(tiles: Rgb) -> npt.NDArray[np.complex64]:
    return spectra(encode(tile_squares(tiles, GLANCE), GLANCE)[0], GLANCE)


def test_turning_and_mirroring_leave_the_description_and_the_likeness() -> None:
    tiles = tissue(5)
    plain = looks(tiles)
    turned = looks(np.rot90(tiles, axes=(1, 2))[:, ::-1].copy())
    for zoom in GLANCE.zooms:
        one, other = describe(plain, zoom, GLANCE), describe(turned, zoom, GLANCE)
        assert np.abs(one - other).max() < 0.02
        apart = np.abs(one - np.roll(one, 1, axis=0)).max(axis=1)
        assert apart.min() > 0.1
    assert compare(plain, turned, 0, GLANCE).min() > 0.99
    assert compare(plain, np.roll(turned, 1, axis=0), 0, GLANCE).max() < 0.7


def test_threads_and_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = tissue(30)
    manifest = manifest_of(tmp_path, a=tiles, b=enlarged_and_turned(tiles[:15]))
    expected = groups_of(manifest)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr("manifests.likeness.tilescan._BLOCK", 7)
    monkeypatch.setattr("manifests.likeness.neighbours._CHUNK", 5)
    monkeypatch.setattr("manifests.likeness.neighbours._BLOCK", 11)
    monkeypatch.setattr("manifests.likeness.neighbours._LOOKS", 3)
    assert groups_of(manifest) == expected
    assert len(expected) == 15


@pytest.mark.parametrize("crowded", [1, 1000])
def test_crowded_cells_are_bounded_and_what_is_passed_over_is_counted(
    monkeypatch: pytest.MonkeyPatch, crowded: int
) -> None:
    tiles = np.repeat(tissue(1), 60, axis=0)
    squares = tile_squares(tiles, LOOK)
    codes = encode(tile_squares(tiles, GLANCE), GLANCE)[0]
    monkeypatch.setattr("manifests.likeness.neighbours._MOST_MEMBERS", 20)
    monkeypatch.setattr("manifests.likeness.neighbours._CROWDED", crowded)
    found = find_alike(codes, np.zeros((60, 2), "f4"), lambda n: squares[n], 0.35, lambda *_: None)
    assert found.passed_over == 40
    assert len(found.pairs) <= 8 * 60
    assert set(found.pairs.ravel().tolist()) == set(range(60))


def test_one_of_each_group_is_kept_the_finest_then_the_first(tmp_path: Path) -> None:
    tiles = tissue(5)
    coarse = add(tmp_path, "a", tiles[:3])
    coarse = replace(coarse, resolutions=(replace(coarse.resolutions[0], mpp=(1.0, 1.0)),))
    steps: tuple[dict[str, str], ...] = ({"where": "tissue > 0"},)
    fine = replace(
        add(tmp_path, "b", tiles),
        selection=Selection(steps, {"0.5": TileSet.of([0, 1, 3, 4])}),
    )
    same = add(tmp_path, "c", tiles[[1, 3]])
    manifest = Manifest((coarse, fine, same), root=tmp_path)
    kept = drop_duplicates(manifest, groups_of(manifest))
    assert dict(kept.tiles) == {"a": 2, "c": 2}
    assert kept.entries == ()
    assert [entry.id for entry in kept.manifest.stores] == ["a", "b"]
    left = kept.manifest.stores[0].selection
    assert left is not None
    assert left.tiles == {"0.5": TileSet.of([2])}
    assert left.steps == ({"without_duplicates": 2},)
    assert kept.manifest.stores[1] == fine
    assert groups_of(kept.manifest) == []


def test_of_one_slide_the_entry_with_the_finest_and_most_tiles_is_kept(tmp_path: Path) -> None:
    tiles = tissue(6)
    one, two, three = (
        add(tmp_path, name, part, slide=slide("sha256:1"))
        for name, part in (("a", tiles[:1]), ("b", tiles[1:3]), ("c", tiles[:6]))
    )
    coarse = replace(three, resolutions=(replace(three.resolutions[0], mpp=(1.0, 1.0)),))
    manifest = Manifest((one, two, coarse), root=tmp_path)
    kept = drop_duplicates(manifest, groups_of(manifest))
    assert kept.entries == ("a", "c")
    assert [entry.id for entry in kept.manifest.stores] == ["b"]
    assert kept.tiles == {}  # its copies in c are gone with c


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_command_reports_and_drops(tmp_path: Path) -> None:
    tiles = tissue(4)
    save_manifest(
        manifest_of(tmp_path, a=tiles, b=tiles[:2, ::-1].copy(), c=tiles[2:3]),
        tmp_path / "manifest.json",
    )
    ran = run(tmp_path)
    assert ran.exit_code == 0
    assert "a 0.5: 0; b 0.5: 0" in ran.stdout
    assert "3 groups of duplicates" in ran.stderr
    ran = run(tmp_path, "--exact", "--tiles", "--json", "--drop", "-o", tmp_path / "less.json")
    assert ran.exit_code == 0
    result = json.loads(ran.stdout)
    members = [
        {"entry": "a", "group": "0.5", "tile": 2},
        {"entry": "c", "group": "0.5", "tile": 0},
    ]
    assert result["groups"] == [
        {"exact": True, "kind": "tile", "members": members, "similarity": 1.0}
    ]
    assert result["dropped"] == {"slides": [], "tiles": {"c": 1}}
    less = load_manifest(tmp_path / "less.json")
    assert [entry.id for entry in less.stores] == ["a", "b"]
    assert len(open_store(less, less.stores[0])["0.5"].usable()) == 4
    assert (
        ran.stdout
        == run(
            tmp_path, "--exact", "--tiles", "--json", "--drop", "-o", tmp_path / "less.json"
        ).stdout
    )


def test_nothing_twice_is_no_error(tmp_path: Path) -> None:
    save_manifest(manifest_of(tmp_path, a=tissue(2)), tmp_path / "manifest.json")
    ran = run(tmp_path, "--near")
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert "2 tiles: 0 groups of duplicates" in ran.stderr


def test_a_place_that_will_not_do_is_refused_before_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_manifest(manifest_of(tmp_path, a=tissue(1)), tmp_path / "manifest.json")
    (tmp_path / "other").mkdir()

    def search(*_: object, **__: object) -> None:
        raise AssertionError("searched in vain")

    monkeypatch.setattr("manifests.likeness.duplicates.find_duplicates", search)
    ran = run(tmp_path, "--drop", "-o", tmp_path / "other/x.json")
    assert ran.exit_code == 2
    assert "lies outside of" in ran.stderr


@pytest.mark.parametrize("arguments", [["--drop"], ["-o", "x.json"], ["--threshold", "1.5"]])
def test_options_that_make_no_sense_are_refused(tmp_path: Path, arguments: list[str]) -> None:
    save_manifest(manifest_of(tmp_path, a=tissue(1)), tmp_path / "manifest.json")
    assert run(tmp_path, *arguments).exit_code == 2


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(BadThreshold, match="at most 1"):
        groups_of(Manifest(), threshold=1.5)


def test_an_empty_manifest_has_no_duplicates() -> None:
    assert groups_of(Manifest()) == []
