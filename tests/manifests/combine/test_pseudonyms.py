"""Pseudonyms: what they are, where the salt may lie, and that no identifier is left unseen."""

from __future__ import annotations

import hashlib
import hmac
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from manifests.cli.changing import annotate
from manifests.combine.pseudonyms import (
    PATIENT_COLUMNS,
    SaltError,
    Sought,
    clean_texts,
    is_patient_column,
    new_salt,
    pseudonym,
    read_salt,
    remaining,
    rename_patients,
)
from manifests.files import sha256
from manifests.jsonfile import load_manifest, manifest_json, save_manifest
from manifests.model import Manifest, ManifestInput, Selection, SlideInfo, StoreEntry
from manifests.tileset import TileSet
from tests.manifests.make_manifest import done_entry, failed_entry
from tests.manifests.make_set import make_tiny_store, stored_entry

SALT = b"0123456789abcdef"
CANARY = "Canary-4711"


def cleaned(*entries: StoreEntry, **fields: Any) -> tuple[Manifest, dict[str, str]]:
    """A manifest after all that `annotate --pseudonymise` does, and the pseudonyms."""
    renamed = rename_patients(Manifest(entries, **fields), SALT)
    manifest, _ = clean_texts(renamed.manifest, renamed.pseudonyms)
    return manifest, dict(renamed.pseudonyms)


def test_a_pseudonym_is_an_hmac_as_others_compute_it(tmp_path: Path) -> None:
    for identifier in ("TCGA-A7-A0D9", "Müller, Jürgen", "7"):
        digest = hmac.new(SALT, identifier.encode(), hashlib.sha256).hexdigest()
        assert pseudonym(SALT, identifier) == f"hmac-{digest[:20]}"
    salt = new_salt(tmp_path / "salt", [])
    ran = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", (tmp_path / "salt").read_text().strip()],
        input=b"TCGA-A7-A0D9",
        capture_output=True,
        check=True,
    )
    assert pseudonym(salt, "TCGA-A7-A0D9")[5:] == ran.stdout.decode().split()[-1][:20]


def test_a_pseudonym_stays_what_it_is() -> None:
    once = pseudonym(SALT, "P1")
    assert pseudonym(b"another salt of 16 bytes", once) == once
    renamed = rename_patients(
        Manifest((done_entry("a", patient=once), done_entry("b", patient="P2"))), SALT
    )
    assert [e.patient for e in renamed.manifest.stores] == [once, pseudonym(SALT, "P2")]
    assert (renamed.replaced, renamed.kept) == (1, 1)


@pytest.mark.parametrize("name", [*PATIENT_COLUMNS, "Patient ID", "CASE-ID", "patientId", "MRN"])
def test_columns_that_identify_a_patient_are_known_in_any_spelling(name: str) -> None:
    assert is_patient_column(name)


@pytest.mark.parametrize("name", ["patients", "case_type", "inpatient", "grade", "id", ""])
def test_other_columns_are_not_patients(name: str) -> None:
    assert not is_patient_column(name)


def test_patients_and_their_columns_are_replaced_alike() -> None:
    entry = done_entry(patient="P-0001", columns={"Case ID": "P-0001", "mrn": "", "grade": "2"})
    manifest, pseudonyms = cleaned(entry)
    [fresh] = manifest.stores
    hidden = pseudonym(SALT, "P-0001")
    assert fresh.patient == hidden
    assert fresh.columns == {"Case ID": hidden, "mrn": "", "grade": "2"}
    assert pseudonyms == {"P-0001": hidden}


def test_texts_that_a_manifest_can_do_without_lose_the_identifier() -> None:
    hidden = pseudonym(SALT, CANARY)
    manifest, _ = cleaned(
        failed_entry(
            "s1",
            patient=CANARY,
            source=f"scan_{CANARY.upper()}_2.svs",
            reason=f"{CANARY}.svs is no slide",
            warnings=(f"see {CANARY.lower()}", "fine"),
            columns={"file": f"x/{CANARY}/1.svs", "note": "fine"},
        ),
        failed_entry("s2", reason=f"the same as {CANARY}"),
    )
    one, two = manifest.stores
    assert (one.source, one.reason) == ("s1", f"{hidden}.svs is no slide")
    assert one.warnings == (f"see {hidden}", "fine")
    assert one.columns == {"file": f"x/{hidden}/1.svs", "note": "fine"}
    assert two.reason == f"the same as {hidden}"


def test_nothing_else_of_an_entry_changes() -> None:
    entry = done_entry(patient=CANARY)
    manifest, _ = cleaned(entry)
    assert manifest == Manifest((done_entry(patient=pseudonym(SALT, CANARY)),))


