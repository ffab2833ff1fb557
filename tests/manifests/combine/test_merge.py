"""Merging is a join of what manifests know, and every contradiction is listed."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.cli import manifest as command
from manifests.combine.conflicts import ConflictsFound
from manifests.combine.merge import Merged, content_digest, merge, specs
from manifests.files import pretty_json
from manifests.jsonfile import load_manifest, manifest_json, save_manifest
from manifests.model import Manifest, SlideInfo, StoreEntry
from manifests.placing import MisplacedManifest
from manifests.tileset import TileSet
from manifests.vocabulary import load_vocabulary
from tests.manifests.make_manifest import done_entry, failed_entry, full_manifest

ROOT = Path("/data")
WORDS = load_vocabulary()


def uuid_of(number: int) -> str:
    """Some UUID."""
    return f"00000000-0000-0000-0000-{number:012d}"


def slide_info(fingerprint: str) -> SlideInfo:
    """What a slide says of itself."""
    return SlideInfo("openslide", "aperio", "jpeg", fingerprint)


def entry(number: int, **changes: Any) -> StoreEntry:
    """A small store of its own slide and patient."""
    fields: dict[str, Any] = {
        "id": f"s{number}",
        "status": "done",
        "source": f"s{number}.svs",
        "path": f"s{number}.zarr",
        "uuid": uuid_of(number),
        "spec_hash": "ab" * 32,
        "slide": slide_info(f"sha256:{number}"),
    }
    return StoreEntry(**{**fields, **changes})


def merged(*manifests: Manifest, folder: Path = ROOT, **options: Any) -> Merged:
    """Merge manifests named `m/manifest.json`; equal content, equal name."""
    named = [("m/manifest.json", manifest) for manifest in manifests]
    return merge(named, folder, vocabulary=WORDS, **options)


def text(manifest: Manifest) -> bytes:
    """The bytes that a manifest is saved as."""
    return pretty_json(manifest_json(manifest))


FACTS = {"organ": "lung", "stain": "H&E", "dataset": "BACH", "patient": "P", "site": "A"}


@st.composite
def partial_manifests(draw: st.DrawFn) -> list[Manifest]:
    """Manifests that each know a part of one truth: subsets of stores and of their facts."""
    count = draw(st.integers(2, 4))
    manifests = []
    for _ in range(count):
        entries = []
        for number in draw(st.sets(st.integers(0, 5))):
            known = {k: f"{v}{number}" for k, v in FACTS.items() if draw(st.booleans())}
            if draw(st.integers(0, 4)) == 0:
                reason = draw(st.sampled_from(["full disk", "no mpp"]))
                entries.append(failed_entry(f"s{number}", reason=reason, source=f"{number}.svs"))
                continue
            if draw(st.booleans()):
                known["commit"] = f"{number:064d}"
            if number % 2 and draw(st.booleans()):
                known["split"] = "test"
            extra: dict[str, Any] = {"x-lab": number} if draw(st.booleans()) else {}
            columns = {"batch": f"{number}"} if draw(st.booleans()) else {}
            warnings = tuple(draw(st.permutations(["b", "a"]))[: draw(st.integers(0, 2))])
            entries.append(entry(number, extra=extra, columns=columns, warnings=warnings, **known))
        extra = {"x-note": "kept"} if draw(st.booleans()) else {}
        made: tuple[dict[str, Any], ...] = ({"by": "patient"},) if draw(st.booleans()) else ()
        manifests.append(Manifest(tuple(entries), ROOT, extra=extra, splits=made))
    return manifests


@settings(max_examples=300)
@given(partial_manifests())
def test_neither_order_nor_repetition_changes_a_byte(manifests: list[Manifest]) -> None:
    expected = text(merged(*manifests).manifest)
    for order in itertools.islice(itertools.permutations(manifests), 6):
        assert text(merged(*order).manifest) == expected
    assert text(merged(*manifests, *manifests).manifest) == expected


@settings(max_examples=300)
@given(partial_manifests())
def test_grouping_changes_no_byte(manifests: list[Manifest]) -> None:
    expected = text(merged(*manifests).manifest)
    for cut in range(1, len(manifests)):
        left = merged(*manifests[:cut]).manifest
        right = merged(*manifests[cut:]).manifest
        assert text(merged(left, right).manifest) == expected
        assert text(merged(left, *manifests[cut:]).manifest) == expected


@given(partial_manifests())
def test_merging_a_merged_manifest_again_gives_it_back(manifests: list[Manifest]) -> None:
    once = merged(*manifests).manifest
    assert text(merged(once).manifest) == text(merged(once, once).manifest) == text(once)
    assert text(merged(once, manifests[0]).manifest) == text(once)


@given(partial_manifests())
def test_nothing_that_any_manifest_knows_is_lost(manifests: list[Manifest]) -> None:
    found = {e.id: e for e in merged(*manifests).manifest.stores}
    assert found.keys() == {e.id for m in manifests for e in m.stores}
    for original in (e for m in manifests for e in m.stores if e.status == "done"):
        kept = found[original.id]
        for field in (*FACTS, "commit", "split"):
            assert getattr(original, field) in (None, getattr(kept, field))
        assert original.columns.items() <= kept.columns.items()
        assert original.extra.items() <= kept.extra.items()
        assert set(original.warnings) <= set(kept.warnings)
        assert kept.status == "done"


def test_every_entry_says_which_manifests_it_came_from() -> None:
    one, two = Manifest((entry(1), entry(2)), ROOT), Manifest((entry(2), entry(3)), ROOT)
    found = merge([("a/one.json", one), ("b/two.json", two)], ROOT, vocabulary=WORDS).manifest
    names = {key: source.name for key, source in found.inputs.items()}
    assert names == {content_digest(one): "a/one.json", content_digest(two): "b/two.json"}
    assert {key: source.stores for key, source in found.inputs.items()} == dict.fromkeys(names, 2)
    by_id = {e.id: {names[key] for key in e.inputs} for e in found.stores}
    assert by_id == {"s1": {"a/one.json"}, "s2": {"a/one.json", "b/two.json"}, "s3": {"b/two.json"}}


def conflicts_of(*manifests: Manifest, **options: Any) -> list[str]:
    """The sentences of the conflicts that a merge ends with."""
    with pytest.raises(ConflictsFound) as caught:
        merged(*manifests, **options)
    assert caught.value.exit_code == 6
    sentences = [conflict.sentence for conflict in caught.value.conflicts]
    assert all(sentence in str(caught.value) for sentence in sentences)
    return sentences


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"uuid": uuid_of(9)}, "two stores have the id s1"),
        ({"commit": "0" * 64}, "two contents"),
        ({"bytes": 7}, "two contents"),
        ({"slide": slide_info("sha256:9")}, "two contents"),
        ({"organ": "colon"}, "s1 has two values of organ: 'colon' and 'lung'"),
        ({"patient": "Q"}, "s1 has two values of patient"),
        ({"split": "train"}, "s1 has two values of split"),
        ({"columns": {"batch": "2"}}, "two values of 'batch'"),
        ({"extra": {"x-lab": 2}}, "two values of 'x-lab'"),
    ],
)
def test_two_contents_or_facts_of_one_store_are_a_conflict(
    changes: dict[str, Any], says: str
) -> None:
    known: dict[str, Any] = {
        **{"organ": "lung", "patient": "P", "split": "test", "commit": "1" * 64},
        **{"columns": {"batch": "1"}, "extra": {"x-lab": 1}},
    }
    one = Manifest((entry(1, **known),), ROOT)
    two = Manifest((entry(1, **{**known, **changes}),), ROOT)
    [sentence] = conflicts_of(one, two)
    assert says in sentence
    first = merged(one, two, on_conflict="first")
    assert first.manifest.stores[0] == replace(
        one.stores[0], inputs=tuple(sorted(first.manifest.inputs))
    )
    assert merged(two, one, on_conflict="drop").manifest.stores == ()


@pytest.mark.parametrize("fact", ["organ", "stain", "patient"])
def test_one_slide_cut_twice_must_be_said_to_be_one_thing(fact: str) -> None:
    twin = slide_info("sha256:1")
    one = Manifest((entry(1, **{fact: "lung"}), entry(3)), ROOT)
    two = Manifest((entry(2, slide=twin, **{fact: "colon"}),), ROOT)
    [sentence] = conflicts_of(one, two)
    assert sentence == (
        f"the slide of s1 and s2 has two values of {fact}: 'colon' (s2), 'lung' (s1)"
    )
    first = merged(two, one, on_conflict="first").manifest
    assert [getattr(e, fact) for e in first.stores] == ["colon", "colon", None]
    dropped = merged(one, two, on_conflict="drop")
    assert [e.id for e in dropped.manifest.stores] == ["s3"]
    assert [c.sentence for c in dropped.conflicts] == [sentence]


def test_labels_of_one_slide_must_agree_too() -> None:
    twin = slide_info("sha256:1")
    one = Manifest((entry(1, columns={"label": "tumour"}),), ROOT)
    two = Manifest((entry(2, slide=twin, columns={"label": "normal"}),), ROOT)
    [sentence] = conflicts_of(one, two)
    assert "two values of label: 'normal' (s2), 'tumour' (s1)" in sentence
    first = merged(one, two, on_conflict="first").manifest
    assert [e.columns["label"] for e in first.stores] == ["tumour", "tumour"]
    packed = [{"packed": True, "labels": ("a",)}, {"packed": True, "labels": ("b",)}]
    one, two = (Manifest((entry(i, slide=twin, **packed[i]),), ROOT) for i in range(2))
    assert "two values of labels" in conflicts_of(one, two)[0]


def test_a_patient_must_not_lie_in_two_splits() -> None:
    one = Manifest((entry(1, patient="P", split="train"), entry(4, patient="Q")), ROOT)
    two = Manifest((entry(2, patient="P", split="test"), entry(3, patient="P")), ROOT)
    [sentence] = conflicts_of(one, two)
    assert sentence == "the patient 'P' lies in two splits: 'test' (s2), 'train' (s1)"
    first = merged(one, two, on_conflict="first").manifest
    assert [e.split for e in first.stores] == ["train", "train", "train", None]
    assert [e.id for e in merged(one, two, on_conflict="drop").manifest.stores] == ["s4"]


def test_one_slide_must_not_lie_in_two_splits() -> None:
    one = Manifest((entry(1, split="train"),), ROOT)
    two = Manifest((entry(2, slide=slide_info("sha256:1"), split="val"),), ROOT)
    [sentence] = conflicts_of(one, two)
    assert sentence == "one slide lies in two splits: 'train' (s1), 'val' (s2)"


def test_a_packed_store_may_have_parts_in_several_splits() -> None:
    full = full_manifest().stores[1]
    parts = {"train": {"0.5": TileSet.of([0, 1])}, "test": {"0.5": TileSet.of([2])}}
    stores = (replace(full, splits=parts, patient=None, columns={}),)
    found = merged(Manifest(stores, ROOT)).manifest
    assert found.stores[0].splits == parts


def test_all_conflicts_are_listed_not_the_first_alone() -> None:
    one = Manifest(tuple(entry(i, organ="lung") for i in range(30)), ROOT)
    two = Manifest(tuple(entry(i, organ="colon") for i in range(30)), ROOT)
    assert len(conflicts_of(one, two)) == 30


def test_synonyms_are_one_term_and_no_conflict() -> None:
    one = Manifest((entry(1, organ="LN", stain="HE"),), ROOT)
    two = Manifest((entry(1, organ="lymph node", stain="H & E"),), ROOT)
    found = merged(one, two)
    assert (found.manifest.stores[0].organ, found.manifest.stores[0].stain) == ("lymph node", "H&E")
    assert found.unknown_terms == ()


def test_unknown_terms_are_kept_and_listed_with_the_nearest() -> None:
    found = merged(Manifest((entry(1, organ="kidneyy", stain="XYZZY-7"),), ROOT))
    assert found.manifest.stores[0].organ == "kidneyy"
    assert ("organ", "kidneyy", "kidney") in found.unknown_terms
    assert [term for _, term, _ in found.unknown_terms] == ["kidneyy", "XYZZY-7"]


def test_a_slide_that_failed_gives_way_to_its_store() -> None:
    one = Manifest((failed_entry("s1", organ="colon"),), ROOT)
    two = Manifest((entry(1, organ="lung"),), ROOT)
    for order in ((one, two), (two, one)):
        [kept] = merged(*order).manifest.stores
        assert (kept.status, kept.organ) == ("done", "lung")


def test_a_store_under_two_ids_is_told_and_kept() -> None:
    found = merged(Manifest((entry(1), entry(2, uuid=uuid_of(1))), ROOT))
    assert found.twice == (("s1", "s2"),)
    assert len(found.manifest.stores) == 2


def test_prefixed_ids_tell_data_sets_apart_and_are_prefixed_once() -> None:
    one = Manifest((entry(1, dataset="BACH"),), ROOT)
    two = Manifest((entry(1, uuid=uuid_of(2), dataset="CRC/x y"),), ROOT)
    assert len(conflicts_of(one, two)) == 1
    found = merged(one, two, prefix_ids="dataset").manifest
    assert [e.id for e in found.stores] == ["BACH.s1", "CRC_x_y.s1"]
    again = merged(found, one, prefix_ids="dataset").manifest
    assert [e.id for e in again.stores] == ["BACH.s1", "CRC_x_y.s1"]


def test_the_same_slides_cut_twice_are_told_apart_by_their_folders() -> None:
    half = Manifest((entry(1),), ROOT / "half")
    whole = Manifest((entry(1, uuid=uuid_of(2)),), ROOT / "whole")
    named = [("half/manifest.json", half), ("whole/manifest.json", whole)]
    found = merge(named, ROOT, vocabulary=WORDS, prefix_ids="folder").manifest
    assert [e.id for e in found.stores] == ["half.s1", "whole.s1"]
    again = merge([("x/set.json", found)], ROOT, vocabulary=WORDS, prefix_ids="folder").manifest
    assert text(again) == text(found)


def test_different_specs_are_shown_and_only_forbidden_on_demand() -> None:
    full = full_manifest().stores[1]
    other = replace(full, id="z", uuid=uuid_of(8), path="z.zarr", codec={"name": "zstd"})
    both = Manifest((full, replace(other, resolutions=full.resolutions[:1])), ROOT)
    found = specs(merged(both).manifest.stores)
    assert found == {
        ("0.5", 256, "jpeg 90 444"): (1, 1200),
        ("0.5", 256, "zstd"): (1, 1200),
        ("1", 256, "jpeg 90 444"): (1, 300),
    }
    [sentence] = conflicts_of(both, require_same_spec=True, on_conflict="first")
    assert "cut in 3 ways" in sentence


def test_codecs_are_named_alike_however_their_settings_are_ordered() -> None:
    full = full_manifest().stores[1]
    one = replace(full, codec={"name": "zstd", "level": 3}, resolutions=full.resolutions[:1])
    two = replace(one, id="z", uuid=uuid_of(8), path="z.zarr", codec={"level": 3, "name": "zstd"})
    assert specs((one, two)) == {("0.5", 256, "zstd 3"): (2, 2400)}


def test_paths_are_written_anew_and_urls_kept(tmp_path: Path) -> None:
    one = Manifest((entry(1, path="deep/s1.zarr"),), tmp_path / "a")
    two = Manifest((entry(2, path="s3://bucket/s2.zarr"), failed_entry("s3")), tmp_path / "b/c")
    found = merged(one, two, folder=tmp_path).manifest
    assert [e.path for e in found.stores] == ["a/deep/s1.zarr", "s3://bucket/s2.zarr", None]
    moved = Manifest((entry(1, path="a/s1.zarr"),), tmp_path)
    assert merged(moved, folder=tmp_path / "a").manifest.stores[0].path == "s1.zarr"


def test_a_manifest_below_its_stores_is_refused_naming_where_it_may_lie(tmp_path: Path) -> None:
    one, two = (Manifest((entry(i),), tmp_path / name) for i, name in ((1, "a"), (2, "b")))
    with pytest.raises(MisplacedManifest, match=f"s1 for one.*write this one to {tmp_path}$"):
        merged(one, two, folder=tmp_path / "sets")


def run(*arguments: str | Path) -> Any:
    """The command, with its exit code and output."""
    return CliRunner().invoke(command, ["merge", *map(str, arguments)])


def test_the_command_writes_and_tells(tmp_path: Path) -> None:
    for name, number in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        more = [done_entry("full", path="full.zarr", organ="brest")] if name == "a" else []
        save_manifest(Manifest((*more, entry(number))), tmp_path / name / "manifest.json")
    out = tmp_path / "all.json"
    ran = run(tmp_path / "a", tmp_path / "b/manifest.json", "-o", out)
    assert ran.exit_code == 0, ran.stderr
    assert "3 entries and 1,500 tiles of 2 manifests; 0 were there already" in ran.stdout
    assert "0.5 µm/px, 256 px, jpeg 90 444: 1,200 tiles of 1 store" in ran.stdout
    assert "from a/manifest.json" in ran.stdout
    assert "'brest' is not in the vocabulary; did you mean breast?" in ran.stderr
    found = load_manifest(out)
    assert [e.path for e in found.stores] == ["a/full.zarr", "a/s1.zarr", "b/s2.zarr"]
    before = out.read_bytes()
    as_json = json.loads(run(out, tmp_path / "b", "-o", out, "--json").stdout)
    assert (as_json["entries"], as_json["repeated"], as_json["conflicts"]) == (3, 1, [])
    assert out.read_bytes() == before


def test_the_command_lists_conflicts_and_leaves_the_old_file(tmp_path: Path) -> None:
    for name, organ in (("a", "lung"), ("b", "colon")):
        (tmp_path / name).mkdir()
        save_manifest(Manifest((entry(1, organ=organ),)), tmp_path / name / "manifest.json")
    out = tmp_path / "all.json"
    out.write_text("old")
    ran = run(tmp_path / "a", tmp_path / "b", "-o", out)
    assert (ran.exit_code, ran.stdout, out.read_text()) == (6, "", "old")
    assert "s1 has two values of organ: 'colon' and 'lung'" in ran.stderr
    ran = run(tmp_path / "a", tmp_path / "b", "-o", out, "--on-conflict", "first")
    assert ran.exit_code == 0
    assert "Note: s1 has two values of organ" in ran.stderr
    assert load_manifest(out).stores[0].organ == "lung"
