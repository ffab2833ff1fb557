"""The catalogue of public datasets: its data, and how a dataset is found."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import manifests.catalog
from manifests.catalog import (
    Dataset,
    filter_datasets,
    find_dataset,
    load_catalog,
    nearest_dataset,
)
from manifests.vocabulary import load_vocabulary

DATA = Path(manifests.catalog.__file__).with_name("datasets.toml")
SCHEMA: dict[str, type | tuple[type, ...]] = {
    "aliases": list,
    "organ": list,
    "organ_stated": str,
    "stain": list,
    "stain_stated": str,
    "kind": list,
    "kind_stated": str,
    "size": str,
    "magnification": str,
    "mpp": float,
    "scanner": str,
    "year": int,
    "url": str,
    "license": str,
    "note": str,
    "paper": str,
    "paper_reason": str,
    "sources": dict,
}


def made(**changes: object) -> Dataset:
    known: dict[str, object] = {
        "name": "A",
        "paper": "unknown",
        "paper_reason": "no year",
        "sources": {"list": "a list"},
    }
    return Dataset(**(known | changes))  # type: ignore[arg-type]


class TestTheData:
    def test_every_field_has_its_type_and_says_something(self) -> None:
        assert set(SCHEMA) | {"name"} == {field.name for field in fields(Dataset)}
        for name, values in tomllib.loads(DATA.read_text(encoding="utf-8")).items():
            for key, value in values.items():
                assert isinstance(value, SCHEMA[key]), f"{name}.{key}"
                assert value, f"{name}.{key}"
                texts = value if isinstance(value, list) else [value]
                for text in (*value, *value.values()) if isinstance(value, dict) else texts:
                    assert not isinstance(text, str) or text == text.strip(), f"{name}.{key}"

    def test_at_least_110_sets_are_in_it_and_those_the_paper_names(self) -> None:
        """114 rows of a list make 113 sets (two rows are one set); two come besides."""
        assert len(load_catalog()) >= 110
        confirmed = {dataset.name for dataset in load_catalog() if dataset.paper == "confirmed"}
        named = {"BACH", "BreakHis", "BreastPathQ", "NCT-CRC-HE-100K", "Lymph", "Gleason2019"}
        assert named <= confirmed

    def test_names_and_aliases_are_each_one_set(self) -> None:
        for dataset in load_catalog():
            for spelling in (dataset.name, *dataset.aliases):
                assert find_dataset(spelling) is dataset

    def test_names_of_organs_and_stains_are_those_of_the_vocabulary(self) -> None:
        terms = {f: {t.name for t in load_vocabulary().terms(f)} for f in ("organ", "stain")}
        for dataset in load_catalog():
            assert set(dataset.organ) <= terms["organ"], dataset.name
            assert set(dataset.stain) <= terms["stain"], dataset.name
            assert len(set(dataset.organ)) == len(dataset.organ)

    def test_a_set_whose_organ_is_not_named_says_what_its_source_says(self) -> None:
        for dataset in load_catalog():
            assert dataset.organ or dataset.organ_stated, dataset.name

    def test_resolutions_years_and_addresses_are_sound_and_have_a_source(self) -> None:
        for dataset in load_catalog():
            if dataset.mpp is not None:
                assert 0.1 <= dataset.mpp <= 2, dataset.name
                assert dataset.sources["mpp"], dataset.name
            if dataset.license is not None:
                assert dataset.sources["license"], dataset.name
            if dataset.year is not None:
                assert 2005 <= dataset.year <= 2026, dataset.name
            if dataset.url is not None:
                parts = urlsplit(dataset.url)
                assert parts.scheme in ("http", "https"), dataset.name
                assert "." in parts.netloc, dataset.name
            assert set(dataset.sources) <= {"list", *SCHEMA} - {"sources"}

    def test_a_set_younger_than_the_paper_is_excluded_from_it(self) -> None:
        for dataset in load_catalog():
            if dataset.year is not None and dataset.paper != "confirmed":
                assert (dataset.paper == "excluded") == (dataset.year > 2021), dataset.name

    @pytest.mark.parametrize(
        "changes",
        [{"paper": "perhaps"}, {"kind": ("tma",)}, {"sources": {}}, {"mpp": 0.5}, {"license": "X"}],
    )
    def test_a_fact_without_a_source_or_an_unknown_word_is_a_defect(
        self, changes: dict[str, object]
    ) -> None:
        made()
        with pytest.raises(ValueError, match="A: "):
            made(**changes)


class TestFinding:
    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("BACH", "BACH"),
            ("bach", "BACH"),
            ("ICIAR 2018 bach", "BACH"),
            ("nct crc he 100k", "NCT-CRC-HE-100K"),
            ("NCT-CRC-HE-100K-NONORM", "NCT-CRC-HE-100K"),
            ("pcam", "PatchCamelyon"),
            ("MIDOG++", "MIDOG++"),
            ("MIDOG", None),
            ("BACHH", None),
            ("", None),
        ],
    )
    def test_a_name_or_alias_finds_a_set_in_any_case(self, name: str, found: str | None) -> None:
        dataset = find_dataset(name)
        assert (None if dataset is None else dataset.name) == found

    def test_a_near_name_is_suggested(self) -> None:
        near = {name: nearest_dataset(name) for name in ("BACHH", "Camelyn_16", "my cohort")}
        names = {name: None if near is None else near.name for name, near in near.items()}
        assert names == {"BACHH": "BACH", "Camelyn_16": "CAMELYON16", "my cohort": None}

    def test_filters_hold_together(self) -> None:
        sets = [
            made(name="a", organ=("lung",), stain=("H&E", "IHC: CD3"), kind=("wsi",)),
            made(name="b", organ=("lung", "colon"), stain=("IHC",), kind=("patch", "wsi")),
            made(name="c"),
        ]

        def names(**wanted: str) -> str:
            return "".join(dataset.name for dataset in filter_datasets(sets, **wanted))

        assert names() == "abc"
        assert names(organ="lung") == "ab"
        assert names(organ="colon") == "b"
        assert names(stain="IHC") == "ab"
        assert names(stain="IHC: CD3") == "a"
        assert names(organ="lung", kind="patch") == "b"
        assert names(organ="lung", stain="H&E", kind="patch") == ""
