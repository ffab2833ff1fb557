"""The mix is what the manifest says: stain × organ, unknown where nothing is said."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from manifests import Manifest, ManifestError, StoreEntry, StoreError
from manifests.model import Selection
from manifests.tileset import TileSet
from pretrain.config import TrainConfig
from pretrain.errors import ConfigError
from pretrain.mixing.mix import Mix, Source, name_hash, resolve_mix
from tests.benchmarks.sampling import measure_sampling
from tests.pretrain.make import make_slide, numbered_tiles


def entry(root: Path, name: str, *sizes: tuple[str, int, int], **facts: Any) -> StoreEntry:
    """A store with (group, tile size, tiles) for each resolution."""
    facts = {"stain": None, "organ": None, **facts}
    return make_slide(
        root,
        name,
        {group: numbered_tiles(tiles, size=size) for group, size, tiles in sizes},
        **facts,
    )


def strata(mix: Mix) -> dict[str, list[str]]:
    """The slides of each stratum."""
    return {s.name: [slide.id for slide in s.slides] for s in mix.strata}


def shares(mix: Mix) -> dict[str, float]:
    """The probability of each stratum."""
    return {stratum.name: stratum.probability for stratum in mix.strata}


def mix_with(manifest: Manifest, **settings: Any) -> Mix:
    """The mix for these settings of a run."""
    return resolve_mix(manifest, TrainConfig(**settings))


def test_strata_are_stain_by_organ_and_missing_names_are_unknown(tmp_path: Path) -> None:
    manifest = Manifest(
        (
            entry(tmp_path, "a", ("0.5", 8, 4), stain="H&E", organ="colon"),
            entry(tmp_path, "b", ("0.5", 8, 5), stain="H&E", organ="lung"),
            entry(tmp_path, "c", ("0.5", 8, 6), stain="H&E", organ="colon"),
            entry(tmp_path, "d", ("0.5", 8, 7)),
        ),
        tmp_path,
    )
    mix = mix_with(manifest)
    assert strata(mix) == {
        "H&E × colon": ["a", "c"],
        "H&E × lung": ["b"],
        "unknown stain × unknown organ": ["d"],
    }
    assert mix.strata[0].key == (("stain", "H&E"), ("organ", "colon"))
    assert mix.strata[2].key == (("stain", "unknown"), ("organ", "unknown"))
    assert mix.tiles == 22


def test_all_resolutions_of_a_slide_are_its_tiles(tmp_path: Path) -> None:
    slide = entry(tmp_path, "a", ("0.25", 8, 3), ("0.5", 8, 2))
    mix = mix_with(Manifest((slide,), tmp_path))
    (found,) = mix.slides
    assert [found.locate(tile) for tile in range(5)] == [
        ("0.25", 0),
        ("0.25", 1),
        ("0.25", 2),
        ("0.5", 0),
        ("0.5", 1),
    ]
    with pytest.raises(IndexError, match="5 tiles"):
        found.locate(5)
    assert mix.mpps == ((0.25, 0.25), (0.5, 0.5))


def test_failed_and_empty_slides_are_left_out(tmp_path: Path) -> None:
    failed = StoreEntry(id="f", status="failed", source="f", reason="unreadable")
    empty = dataclasses.replace(entry(tmp_path, "e", ("0.5", 8, 0)), status="empty")
    hollow = entry(tmp_path, "h", ("0.5", 16, 0))
    stores = (failed, empty, hollow, entry(tmp_path, "a", ("0.5", 8, 1)))
    mix = mix_with(Manifest(stores, tmp_path))
    assert [slide.id for slide in mix.slides] == ["a"]


def test_tiles_that_could_not_be_read_have_no_number(tmp_path: Path) -> None:
    slide = entry(
        *(tmp_path, "a", ("0.25", 8, 5), ("0.5", 8, 30)),
        unread={"0.25": [0, 1, 3], "0.5": [7, *range(15, 29)]},
    )
    mix = mix_with(Manifest((slide,), tmp_path))
    (found,) = mix.slides
    expected = [("0.25", 2), ("0.25", 4)]
    expected += [("0.5", i) for i in (*range(7), *range(8, 15), 29)]
    assert mix.tiles == found.tiles == len(expected)
    assert [found.locate(tile) for tile in range(mix.tiles)] == expected
    assert mix.to_json()["strata"][0]["slides"] == {name_hash("a"): len(expected)}


def chosen(tiles: dict[str, list[int]]) -> Selection:
    """A selection of these tiles of each resolution."""
    return Selection(({"where": "x"},), {g: TileSet.of(members) for g, members in tiles.items()})


def drawn(mix: Mix) -> dict[str, list[tuple[str, int]]]:
    """All that can be drawn of each slide."""
    return {slide.id: [slide.locate(tile) for tile in range(slide.tiles)] for slide in mix.slides}


def test_only_selected_tiles_are_drawn_and_never_unread_ones(tmp_path: Path) -> None:
    slide = entry(tmp_path, "a", ("0.25", 8, 5), ("0.5", 8, 30), unread={"0.5": [4, 7]})
    other = entry(tmp_path, "b", ("0.5", 8, 3))
    slide = dataclasses.replace(slide, selection=chosen({"0.5": [3, 4, 29]}))
    other = dataclasses.replace(other, selection=chosen({}))
    mix = mix_with(Manifest((slide, other), tmp_path))
    assert drawn(mix) == {"a": [("0.5", 3), ("0.5", 29)]}


def test_a_split_is_drawn_from_alone_whole_stores_and_parts(tmp_path: Path) -> None:
    parts = {"train": {"0.5": TileSet.of([0, 2, 3])}, "test": {"0.5": TileSet.of([1])}}
    stores = (
        dataclasses.replace(entry(tmp_path, "a", ("0.5", 8, 2)), split="train"),
        dataclasses.replace(entry(tmp_path, "b", ("0.5", 8, 2)), split="test"),
        dataclasses.replace(
            entry(tmp_path, "c", ("0.5", 8, 4)), splits=parts, selection=chosen({"0.5": [1, 2, 3]})
        ),
        entry(tmp_path, "d", ("0.5", 8, 2)),
    )
    manifest = Manifest(stores, tmp_path)
    train = mix_with(manifest, split="train")
    assert drawn(train) == {"a": [("0.5", 0), ("0.5", 1)], "c": [("0.5", 2), ("0.5", 3)]}
    assert drawn(mix_with(manifest, split="test"))["c"] == [("0.5", 1)]
    assert mix_with(manifest).tiles == 9
    assert train.to_json()["split"] == "train"
    with pytest.raises(ManifestError, match="no tiles to train on in val"):
        mix_with(manifest, split="val")


def test_a_size_of_which_nothing_is_selected_is_no_hindrance(tmp_path: Path) -> None:
    slide = entry(tmp_path, "a", ("0.25", 16, 3), ("0.5", 8, 2))
    slide = dataclasses.replace(slide, selection=chosen({"0.5": [0]}))
    mix = mix_with(Manifest((slide,), tmp_path))
    assert (mix.tile_size, drawn(mix)) == (8, {"a": [("0.5", 0)]})


def test_a_store_whose_tiles_are_all_unread_counts_as_empty(tmp_path: Path) -> None:
    lost = entry(tmp_path, "lost", ("0.5", 8, 20), unread={"0.5": range(20)})
    half = entry(tmp_path, "half", ("0.25", 8, 3), ("0.5", 8, 2), unread={"0.25": range(3)})
    whole = entry(tmp_path, "whole", ("0.5", 8, 2), unread={})
    mix = mix_with(Manifest((lost, half, whole), tmp_path))
    assert {slide.id: slide.tiles for slide in mix.slides} == {"half": 2, "whole": 2}
    assert mix.mpps == ((0.5, 0.5),)
    with pytest.raises(ManifestError, match="or none that could be read whole"):
        mix_with(Manifest((lost,), tmp_path))


def test_where_all_tiles_were_read_no_list_of_them_is_kept(tmp_path: Path) -> None:
    (slide,) = mix_with(
        Manifest((entry(tmp_path, "a", ("0.5", 8, 9), unread={}),), tmp_path)
    ).slides
    assert slide.sources == (Source("0.5", (0.5, 0.5), 9),)


def test_a_manifest_without_tiles_is_refused() -> None:
    with pytest.raises(ManifestError, match="no tiles"):
        mix_with(Manifest((), Path()))


def test_tiles_of_different_sizes_are_refused_naming_a_slide_of_each(tmp_path: Path) -> None:
    stores = (entry(tmp_path, "a", ("0.5", 16, 1)), entry(tmp_path, "b", ("0.5", 8, 1)))
    with pytest.raises(ManifestError, match=r"8 px in b, 16 px in a; .*--resize 8"):
        mix_with(Manifest(stores, tmp_path))


def test_the_mix_file_gives_shares_and_counts(tmp_path: Path) -> None:
    stores = (
        entry(tmp_path, "a", ("0.5", 32, 4), organ="colon"),
        entry(tmp_path, "b", ("0.5", 32, 5)),
    )
    strata = [
        {
            "name": f"unknown stain × {name}",
            "fields": {"stain": "unknown", "organ": organ},
            "share": 0.5,
            "tiles": tiles,
            "patients": 1,
            "slides": {name_hash(slide): tiles},
        }
        for name, organ, tiles, slide in (
            ("colon", "colon", 4, "a"),
            ("unknown organ", "unknown", 5, "b"),
        )
    ]
    assert mix_with(Manifest(stores, tmp_path)).to_json() == {
        "split": None,
        "tiles": 9,
        "tile_size": 32,
        "mpp": [[0.5, 0.5]],
        "licences": [],
        "strata": strata,
    }


def test_a_mix_file_names_no_patient(study: Manifest) -> None:
    strata = mix_with(study, balance=("patient", "stain")).to_json()["strata"]
    names = {stratum["fields"]["patient"] for stratum in strata}
    assert names == {name_hash("p1"), name_hash("p2"), "unknown"}
    assert {stratum["name"].partition(" × ")[0] for stratum in strata} == {
        name_hash("p1"),
        name_hash("p2"),
        "unknown patient",
    }


def test_a_mix_file_has_the_licences_of_what_is_drawn(study: Manifest) -> None:
    licences = {"a": "CC-BY-4.0", "b": "CC0-1.0", "c": "CC-BY-4.0", "e": "GPL-3.0"}
    stores = tuple(dataclasses.replace(e, license=licences.get(e.id)) for e in study.stores)
    mix = mix_with(dataclasses.replace(study, stores=stores), weight=("stain=PAS:0",))
    assert mix.to_json()["licences"] == ["CC-BY-4.0", "CC0-1.0"]


def test_a_mix_file_names_no_slide(tmp_path: Path) -> None:
    made = mix_with(Manifest((entry(tmp_path, "patient-7", ("0.5", 8, 2)),), tmp_path)).to_json()
    assert "patient-7" not in json.dumps(made)
    assert len(name_hash("patient-7")) == 16


def cohort(root: Path) -> Manifest:
    """Slides of several stains, organs, sites and patients; packed pictures, two resolutions."""
    said: list[tuple[str, dict[str, Any]]] = [
        ("a", {"stain": "H&E", "organ": "colon", "site": "Ulm", "patient": "p1"}),
        ("b", {"stain": "IHC: Ki67", "organ": "colon", "site": "Ulm", "patient": "p1"}),
        ("c", {"stain": "Ki-67", "organ": "lung", "patient": "p2"}),
        ("d", {"stain": "HE", "organ": "lung", "site": "Graz", "packed": True}),
        ("e", {"stain": "PAS", "organ": "head, neck", "columns": {"grade": "3", "note": ""}}),
    ]
    made = []
    for number, (name, facts) in enumerate(said, 1):
        sizes = [("0.5", 8, 10 * number), *([("0.25", 8, 4)] if name == "a" else [])]
        made.append(dataclasses.replace(entry(root, name, *sizes), **facts))
    return Manifest(tuple(made), root)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The cohort, made once: not to be changed."""
    return cohort(tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        (("site",), {"Graz": "d", "Ulm": "ab", "unknown site": "ce"}),
        (("grade",), {"3": "e", "unknown grade": "abcd"}),
        (("patient",), {"p1": "ab", "p2": "c", "unknown patient": "de"}),
        (
            ("organ", "site"),
            {
                "colon × Ulm": "ab",
                "head, neck × unknown site": "e",
                "lung × Graz": "d",
                "lung × unknown site": "c",
            },
        ),
        (("mpp",), {"0.25 µm/px": "a", "0.5 µm/px": "abcde"}),
        (("none",), {"all tiles": "abcde"}),
        ((), {"all tiles": "abcde"}),
    ],
)
def test_any_fields_of_the_manifest_make_strata(
    study: Manifest, balance: tuple[str, ...], expected: dict[str, str]
) -> None:
    mix = mix_with(study, balance=balance)
    assert {name: "".join(slides) for name, slides in strata(mix).items()} == expected
    assert mix.tiles == 154
    assert all(share == pytest.approx(1 / len(expected)) for share in shares(mix).values())


