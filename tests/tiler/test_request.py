"""Requests: which stores a run makes, under which names, and what is known of each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manifests.checks import check_name
from manifests.slidetable import Row, SlidesTable
from manifests.vocabulary import load_vocabulary
from tiler.errors import TilerError
from tiler.extract import SlideJob
from tiler.options import TileSpec
from tiler.packed import PackedJob
from tiler.request import Request, Work, Workload, assign_ids, make_workload
from tiler.roi import EXCLUDE_CLASSES, load_rois
from tiler.slides import Source

SPEC = TileSpec((0.5,))
TIFF_START = b"II*\0"


def touched(folder: Path, *names: str) -> Path:
    """A folder with files that look like TIFFs from outside."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(TIFF_START)
    return folder


def works(folder: Path, **asked: Any) -> dict[str, Work]:
    made = make_workload(Request((folder,), folder / "out", SPEC, **asked))
    return {work.source_name: work for work in made.works}


def source(path: str) -> Source:
    return Source(Path(path), Path(path).stem, (Path(path),), "slide")


def ids(*paths: str, given: Mapping[str, str] | None = None) -> dict[str, str]:
    asked = [(given or {}).get(path) for path in paths]
    return dict(zip(paths, assign_ids([source(path) for path in paths], asked), strict=True))


