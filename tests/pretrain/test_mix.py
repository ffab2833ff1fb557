"""The mix is what the manifest says: stain × organ, unknown where nothing is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from manifests import Manifest, ManifestError, Resolution, StoreEntry
from pretrain.mix import resolve_mix
from tests.manifests.make import UUID


def entry(name: str, *sizes: tuple[str, int, int], **facts: str) -> StoreEntry:
    """An entry with (group, tile size, tiles) for each resolution."""
    return StoreEntry(
        id=name,
        status="done",
        source=name,
        path=f"{name}.zarr",
        uuid=UUID,
        spec_hash="0" * 64,
        resolutions=tuple(
            Resolution(group, (float(group),) * 2, float(group), size, tiles, 0, (1.0, 1.0))
            for group, size, tiles in sizes
        ),
        **facts,  # type: ignore[arg-type]
    )


def test_strata_are_stain_by_organ_and_missing_names_are_unknown() -> None:
    manifest = Manifest(
        (
            entry("a", ("0.5", 32, 4), stain="H&E", organ="colon"),
            entry("b", ("0.5", 32, 5), stain="H&E", organ="lung"),
            entry("c", ("0.5", 32, 6), stain="H&E", organ="colon"),
            entry("d", ("0.5", 32, 7)),
        )
    )
    mix = resolve_mix(manifest)
    found = {(s.stain, s.organ): [slide.id for slide in s.slides] for s in mix.strata}
    assert found == {
        ("H&E", "colon"): ["a", "c"],
        ("H&E", "lung"): ["b"],
        ("unknown", "unknown"): ["d"],
    }
    assert mix.tiles == 22


def test_all_resolutions_of_a_slide_are_its_tiles() -> None:
    mix = resolve_mix(Manifest((entry("a", ("0.25", 32, 3), ("0.5", 32, 2)),)))
    (slide,) = mix.slides
    assert [slide.locate(tile) for tile in range(5)] == [
        ("0.25", 0),
        ("0.25", 1),
        ("0.25", 2),
        ("0.5", 0),
        ("0.5", 1),
    ]
    with pytest.raises(IndexError, match="5 tiles"):
        slide.locate(5)
    assert mix.mpps == ((0.25, 0.25), (0.5, 0.5))


def test_failed_and_empty_slides_are_left_out() -> None:
    failed = StoreEntry(id="f", status="failed", source="f", reason="unreadable")
    empty = dataclasses.replace(entry("e", ("0.5", 32, 0)), status="empty")
    hollow = entry("h", ("0.5", 64, 0))
    mix = resolve_mix(Manifest((failed, empty, hollow, entry("a", ("0.5", 32, 1)))))
    assert [slide.id for slide in mix.slides] == ["a"]


def test_a_manifest_without_tiles_is_refused() -> None:
    with pytest.raises(ManifestError, match="no tiles"):
        resolve_mix(Manifest((), Path()))


def test_tiles_of_different_sizes_are_refused_naming_a_slide_of_each() -> None:
    manifest = Manifest((entry("a", ("0.5", 256, 1)), entry("b", ("0.5", 224, 1))))
    with pytest.raises(ManifestError, match="224 px in b, 256 px in a"):
        resolve_mix(manifest)


def test_the_mix_file_gives_shares_and_counts() -> None:
    manifest = Manifest((entry("a", ("0.5", 32, 4), organ="colon"), entry("b", ("0.5", 32, 5))))
    assert resolve_mix(manifest).to_json() == {
        "tiles": 9,
        "tile_size": 32,
        "mpp": [[0.5, 0.5]],
        "strata": [
            {"stain": "unknown", "organ": "colon", "share": 0.5, "tiles": 4, "slides": {"a": 4}},
            {"stain": "unknown", "organ": "unknown", "share": 0.5, "tiles": 5, "slides": {"b": 5}},
        ],
    }