def test_a_field_that_no_store_has_is_refused_naming_those_that_there_are(study: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"'scanner'.* there are stain, organ, mpp, grade, pat"):
        mix_with(study, balance=("organ", "scanner"))
    with pytest.raises(ConfigError, match="'note'"):
        mix_with(study, balance=("note",))


def test_a_resolution_in_another_stratum_takes_its_own_tiles_along(study: Manifest) -> None:
    mix = mix_with(study, balance=("mpp",))
    (fine,) = mix.strata[0].slides
    assert (fine.id, fine.patient) == ("a", "p1")
    assert [fine.locate(tile) for tile in range(fine.tiles)] == [("0.25", i) for i in range(4)]


@pytest.mark.parametrize(
    ("temperature", "power"), [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (2.0, 2.0), (0.3, 0.3)]
)
def test_strata_of_n_tiles_are_drawn_as_n_to_the_temperature(
    study: Manifest, temperature: float, power: float
) -> None:
    mix = mix_with(study, balance=("organ",), mix_temperature=temperature)
    sizes = {"colon": 34, "head, neck": 50, "lung": 70}
    total = sum(n**power for n in sizes.values())
    assert shares(mix) == pytest.approx({k: n**power / total for k, n in sizes.items()}, rel=1e-5)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (("stain=IHC*:3",), {"b": 3, "c": 3}),  # whatever the marker's stain is called
        (("stain=ihc: ki67:3",), {"b": 3, "c": 3}),
        (("stain=H&E:2",), {"a": 2, "d": 2}),  # and whatever its synonym
        (("organ=lung:0.5",), {"c": 0.5, "d": 0.5}),
        (("organ=lung,stain=H*E:4",), {"d": 4}),
        (("organ=head, neck:2",), {"e": 2}),
        (("organ=head, neck , stain=PAS:2",), {"e": 2}),
        (("organ=lung:0",), {"c": 0, "d": 0}),
        (("organ=lung:2", "stain=IHC*:3"), {"b": 3, "c": 6, "d": 2}),
        (("organ=*:7",), {}),
        (("organ=lung:1e-3",), {"c": 1e-3, "d": 1e-3}),
        (("organ=lung:1/3",), {"c": 1 / 3, "d": 1 / 3}),
    ],
)
def test_weights_multiply_the_shares_of_the_strata_that_they_fit(
    study: Manifest, rules: tuple[str, ...], expected: dict[str, float]
) -> None:
    mix = mix_with(study, weight=rules)
    factors = dict.fromkeys("abcde", 1.0) | expected
    total = sum(factors.values())
    found = {stratum.slides[0].id: stratum.probability for stratum in mix.strata}
    assert found == pytest.approx({k: f / total for k, f in factors.items() if f}, rel=1e-9)