class TestIds:
    def test_a_slide_is_named_by_its_file(self) -> None:
        assert list(ids("/d/a.svs", "/e/b c.svs").values()) == ["a", "b c"]

    @pytest.mark.parametrize(
        ("paths", "names"),
        [
            (["/d/a.svs", "/d/a.tif"], ["a-svs", "a-tif"]),
            (["/d/a.svs", "/e/a.svs"], ["d-a", "e-a"]),
            (["/d/a.svs", "/d/a.tif", "/e/a.svs"], ["d-a", "a-tif", "e-a"]),
            (["/d/a.svs", "/d/a.tif", "/d/a-svs.png"], ["d-a", "a-tif", "a-svs"]),
            (["/d/a.svs", "/e/A.tif"], ["a-svs", "A-tif"]),
        ],
        ids=["suffix", "folder", "both", "a name that looks solved", "letter case"],
    )
    def test_a_clash_is_solved_by_suffix_then_folder(
        self, paths: list[str], names: list[str]
    ) -> None:
        assert list(ids(*paths).values()) == names

    def test_a_clash_that_names_cannot_solve_is_solved_by_the_path(self) -> None:
        found = ids("/x/1/slides/a.svs", "/x/2/slides/a.svs")
        assert len(set(found.values())) == 2
        assert all(name.startswith("a-") for name in found.values())
        assert found.items() <= ids(*found, "/x/3/slides/b.svs").items()

    @settings(deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from("de"), st.sampled_from("abAB"), st.sampled_from(("svs", "tif"))
            ),
            unique=True,
            min_size=1,
        )
    )
    def test_names_are_unique_and_hang_on_no_order_and_no_unrelated_slide(
        self, parts: list[tuple[str, str, str]]
    ) -> None:
        paths = [f"/{folder}/{stem}.{suffix}" for folder, stem, suffix in parts]
        found = ids(*paths)
        assert len({name.casefold() for name in found.values()}) == len(paths)
        assert ids(*reversed(paths)) == found
        assert ids(*paths, "/d/unrelated.svs", "/z/other.tif") == found | {
            "/d/unrelated.svs": "unrelated",
            "/z/other.tif": "other",
        }

    def test_the_table_names_a_slide_and_others_make_way(self) -> None:
        found = ids("/d/a.svs", "/d/b.svs", given={"/d/b.svs": "a"})
        assert found == {"/d/b.svs": "a", "/d/a.svs": "a-svs"}

    @pytest.mark.parametrize(("one", "other"), [("x", "x"), ("x/y", "x:y"), ("x", "X")])
    def test_one_id_for_two_slides_is_refused(self, one: str, other: str) -> None:
        with pytest.raises(TilerError, match=r"gives the id 'x.*' to two slides"):
            ids("/d/a.svs", "/d/b.svs", given={"/d/a.svs": one, "/d/b.svs": other})

    @pytest.mark.parametrize(
        ("name", "safe"),
        [
            ("a/b", "a_b"),
            ("a\\b:c", "a_b_c"),
            ("..", "slide"),
            (".", "slide"),
            ("../../etc/passwd", "_.._etc_passwd"),
            (" .hidden. ", "hidden"),
            ("a\nb\x00c\x1b[31m", "a_b_c__31m"),
            ("Präparat 7", "Präparat 7"),
            ("组织切片", "组织切片"),
            ("bad\udcff", "bad_"),
            ("H&E #1 (x)", "H_E _1 (x)"),
        ],
    )
    def test_a_hostile_name_becomes_a_plain_one(self, name: str, safe: str) -> None:
        assert assign_ids([source("/d/a.svs")], [name]) == [safe]

    @settings(deadline=None)
    @given(st.lists(st.text(min_size=1), min_size=1, max_size=8))
    def test_whatever_the_names_stores_are_plain_folders_of_their_own(
        self, stems: list[str]
    ) -> None:
        sources = [
            Source(Path(f"/d/{number}/x.svs"), stem, (), "slide")
            for number, stem in enumerate(stems)
        ]
        found = assign_ids(sources, [None] * len(sources))
        assert len({name.casefold() for name in found}) == len(stems)
        for name in found:
            check_name(name, "id")
            assert not name.startswith(".")
            assert name == name.strip(" .")
            assert len(f".{name}.zarr.0123456789ab.tmp".encode()) <= 255

    @pytest.mark.parametrize("letter", ["a", "Ä", "组", "𝔸"])
    def test_long_names_are_cut_and_stay_apart(self, tmp_path: Path, letter: str) -> None:
        long = letter * 250
        found = ids(f"/d/{long}1.svs", f"/d/{long}2.svs", f"/e/{long}1.svs")
        assert len(set(found.values())) == 3
        for name in found.values():
            (tmp_path / f"{name}.zarr").mkdir()

    @pytest.mark.parametrize("clashing", [False, True])
    def test_thirty_thousand_slides_are_named_in_two_seconds(self, clashing: bool) -> None:
        stem = "slide" if clashing else "slide-{0}"
        paths = [f"/data/{i}/{stem.format(i)}.svs" for i in range(30_000)]
        begun = time.perf_counter()
        found = ids(*paths)
        assert time.perf_counter() - begun < 2
        assert len(set(found.values())) == 30_000


