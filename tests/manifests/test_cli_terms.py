"""`vocabulary` and `catalog` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from manifests.catalog import load_catalog
from manifests.cli.terms import catalog
from manifests.cli.terms import show_vocabulary as vocabulary
from manifests.vocabulary import load_vocabulary


def run(command: click.Command, *words: str | Path) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words])


class TestVocabulary:
    def test_all_names_are_shown(self) -> None:
        shown = run(vocabulary)
        assert shown.exit_code == 0
        for text in ("lymph node", "SCT:12710003, SCT:36879007", "IHC: Ki67", "MIB-1"):
            assert text in shown.stdout
        data = json.loads(run(vocabulary, "--json").stdout)
        assert {name: len(terms) for name, terms in data.items()} == {
            field: len(load_vocabulary().terms(field)) for field in ("organ", "stain")
        }

    def test_each_term_is_answered(self) -> None:
        shown = run(vocabulary, "HE", "Lymph-Node", "CD3", "brest", "zz")
        assert shown.exit_code == 0
        assert shown.stdout.splitlines() == [
            "HE: the stain H&E",
            "Lymph-Node: the organ lymph node",
            "CD3: not known; did you mean the stain IHC: CD3?",
            "brest: not known; did you mean the organ breast?",
            "zz: not known",
        ]
        data = json.loads(run(vocabulary, "HE", "brest", "zz", "--json").stdout)
        assert data == [
            {"term": "HE", "stain": "H&E"},
            {"term": "brest", "nearest": {"organ": "breast"}},
            {"term": "zz", "nearest": {}},
        ]

    def test_own_names_are_read(self, tmp_path: Path) -> None:
        own = tmp_path / "own.toml"
        own.write_text('[organ."rat kidney"]\nsynonyms = ["RK"]\n')
        assert run(vocabulary, "rk", "--vocabulary", own).stdout == "rk: the organ rat kidney\n"
        own.write_text("[organ.a]\nsynonyms = ['x']\n[organ.b]\nsynonyms = ['x']\n")
        refused = run(vocabulary, "rk", "--vocabulary", own)
        assert refused.exit_code == 2
        assert "both 'a' and 'b'" in refused.stderr
        assert run(vocabulary, "--vocabulary", tmp_path / "none").exit_code == 2

    def test_a_name_cannot_steer_the_terminal(self) -> None:
        assert run(vocabulary, "\x1b[31m").stdout == "\\x1b[31m: not known\n"


class TestCatalog:
    def test_all_sets_are_listed(self) -> None:
        shown = run(catalog, "list")
        assert shown.exit_code == 0
        assert len(shown.stdout.splitlines()) == len(load_catalog()) + 1
        assert len(json.loads(run(catalog, "list", "--json").stdout)) == len(load_catalog())

    def test_filters_take_any_spelling(self) -> None:
        words = ("--organ", "LN", "--stain", "hematoxylin-eosin", "--kind", "patch", "--json")
        data = json.loads(run(catalog, "list", *words).stdout)
        names = {dataset["name"] for dataset in data}
        assert {"PatchCamelyon", "CryoNuSeg"} <= names
        assert not {"CAMELYON16", "BACH", "LYON19"} & names

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("list", "--organ", "brest"), "no organ 'brest' in the vocabulary; did you mean br"),
            (("list", "--stain", "zzzz"), "no stain 'zzzz' in the vocabulary\n"),
            (("show", "BACHH"), "the catalogue has no dataset 'BACHH'; did you mean BACH?"),
            (("show", "my cohort"), "no dataset 'my cohort'; `histotile catalog list` lists all"),
        ],
    )
    def test_an_unknown_name_is_refused_with_the_nearest(
        self, words: tuple[str, ...], message: str
    ) -> None:
        refused = run(catalog, *words)
        assert refused.exit_code == 2
        assert message in refused.stderr
        assert refused.stdout == ""

    def test_a_set_is_shown_with_its_sources_and_without_what_is_not_known(self) -> None:
        shown = run(catalog, "show", "bach")
        assert shown.exit_code == 0
        lines = {line[:18].strip(): line[18:].strip() for line in shown.stdout.splitlines()}
        assert lines["organ"] == "breast"
        assert lines["mpp"] == "0.42"
        assert lines["source of mpp"] == "https://iciar2018-challenge.grand-challenge.org/Dataset/"
        assert lines["paper"] == "confirmed"
        assert "magnification" not in lines
        data = json.loads(run(catalog, "show", "ICIAR2018", "--json").stdout)
        assert (data["name"], data["mpp"], "magnification" in data) == ("BACH", 0.42, False)
