"""Names of organs and stains: what they become, what stays, and what a project may add."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from manifests.cli.terms import show_vocabulary
from manifests.vocabulary import FIELDS, Term, Vocabulary, VocabularyError, load_vocabulary

SHIPPED = load_vocabulary()


def own(folder: Path, text: str) -> Vocabulary:
    file = folder / "own.toml"
    file.write_text(text, encoding="utf-8")
    return load_vocabulary(file)


@pytest.mark.parametrize(
    ("field", "name", "spellings"),
    [
        (
            "stain",
            "H&E",
            "HE,H & E,hematoxylin-eosin,haematoxylin and eosin,H+E,h&e,H_and_E,H.E.,H&E stain,"
            "Hematoxylin & Eosin,HÉ,ＨＥ",
        ),
        ("organ", "lymph node", "lymph node,LN,Lymph-Node,lymph_nodes,LYMPH NODES, lymph  node "),
        (
            "stain",
            "IHC: Ki67",
            "IHC Ki67,Ki-67 (IHC),ihc: ki67,IHC_MIB-1,Immunohistochemistry KI 67",
        ),
        ("stain", "IHC: HER2", "IHC HER2/neu,IHC: c-erbB-2,her-2 ihc"),
        ("stain", "IHC: PanCK", "IHC: AE1/AE3,IHC PanCytokeratin,pan-CK IHC"),
        ("stain", "IHC: SMA", "IHC α-SMA,IHC: alpha-sma"),
        ("stain", "IHC: CD3", "IHC anti-CD3 antibody"),
        ("stain", "IHC", "ihc,Immunohistochemistry,IHC staining"),
        ("stain", "PAS", "pas,P.A.S.,periodic acid-Schiff,Periodic Acid Schiff stain"),
        ("stain", "Masson's trichrome", "Masson Trichrome,masson’s trichrome stain"),
        ("stain", "May-Grünwald-Giemsa", "May-Gruenwald-Giemsa,may grunwald giemsa"),
        ("organ", "head and neck", "Head & Neck,head_neck,HEAD-AND-NECK"),
        ("organ", "esophagus", "Oesophagus"),
    ],
)
def test_every_spelling_becomes_the_one_name(field: str, name: str, spellings: str) -> None:
    for spelling in (name, *spellings.split(",")):
        assert SHIPPED.canonical(field, spelling) == name, spelling
        assert SHIPPED.knows(field, spelling)


@pytest.mark.parametrize(
    ("field", "text", "nearest"),
    [
        ("organ", "brest", "breast"),
        ("organ", "Lymf node", "lymph node"),
        ("organ", "xyzzy", None),
        ("organ", "", None),
        ("organ", "H&E", None),
        ("stain", "hematoxylin-eosine", "H&E"),
        ("stain", "CD3", "IHC: CD3"),
        ("stain", "IHC Ki76", "IHC: Ki67"),
        ("stain", "IHC QQQQ", None),
        ("stain", "&", None),
    ],
)
def test_an_unknown_name_is_kept_and_the_nearest_suggested(
    field: str, text: str, nearest: str | None
) -> None:
    assert SHIPPED.canonical(field, text) == text
    assert not SHIPPED.knows(field, text)
    assert SHIPPED.nearest(field, text) == nearest


@given(st.sampled_from(FIELDS), st.text(max_size=30) | st.sampled_from(["ihc ", "IHC: er", "and"]))
def test_canonical_names_stay_as_they_are(field: str, text: str) -> None:
    name = SHIPPED.canonical(field, text)
    assert SHIPPED.canonical(field, name) == name
    assert SHIPPED.knows(field, text) or name == text
    near = SHIPPED.nearest(field, text)
    assert near is None or near in {term.name for term in SHIPPED.terms(field)}


@pytest.mark.parametrize("field", FIELDS)
def test_every_term_and_synonym_leads_to_its_term(field: str) -> None:
    for term in SHIPPED.terms(field):
        marker = term.name.startswith("IHC: ")
        for spelling in (term.name, *(f"IHC {s}" if marker else s for s in term.synonyms)):
            assert SHIPPED.canonical(field, spelling) == term.name
            assert SHIPPED.nearest(field, spelling) == term.name


def test_organs_are_plain_words_and_terms_are_sorted() -> None:
    for term in SHIPPED.organs:
        assert term.name == term.name.lower()
        assert term.name.replace(" ", "").isalpha()
    for field in FIELDS:
        names = [term.name for term in SHIPPED.terms(field)]
        assert names == sorted(names, key=lambda name: (name.casefold(), name))


def test_codes_are_those_of_the_sources() -> None:
    codes = {term.name: term.codes for field in FIELDS for term in SHIPPED.terms(field)}
    assert codes["H&E"] == ("SCT:12710003", "SCT:36879007")
    assert codes["PAS"] == ("SCT:255808002",)
    assert codes["lymph node"] == ("SCT:59441001", "UBERON:0000029")
    assert codes["colon"] == ("SCT:71854001", "UBERON:0001155")
    assert codes["IHC: Ki67"] == ()
    used = [code for name, found in codes.items() if name != "hematoxylin" for code in found]
    assert len(set(used)) == len(used)


def test_there_is_no_vocabulary_of_other_fields() -> None:
    with pytest.raises(ValueError, match="no vocabulary of 'scanner'"):
        SHIPPED.canonical("scanner", "Aperio")


class TestAProjectsOwnTerms:
    def test_terms_are_added_and_extended(self, tmp_path: Path) -> None:
        found = own(
            tmp_path,
            """
            [organ."rat kidney"]
            synonyms = ["Rat-Kidney", "RK"]
            [stain."H&E"]
            synonyms = ["HE 2019 protocol"]
            [marker.CD163]
            synonyms = ["MRQ-26"]
            """,
        )
        assert found.canonical("organ", "rk") == "rat kidney"
        assert found.canonical("stain", "he-2019 Protocol") == "H&E"
        assert found.canonical("stain", "hematoxylin and eosin") == "H&E"
        assert found.canonical("stain", "IHC mrq26") == "IHC: CD163"
        assert found.canonical("organ", "LN") == "lymph node"
        codes = {term.name: term.codes for term in found.terms("stain")}
        assert codes["H&E"] == ("SCT:12710003", "SCT:36879007")

    def test_they_win_over_those_shipped(self, tmp_path: Path) -> None:
        found = own(
            tmp_path,
            """
            [organ.Lunge]
            codes = ["X:1"]
            synonyms = ["lung", "lu"]
            [organ."lymphatic nidus"]
            synonyms = ["LN"]
            [organ.BREAST]
            """,
        )
        for spelling in ("lung", "Lunge", "pulmonary", "lungs"):
            assert found.canonical("organ", spelling) == "Lunge"
        assert found.canonical("organ", "LN") == "lymphatic nidus"
        assert found.canonical("organ", "Lymph-Node") == "lymph node"
        assert found.canonical("organ", "mamma") == "BREAST"
        terms = {term.name: term for term in found.terms("organ")}
        assert terms["Lunge"].codes == ("X:1",)
        assert terms["BREAST"].codes == ("SCT:76752008", "UBERON:0000310")
        assert not {"lung", "breast"} & terms.keys()
        assert "LN" not in terms["lymph node"].synonyms

    @given(
        st.dictionaries(
            st.sampled_from(["lung", "Lungs", "colon", "colorectal", "LN", "x", "y z"]),
            st.lists(st.sampled_from(["lungs", "pulmonary", "colon", "rectum", "LN", "q"])),
            max_size=3,
        )
    )
    def test_every_mix_of_own_and_shipped_is_sound_or_refused(
        self, terms: dict[str, list[str]]
    ) -> None:
        from manifests.vocabulary import _extended

        try:
            added = Vocabulary(tuple(Term(n, (), tuple(s)) for n, s in terms.items()), (), ())
        except VocabularyError:
            return
        found = Vocabulary(_extended("organ", SHIPPED.organs, added.organs), (), ())
        for name, synonyms in terms.items():
            for spelling in (name, *synonyms):
                assert found.canonical("organ", spelling) == name
        for term in SHIPPED.organs:
            for spelling in (term.name, *term.synonyms):
                now = found.canonical("organ", spelling)
                assert found.knows("organ", spelling)
                assert found.canonical("organ", now) == now

    def test_a_synonym_of_two_terms_is_refused_and_both_are_named(self, tmp_path: Path) -> None:
        text = '[organ.a]\nsynonyms = ["S-1"]\n[organ.b]\nsynonyms = ["s1"]\n'
        with pytest.raises(VocabularyError, match=r"own\.toml: organ: 's1' .* both 'a' and 'b'"):
            own(tmp_path, text)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("organ = 3", "organ must be tables"),
            ("[tissue.lung]", "unknown section 'tissue'"),
            ("[organ.lung]\ncode = ['x']", "must be a table with codes and synonyms"),
            ("[organ.lung]\nsynonyms = 'x'", "synonyms must be a list of strings"),
            ("[organ.lung]\nsynonyms = [1]", "synonyms must be a list of strings"),
            ("[organ.lung]\ncodes = ['39607008']", "no code like SCT:71854001"),
            ("[organ.'?']", "'\\?' has no letters"),
            ("[organ.lung]\nsynonyms = ['']", "'' has no letters"),
            ('[organ."a\\u001b"]', "not one line of plain text"),
            ("[organ.lung", "is not TOML"),
            ("[organ.lung]\n[organ.lung]", "is not TOML"),
        ],
    )
    def test_a_file_that_is_malformed_is_refused(
        self, tmp_path: Path, text: str, message: str
    ) -> None:
        with pytest.raises(VocabularyError, match=rf"own\.toml.*{message}"):
            own(tmp_path, text)

    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(VocabularyError, match=r"none\.toml cannot be read"):
            load_vocabulary(tmp_path / "none.toml")
        (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
        with pytest.raises(VocabularyError, match="is not TOML"):
            load_vocabulary(tmp_path / "bytes.toml")
        (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
        with pytest.raises(VocabularyError, match="is not TOML"):
            load_vocabulary(tmp_path / "deep.toml")


def test_the_example_of_the_documentation_means_what_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/reference/vocabulary.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    found = own(tmp_path, example)
    for field, text, name in (
        ("organ", "Kidney (rat)", "rat kidney"),
        ("organ", "mammary-tissue", "breast"),
        ("organ", "mamma", "breast"),
        ("stain", "MOVAT stain", "Movat pentachrome"),
        ("stain", "IHC MRQ-26", "IHC: CD163"),
    ):
        assert found.canonical(field, text) == name
    (talk,) = re.findall(r"^```text\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    command, *answers = talk.splitlines()
    words = shlex.split(command)[4:]
    assert CliRunner().invoke(show_vocabulary, words).stdout.splitlines() == answers