class TestWhatIsKnown:
    BARCODE = "TCGA-CR-7395-01A-01-TS1.svs"

    def test_table_over_constants_over_barcode(self, tmp_path: Path) -> None:
        touched(tmp_path, self.BARCODE)
        assert works(tmp_path)[self.BARCODE].curated == {
            "patient": "TCGA-CR-7395",
            "site": "CR",
            "sample_type": "Primary Solid Tumor",
        }
        constants = {"site": "here", "organ": "lung", "stain": "H&E"}
        row = Row("TCGA-CR-7395-01A-01-TS1", curated={"organ": "skin", "patient": "p1"})
        found = works(tmp_path, constants=constants, table=SlidesTable([row]))
        assert found[self.BARCODE].curated == {
            "patient": "p1",
            "site": "here",
            "sample_type": "Primary Solid Tumor",
            "organ": "skin",
            "stain": "H&E",
        }

    def test_the_row_of_a_slide_reaches_its_job(self, tmp_path: Path) -> None:
        row = Row("a.svs", id="case-1", mpp=0.3, columns={"age": "61"})
        found = works(
            touched(tmp_path, "a.svs", "b.svs"), table=SlidesTable([row]), assumed_mpp=0.5
        )
        a, b = found["case-1"], found["b.svs"]
        assert isinstance(a.job, SlideJob)
        assert isinstance(b.job, SlideJob)
        assert (a.job.id, a.job.table_mpp, a.job.assumed_mpp) == ("case-1", 0.3, 0.5)
        assert (b.job.id, b.job.table_mpp, b.job.assumed_mpp) == ("b", None, 0.5)
        assert a.job.store == tmp_path / "out" / "case-1.zarr"
        assert (a.columns, b.columns) == ({"age": "61"}, {})

    def test_works_are_sorted_and_name_no_folder(self, tmp_path: Path) -> None:
        touched(tmp_path, "z/c.svs", "y/b.svs", "x/a.svs")
        made = make_workload(Request((tmp_path,), tmp_path / "out", SPEC))
        assert [work.job.id for work in made.works] == ["a", "b", "c"]
        assert [work.source_name for work in made.works] == ["a.svs", "b.svs", "c.svs"]
        assert made.notes == ()

    def test_a_name_that_is_no_utf8_can_be_written_to_a_manifest(self, tmp_path: Path) -> None:
        path = os.fsencode(tmp_path) + b"/bad\xff.svs"
        try:
            with open(path, "wb") as file:
                file.write(TIFF_START)
        except OSError:
            pytest.skip("this file system takes UTF-8 alone")
        (work,) = works(tmp_path).values()
        assert (work.job.id, work.source_name) == ("bad_", "bad?.svs")
        assert os.fsencode(work.job.source.path) == path
        with pytest.raises(TilerError, match=r"in UTF-8, and these names are none: bad\?\.svs"):
            works(tmp_path, packed=True, assumed_mpp=0.5)

    def test_what_is_left_over_is_noted(self, tmp_path: Path) -> None:
        touched(tmp_path, "a.svs")
        for name in ("notes.txt", "b.csv", "c.md", "d.log"):
            (tmp_path / name).write_text("text")
        table = SlidesTable([Row("a.svs"), Row("gone.svs")])
        made = make_workload(Request((tmp_path,), tmp_path / "out", SPEC, table))
        assert made.notes == (
            "ignored 4 files that are no images: b.csv, c.md, d.log, …",
            "1 rows of the slides table match no slide: gone.svs",
        )

    @pytest.mark.parametrize(("packed", "kind"), [(False, "slide"), (True, "picture")])
    def test_nothing_to_do_is_refused(self, tmp_path: Path, packed: bool, kind: str) -> None:
        with pytest.raises(TilerError, match=f"there is no {kind} in"):
            works(tmp_path, packed=packed)


def geojson(path: Path, name: str = "Tumor", x: int = 0) -> Path:
    ring = [[x, 0], [x + 100, 0], [x + 100, 100], [x, 100]]
    feature = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": name}},
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(feature), encoding="utf-8")
    return path