def test_every_place_where_a_canary_is_left_is_named_without_it() -> None:
    step = {"where": f'patient == "{CANARY}"'}
    key = "x-canary_4711"
    manifest, pseudonyms = cleaned(
        done_entry("a", patient=CANARY),
        done_entry(f"{CANARY}-1", path=f"deep/{CANARY}.zarr", patient="hmac-x"),
        done_entry("b", path="b.zarr", patient="hmac-x", labels=(CANARY,)),
        done_entry("c", patient="hmac-x", selection=Selection((step,), {}), columns={CANARY: "v"}),
        done_entry("d", patient="hmac-x", extra={"x-lab": {"list": [1, CANARY]}, key: CANARY}),
        inputs={"a" * 16: ManifestInput(f"{CANARY}/manifest.json", 1)},
        splits=({"by": "patient", "holdout": [CANARY]},),
    )
    left = remaining(manifest, pseudonyms)
    assert sorted(left.in_manifest) == sorted(
        [
            "inputs.aaaaaaaaaaaaaaaa.name",
            "splits[0].holdout[0]",
            "stores[0].id",
            "stores[0].path",
            "stores[2].labels[0]",
            "stores[3].columns",
            "stores[3].selection.steps[0].where",
            "stores[4]",
            "stores[4].x-lab.list[1]",
        ]
    )
    assert CANARY.lower() not in repr(left).lower()


def test_a_manifest_without_a_trace_is_said_to_have_none() -> None:
    manifest, pseudonyms = cleaned(done_entry("a", patient=CANARY))
    left = remaining(manifest, pseudonyms)
    assert (left.in_manifest, left.in_stores) == ((), ())


def test_digits_within_hashes_and_bits_are_no_trace() -> None:
    rng = np.random.default_rng(0)
    selected = {"1": TileSet.of(np.flatnonzero(rng.integers(0, 2, 300)))}
    hashed = sha256(b"1")
    slide = SlideInfo("openslide", "aperio", "jpeg", f"pictures1:{hashed}")
    entry = done_entry("s", commit=hashed, spec_hash=hashed, slide=slide, columns={})
    manifest = Manifest((replace(entry, selection=Selection((), selected)),))
    pseudonyms = {f"{n:04d}": f"hmac-{sha256(bytes(n))[:20]}" for n in range(10_000)}
    renamed = replace(manifest.stores[0], patient=pseudonyms["4711"])
    text = json.dumps(manifest_json(manifest))
    assert any(Sought(pseudonyms).stands_in(part) for part in text.split('"'))
    left = remaining(Manifest((renamed,)), pseudonyms)
    assert left.in_manifest == ()


def test_stores_that_name_a_patient_are_listed(tmp_path: Path) -> None:
    pictures = [{"name": f"x/{CANARY}.png"}, {"name": "2.png"}]
    make_tiny_store(tmp_path / "a.zarr", 1, sources=pictures)
    make_tiny_store(tmp_path / "b.zarr", 2, sources=[{"name": "1", "columns": {"case": "P9"}}])
    make_tiny_store(tmp_path / "c.zarr", 3, attributes={"warnings": [f"no mpp in {CANARY}.svs"]})
    make_tiny_store(tmp_path / "d.zarr", 4, sources=[{"name": "1", "columns": {"case": "hmac-1"}}])
    entries = [stored_entry(tmp_path, f"{n}.zarr", i) for i, n in enumerate("abcd", 1)]
    entries += [done_entry("e", patient=CANARY, path="gone.zarr")]
    entries += [done_entry("f", path="s3://bucket/f.zarr"), failed_entry("g")]
    manifest, pseudonyms = cleaned(*entries, root=tmp_path)
    left = remaining(manifest, pseudonyms)
    assert left.in_stores == (
        "stores[0]: sources.json",
        "stores[1]: sources.json",
        "stores[2]: zarr.json",
    )
    assert left.unchecked == 2


@pytest.mark.parametrize(
    ("identifier", "text", "there"),
    [
        ("4711", "img4711_b.svs", True),
        ("4711", "14711", False),
        ("4711", "47110", False),
        ("canary", "the Canary sings", True),
        ("canary", "canaries", False),
        ("TCGA-A7-A0D9", "tcga-a7-a0d9-01Z-00-DX1.svs", True),
        ("TCGA-A7-A0D9", "x_TCGA_A7_A0D9", True),
        ("TCGA-A7-A0D9", "TCGA-A7-A0D8", False),
        ("TCGA-A7-A0D9", "TCGAA7A0D9", False),
        ("#Müller#", "frau müller", True),
        ("İstanbul", "İSTANBUL", True),
        ("123", "123", False),
        ("ab", "ab", False),
        ("4711", "hmac-4711a4711b4711c4711d", False),
        ("4711", "sha256:" + "a4711b" * 10, False),
        ("deadbeefdeadbeef", "deadbeefdeadbeef", True),
    ],
)
def test_an_identifier_is_found_where_its_runs_begin_and_end(
    identifier: str, text: str, there: bool
) -> None:
    assert Sought({identifier: "hmac-1"}).stands_in(text) is there


words = st.text(st.sampled_from("aB1-_ éß"), max_size=12)