def test_what_is_never_drawn_is_not_in_the_mix_and_hinders_nothing(
    tmp_path: Path,
) -> None:
    odd = entry(tmp_path, "odd", ("0.5", 16, 4), stain="odd")
    gone = dataclasses.replace(entry(tmp_path, "gone", ("0.5", 8, 4), stain="gone"), path="no.zarr")
    manifest = Manifest((*cohort(tmp_path).stores, odd, gone), tmp_path)
    mix = mix_with(manifest, weight=("stain=odd:0", "stain=gone:0"))
    assert mix.tile_size == 8
    assert {slide.id for slide in mix.slides} == set("abcde")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("stain=H&E", "must be FIELD=VALUE:FACTOR"),
        ("stain=IHC: Ki67", "must be FIELD=VALUE:FACTOR"),
        ("lung:2", "must be FIELD=VALUE:FACTOR"),
        ("=lung:2", "must be FIELD=VALUE:FACTOR"),
        ("organ=lung:-1", "must be FIELD=VALUE:FACTOR"),
        ("organ=lung:nan", "must be FIELD=VALUE:FACTOR"),
        ("organ=lung:inf", "must be FIELD=VALUE:FACTOR"),
        ("organ=lung:1/0", "must be FIELD=VALUE:FACTOR"),
        ("organ=lung:1e99", "0, or 1e-6 to 1e6"),
        ("site=Ulm:2", "told apart by stain and organ: name it with --balance"),
        ("organ=liver:2", "fits no stratum; there are organ: colon, head, neck, lung"),
        ("organ=lung,stain=PAS:2", r"fits no stratum; .*lung; stain: H&E, HE"),
        ("organ=*:0", "draw every stratum never"),
    ],
)
def test_a_weight_that_means_nothing_is_refused(study: Manifest, rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        mix_with(study, weight=(rule,))


def test_a_weighted_stratum_of_which_no_tile_is_left_is_named(
    study: Manifest,
) -> None:
    split = [dataclasses.replace(e, split="test" if e.id == "e" else "train") for e in study.stores]
    manifest = Manifest(tuple(split), study.root)
    with pytest.raises(ConfigError, match="PAS × head, neck, of which no tile is left in train"):
        mix_with(manifest, split="train", weight=("stain=PAS:2",))
    # Nobody asked for more of it, or others are meant as well.
    for weight in ((), ("stain=PAS:0",), ("organ=*:2",)):
        assert len(mix_with(manifest, split="train", weight=weight).strata) == 4


def test_tiles_of_different_sizes_are_brought_to_one_and_their_resolution_says_so(
    tmp_path: Path,
) -> None:
    stores = (entry(tmp_path, "a", ("0.5", 16, 1)), entry(tmp_path, "b", ("0.5", 64, 1)))
    mix = mix_with(Manifest(stores, tmp_path), resize=32)
    assert (mix.tile_size, mix.mpps) == (32, ((0.25, 0.25), (1.0, 1.0)))


def test_an_uncommitted_and_a_missing_store_are_named_at_the_start(tmp_path: Path) -> None:
    manifest = cohort(tmp_path)
    (tmp_path / "b.zarr" / "commit.json").unlink()
    with pytest.raises(StoreError, match=r"b\.zarr is not committed"):
        mix_with(manifest)
    shutil.rmtree(tmp_path / "b.zarr")
    with pytest.raises(StoreError, match=r"there is no store at .*b\.zarr"):
        mix_with(manifest)


def test_stores_are_not_opened_to_know_the_mix(tmp_path: Path) -> None:
    manifest = cohort(tmp_path)
    for metadata in tmp_path.rglob("zarr.json"):
        metadata.unlink()
    assert mix_with(manifest).tiles == 154


def test_only_packed_stores_of_no_patient_are_exempt_from_caps(study: Manifest) -> None:
    assert {slide.id for slide in mix_with(study).slides if slide.pooled} == {"d"}
    of_one = tuple(dataclasses.replace(e, patient="p") for e in study.stores if e.id == "d")
    assert not mix_with(dataclasses.replace(study, stores=of_one)).slides[0].pooled


def test_patients_are_counted_and_unknown_ones_are_the_slides(study: Manifest) -> None:
    mix = mix_with(study, balance=())
    assert [slide.patient for slide in mix.slides] == ["p1", "p1", "p2", None, None]
    assert mix.strata[0].patients == 4


@pytest.mark.slow
def test_a_hundred_million_tiles_take_seconds_and_little_memory() -> None:
    measured = measure_sampling(stores=30_000)
    assert measured.tiles > 100_000_000
    assert measured.peak_mib < 1024