class TestRegions:
    @staticmethod
    def job(work: Work) -> SlideJob:
        assert isinstance(work.job, SlideJob)
        return work.job

    def test_one_file_serves_all_slides(self, tmp_path: Path) -> None:
        roi = geojson(tmp_path / "all.geojson")
        found = works(touched(tmp_path / "slides", "a.svs", "b.svs"), roi=roi)
        assert {self.job(work).roi for work in found.values()} == {roi}
        assert {self.job(work).roi_digest for work in found.values()} == {load_rois(roi).digest}

    def test_a_folder_serves_each_slide_by_its_name_and_the_rest_is_said(
        self, tmp_path: Path
    ) -> None:
        slides = touched(tmp_path / "slides", "a.svs", "b.ome.tif", "c.svs")
        a = geojson(tmp_path / "rois" / "a.geojson")
        b = geojson(tmp_path / "rois" / "b.json", x=50)
        made = make_workload(Request((slides,), tmp_path / "out", SPEC, roi=tmp_path / "rois"))
        rois = {work.source_name: self.job(work).roi for work in made.works}
        assert rois == {"a.svs": a, "b.ome.tif": b, "c.svs": None}
        assert made.notes == ("1 slides have no file in the --roi folder: c.svs",)

    def test_the_table_names_a_file_beside_itself_and_wins(self, tmp_path: Path) -> None:
        other = geojson(tmp_path / "all.geojson")
        mine = geojson(tmp_path / "table" / "mine.geojson", x=7)
        table = SlidesTable([Row("a.svs", roi="mine.geojson")], mine.parent)
        found = works(touched(tmp_path / "slides", "a.svs", "b.svs"), table=table, roi=other)
        assert self.job(found["a.svs"]).roi == mine
        assert self.job(found["b.svs"]).roi == other

    def test_a_file_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        table = SlidesTable([Row("a.svs", roi="none.geojson")], tmp_path)
        with pytest.raises(TilerError, match=r"none\.geojson cannot be read"):
            works(touched(tmp_path / "slides", "a.svs"), table=table)

    def test_the_usual_classes_are_excluded_besides_those_asked_for(self, tmp_path: Path) -> None:
        roi = geojson(tmp_path / "all.geojson", name="Ignore*")
        (work,) = works(touched(tmp_path / "slides", "a.svs"), roi=roi).values()
        excluding = load_rois(roi, EXCLUDE_CLASSES)
        assert excluding.exclude
        assert self.job(work).roi_digest == excluding.digest
        roi = geojson(tmp_path / "all.geojson", name="Fold")
        (work,) = works(tmp_path / "slides", roi=roi, roi_exclude=("Fold",)).values()
        assert self.job(work).roi_digest == load_rois(roi, ("Fold",)).digest

    def test_regions_that_change_make_another_spec(self, tmp_path: Path) -> None:
        slides = touched(tmp_path / "slides", "a.svs")
        specs = []
        for x in (0, 0, 1):
            (work,) = works(slides, roi=geojson(tmp_path / "all.geojson", x=x)).values()
            specs.append(self.job(work).spec_json())
        (work,) = works(slides).values()
        assert specs[0] == specs[1] != specs[2]
        assert self.job(work).spec_json() not in specs

    def test_without_tissue_the_least_share_of_the_regions_is_part_of_the_spec(
        self, tmp_path: Path
    ) -> None:
        roi = geojson(tmp_path / "all.geojson")
        (work,) = works(touched(tmp_path / "slides", "a.svs"), roi=roi).values()
        job = self.job(work)
        few, many = (
            replace(job, spec=replace(SPEC, tissue=False, min_tissue=share)).spec_json()
            for share in (0.1, 0.9)
        )
        assert few != many