@given(st.lists(st.text(st.sampled_from("aB1-é"), min_size=4, max_size=6), max_size=4), words)
def test_what_was_cleaned_holds_no_identifier(identifiers: list[str], text: str) -> None:
    sought = Sought({name: pseudonym(SALT, name) for name in identifiers})
    assert not sought.stands_in(sought.without(text))
    if not sought.stands_in(text):
        assert sought.without(text) == text


@given(words, st.text(st.sampled_from("aB1é"), min_size=4, max_size=6), words)
def test_a_planted_identifier_is_found(before: str, name: str, after: str) -> None:
    assert Sought({name: "hmac-1"}).stands_in(f"{before} {name}.{after}")


def test_a_new_salt_is_secret_random_and_never_written_over(tmp_path: Path) -> None:
    salts = [new_salt(tmp_path / name, [tmp_path / "set"]) for name in ("one", "two")]
    assert salts[0] != salts[1]
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600
    assert len(bytes.fromhex(salts[0].decode())) == 32
    assert read_salt(tmp_path / "one", [tmp_path / "set"]) == salts[0]
    with pytest.raises(SaltError, match="one exists"):
        new_salt(tmp_path / "one", [])
    assert read_salt(tmp_path / "one", []) == salts[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no salt"), (b"", "has 0 bytes"), (b"  15 bytes long..\n", "has 15 bytes")],
)
def test_a_salt_that_protects_nothing_is_refused(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "salt").write_bytes(content)
    with pytest.raises(SaltError, match=message):
        read_salt(tmp_path / "salt", [])


@pytest.mark.parametrize("place", ["salt", "deep/salt", "deep/../salt", "link/salt"])
def test_a_salt_inside_of_the_manifests_folder_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "set/deep").mkdir(parents=True)
    (tmp_path / "set/link").symlink_to(tmp_path / "set/deep")
    file = tmp_path / "set" / place
    for make in (new_salt, read_salt):
        with pytest.raises(SaltError, match="lies inside of"):
            make(file, [tmp_path / "other", tmp_path / "set"])
    assert not file.exists()


def run(folder: Path, *options: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `annotate --pseudonymise` on a folder's manifest."""
    arguments = [str(folder), "-o", str(folder / "out.json"), "--pseudonymise", *options]
    ran = CliRunner().invoke(annotate, arguments, catch_exceptions=False)
    return ran.exit_code, ran.stdout, ran.stderr


def test_the_command_leaves_no_trace_but_those_it_names(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    make_tiny_store(folder / "a.zarr", sources=[{"name": f"{CANARY}.png"}])
    entries = (
        stored_entry(folder, "a.zarr", patient=CANARY, source=f"{CANARY}.svs"),
        failed_entry(f"{CANARY}-x", source="x.svs"),
    )
    save_manifest(Manifest(entries), folder / "manifest.json")
    (tmp_path / "t.csv").write_text(
        f"id,case_id,file\na,{CANARY},{CANARY}/a.svs\n{CANARY}-x,,x.svs\n"
    )
    options = ["--salt-file", str(tmp_path / "salt"), "--csv", str(tmp_path / "t.csv")]
    code, out, err = run(folder, *options, "--new-salt", "--json")
    assert code == 0
    report = json.loads(out)
    assert report["left_in_manifest"] == ["stores[0].id"]
    assert report["left_in_stores"] == ["stores[1]: sources.json"]
    # `file` names the slide, so it is no column, and `source` gave way to the id.
    assert (report["identifiers_replaced"], report["texts_cleaned"]) == (1, 1)
    assert CANARY not in out + err
    assert "identifiers still stand in 1 places of the manifest: stores[0].id" in err
    text = (folder / "out.json").read_text()
    assert text.replace(f'"id": "{CANARY}-x"', "").count(CANARY) == 0
    hidden = pseudonym(read_salt(tmp_path / "salt", []), CANARY)
    assert load_manifest(folder / "out.json").stores[1].columns == {"case_id": hidden}

    again = run(folder, *options)
    assert (again[0], (folder / "out.json").read_text()) == (0, text)


def test_a_table_with_plain_patients_fits_a_manifest_with_pseudonyms(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    save_manifest(Manifest((failed_entry("a", patient="P-01"),)), folder / "manifest.json")
    salt = ["--salt-file", str(tmp_path / "salt")]
    assert run(folder, *salt, "--new-salt")[0] == 0
    (folder / "out.json").replace(folder / "manifest.json")
    (tmp_path / "t.csv").write_text("id,patient,organ\na,P-01,lung\n")
    code, out, err = run(folder, *salt, "--csv", str(tmp_path / "t.csv"))
    assert (code, err) == (0, "")
    assert "1 added, 0 changed, 1 unchanged" in out
    assert "0 patient identifiers replaced, 1 were pseudonyms already" in out


def test_a_salt_with_the_manifest_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    save_manifest(Manifest((failed_entry("a", patient="P-01"),)), tmp_path / "manifest.json")
    code, _, err = run(tmp_path, "--salt-file", str(tmp_path / "salt"), "--new-salt")
    assert code == 2
    assert "lies inside of" in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json"]