def jpegs(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xff\xd8\xff")
    return folder


def packed(folder: Path, **asked: Any) -> list[PackedJob]:
    asked = {"assumed_mpp": 0.5} | asked
    found = make_workload(Request((folder,), folder / "out", SPEC, packed=True, **asked)).works
    jobs = [work.job for work in found]
    assert all(isinstance(job, PackedJob) for job in jobs)
    return [job for job in jobs if isinstance(job, PackedJob)]


def labels(job: PackedJob) -> dict[str, str | None]:
    return {p.name: None if p.label is None else job.labels[p.label] for p in job.pictures}


NAMES = ("lung_aca/1.jpeg", "lung_n/2.jpeg", "colon_aca/3.jpeg")


class TestPacked:
    def test_a_folder_becomes_one_store(self, tmp_path: Path) -> None:
        folder = jpegs(tmp_path / "lc25000", *NAMES)
        (job,) = packed(folder)
        assert (job.id, job.mpp, job.mpp_source) == ("lc25000", 0.5, "--assume-mpp")
        assert [p.name for p in job.pictures] == sorted(NAMES)
        assert job.source.files == tuple(folder / name for name in sorted(NAMES))
        assert job.labels == ()

    @pytest.mark.parametrize(
        ("rule", "expected"),
        [
            ("parent", ["colon_aca", "lung_aca", "lung_n"]),
            ("regex:_([a-z]+)/", ["aca", "aca", "n"]),
            (r"regex:\d", ["3", "1", "2"]),
            ("grade", ["g2", "g1", "g1"]),
            ("organ", ["colon", "lung", "lung"]),
        ],
    )
    def test_labels_follow_the_rule(self, tmp_path: Path, rule: str, expected: list[str]) -> None:
        rows = [
            Row(name, curated={"organ": name.partition("_")[0]}, columns={"grade": grade})
            for name, grade in zip(NAMES, ("g1", "g1", "g2"), strict=True)
        ]
        jobs = packed(jpegs(tmp_path, *NAMES), table=SlidesTable(rows), label_from=rule)
        found: dict[str, str | None] = {}
        for job in jobs:
            assert list(job.labels) == sorted(set(job.labels))
            found |= labels(job)
        assert found == dict(zip(sorted(NAMES), expected, strict=True))

    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            ("parent", r"--label-from parent: 4\.jpeg lies in no folder below"),
            ("regex:(", r"--label-from: '\(' is not a regular expression"),
            ("regex:lung|colon", r"--label-from: 'lung\|colon' matches nothing in 4\.jpeg"),
            ("grade", r"no value in the column 'grade' for"),
        ],
    )
    def test_a_rule_that_gives_no_label_is_refused(
        self, tmp_path: Path, rule: str, message: str
    ) -> None:
        with pytest.raises(TilerError, match=message):
            packed(jpegs(tmp_path, *NAMES, "4.jpeg"), label_from=rule)

    def test_each_organ_gets_a_store(self, tmp_path: Path) -> None:
        folder = jpegs(tmp_path / "lc", *NAMES)
        rule = "regex:^([a-z]+)_"
        made = make_workload(
            Request((folder,), tmp_path, SPEC, assumed_mpp=0.5, packed=True, organ_from=rule)
        )
        found = {work.job.id: work.curated for work in made.works}
        assert found == {"lc-colon": {"organ": "colon"}, "lc-lung": {"organ": "lung"}}
        assert {work.source_name for work in made.works} == {"lc"}

    def test_pictures_of_another_mpp_get_another_store(self, tmp_path: Path) -> None:
        table = SlidesTable([Row("1.jpeg", mpp=0.25)])
        jobs = packed(jpegs(tmp_path / "lc", *NAMES), table=table)
        assert [(job.id, job.mpp, job.mpp_source, len(job.pictures)) for job in jobs] == [
            ("lc-0.25", 0.25, "slides table", 1),
            ("lc-0.5", 0.5, "--assume-mpp", 2),
        ]

    def test_patients_stay_with_their_pictures(self, tmp_path: Path) -> None:
        rows = [
            Row(name, curated={"patient": f"p{i}", "stain": "H&E"}, columns={"age": "61"})
            for i, name in enumerate(sorted(NAMES))
        ]
        (job,) = packed(jpegs(tmp_path, *NAMES), table=SlidesTable(rows))
        assert [p.columns for p in job.pictures] == [
            {"patient": f"p{i}", "age": "61"} for i in range(3)
        ]

    def test_a_picture_without_mpp_is_refused_with_what_to_do(self, tmp_path: Path) -> None:
        table = SlidesTable([Row("1.jpeg", mpp=0.25)])
        message = r"give them by --assume-mpp, or in the column mpp .* none for 3\.jpeg"
        with pytest.raises(TilerError, match=message):
            packed(jpegs(tmp_path, *NAMES), table=table, assumed_mpp=None)

    def test_two_folders_of_one_name_are_refused(self, tmp_path: Path) -> None:
        folders = tuple(jpegs(tmp_path / part / "tiles", "1.jpeg") for part in "ab")
        request = Request(folders, tmp_path, SPEC, assumed_mpp=0.5, packed=True)
        with pytest.raises(TilerError, match="two of the packed folders have the same name"):
            make_workload(request)

    @pytest.mark.parametrize("name", ["file.jpeg", "none"])
    def test_what_is_no_folder_is_refused(self, tmp_path: Path, name: str) -> None:
        jpegs(tmp_path, "file.jpeg")
        with pytest.raises(TilerError, match=f"{name} is not a folder"):
            packed(tmp_path / name)

    def test_other_pictures_or_labels_make_another_spec(self, tmp_path: Path) -> None:
        folder = jpegs(tmp_path / "lc", *NAMES)
        specs = [packed(folder)[0].spec_json(), packed(folder, label_from="parent")[0].spec_json()]
        specs.append(packed(folder, assumed_mpp=0.4)[0].spec_json())
        jpegs(folder, "lung_n/4.jpeg")
        specs.append(packed(folder)[0].spec_json())
        assert all(one != other for i, one in enumerate(specs) for other in specs[:i])


class TestTheCatalogue:
    def made(self, folder: Path, dataset: str, **asked: Any) -> Workload:
        constants = {"dataset": dataset, **asked.pop("constants", {})}
        request = Request((folder,), folder / "out", SPEC, constants=constants, **asked)
        return make_workload(request)

    def test_a_public_dataset_says_what_nobody_else_says(self, tmp_path: Path) -> None:
        made = self.made(touched(tmp_path, "a.svs"), "bach")
        (work,) = made.works
        assert work.curated == {
            "dataset": "bach",
            "organ": "breast",
            "stain": "H&E",
            "license": "CC-BY-NC-ND-4.0",
        }
        assert isinstance(work.job, SlideJob)
        assert (work.job.assumed_mpp, work.job.table_mpp) == (0.42, None)
        assert made.notes == (
            "organ breast, stain H&E, licence CC-BY-NC-ND-4.0 and 0.42 µm/px for what carries none "
            "from the catalogue's BACH, where nothing else is said",
        )

    def test_table_and_options_win(self, tmp_path: Path) -> None:
        table = SlidesTable([Row("a.svs", mpp=0.3, curated={"organ": "skin", "license": "mine"})])
        made = self.made(
            touched(tmp_path, "a.svs"),
            "BACH",
            table=table,
            assumed_mpp=0.5,
            constants={"stain": "PAS"},
        )
        (work,) = made.works
        known = {field: work.curated[field] for field in ("organ", "stain", "license")}
        assert known == {"organ": "skin", "stain": "PAS", "license": "mine"}
        assert isinstance(work.job, SlideJob)
        assert (work.job.assumed_mpp, work.job.table_mpp) == (0.5, 0.3)
        assert "stain" not in made.notes[0]
        assert "µm/px" not in made.notes[0]

    def test_a_slide_that_the_table_puts_elsewhere_gets_nothing(self, tmp_path: Path) -> None:
        table = SlidesTable([Row("a.svs", curated={"dataset": "my own"})])
        found = {
            work.source_name: work
            for work in self.made(touched(tmp_path, "a.svs", "b.svs"), "BACH", table=table).works
        }
        assert found["a.svs"].curated == {"dataset": "my own"}
        assert found["b.svs"].curated["organ"] == "breast"
        jobs = [found[name].job for name in ("a.svs", "b.svs")]
        assert [job.assumed_mpp for job in jobs if isinstance(job, SlideJob)] == [None, 0.42]

    def test_of_several_organs_none_is_taken(self, tmp_path: Path) -> None:
        made = self.made(touched(tmp_path, "a.svs"), "LC25000")
        assert made.works[0].curated == {"dataset": "LC25000", "stain": "H&E"}
        assert made.notes == ("stain H&E from the catalogue's LC25000, where nothing else is said",)

    def test_packed_pictures_get_its_mpp(self, tmp_path: Path) -> None:
        folder = jpegs(tmp_path / "photos", "Benign/1.jpeg")
        (work,) = self.made(folder, "BACH", packed=True).works
        assert isinstance(work.job, PackedJob)
        assert work.job.mpp == 0.42
        assert work.curated["organ"] == "breast"

    @pytest.mark.parametrize(
        ("name", "notes"),
        [
            ("my cohort", ()),
            ("BACHH", ("the catalogue has no dataset BACHH; it has BACH",)),
        ],
    )
    def test_another_name_is_free_text(
        self, tmp_path: Path, name: str, notes: tuple[str, ...]
    ) -> None:
        made = self.made(touched(tmp_path, "a.svs"), name)
        assert made.works[0].curated == {"dataset": name}
        assert made.notes == notes


class TestTheVocabulary:
    def test_organs_and_stains_get_one_name(self, tmp_path: Path) -> None:
        row = Row("a.svs", curated={"organ": "Lymph-Node"})
        constants = {"organ": "LN", "stain": "hematoxylin and eosin"}
        made = make_workload(
            Request(
                (touched(tmp_path, "a.svs", "b.svs"),),
                tmp_path / "out",
                SPEC,
                SlidesTable([row]),
                constants=constants,
            )
        )
        expected = {"organ": "lymph node", "stain": "H&E"}
        assert [work.curated for work in made.works] == [expected, expected]
        assert made.notes == ()

    def test_pictures_whose_names_mean_the_same_share_a_store(self, tmp_path: Path) -> None:
        folder = jpegs(tmp_path / "lc", "Lung_a/1.jpeg", "lung_b/2.jpeg", "Lungs_c/3.jpeg")
        rows = [
            Row("1.jpeg", curated={"stain": "HE"}),
            Row("2.jpeg", curated={"stain": "H & E"}),
            Row("3.jpeg", curated={"stain": "H&E"}),
        ]
        rule = "regex:^([A-Za-z]+)_"
        (job,) = packed(folder, table=SlidesTable(rows), organ_from=rule)
        assert len(job.pictures) == 3

    def test_unknown_names_stay_and_the_nearest_are_suggested(self, tmp_path: Path) -> None:
        rows = [
            Row("a.svs", curated={"organ": "brest", "stain": "CD3"}),
            Row("b.svs", curated={"organ": "xyzzy", "stain": "HE"}),
            Row("c.svs", curated={"organ": "brest"}),
        ]
        slides = touched(tmp_path, "a.svs", "b.svs", "c.svs")
        made = make_workload(Request((slides,), tmp_path / "out", SPEC, SlidesTable(rows)))
        assert [work.curated["organ"] for work in made.works] == ["brest", "xyzzy", "brest"]
        assert made.notes == (
            "not in the vocabulary, and kept as written: organ brest (did you mean breast?), "
            "organ xyzzy, stain CD3 (did you mean IHC: CD3?)",
        )

    def test_names_of_ones_own_are_used(self, tmp_path: Path) -> None:
        own = tmp_path / "own.toml"
        own.write_text('[organ."rat kidney"]\nsynonyms = ["RK"]\n')
        made = make_workload(
            Request(
                (touched(tmp_path / "slides", "a.svs"),),
                tmp_path / "out",
                SPEC,
                constants={"organ": "rk"},
                vocabulary=load_vocabulary(own),
            )
        )
        assert made.works[0].curated == {"organ": "rat kidney"}
        assert made.notes == ()


def test_jobs_hold_absolute_paths_because_workers_may_run_in_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / "a.svs").write_bytes(b"II*\0")
    monkeypatch.chdir(tmp_path)
    (work,) = make_workload(Request((Path("slides"),), Path("tiles"), TileSpec((0.5,)))).works
    assert work.job.source.path == tmp_path / "slides" / "a.svs"
    assert work.job.store == tmp_path / "tiles" / "a.zarr"
    assert all(file.is_absolute() for file in work.job.source.files)
