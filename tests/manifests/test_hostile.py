"""Hostile manifests and stores: one clear refusal, and nothing touched outside of the folder."""

from __future__ import annotations

import copy
import json
import os
import random
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.errors import HistotileError, ManifestError, StoreError
from manifests.files import pretty_json, sha256
from manifests.jsonfile import load_manifest, manifest_json, save_manifest
from manifests.model import Manifest, ManifestInput, Selection
from manifests.store import TileStore, is_committed
from manifests.tileset import TileSet
from manifests.verify import LEVELS, verify
from tests.manifests.make_manifest import done_entry, full_manifest
from tests.manifests.make_set import make_tiny_store, stored_entry, tiny_set
from tests.manifests.test_jsonfile import VALUES, Place, places, put
from tests.manifests.test_model import PATH_TRICKS
from tests.manifests.test_verify import forge
from tests.manifests.touched import touched_outside

KEY = "16 hexadecimal d"
SECRET = "the secret of another person"


def valid() -> dict[str, Any]:
    """A parsed manifest that says everything a manifest can say; entry 3 is a packed store."""
    half = {"0.5": TileSet.of(range(600)), "1": TileSet.of([0, 299])}
    rest = {"0.5": TileSet.of(range(600, 1200))}
    chosen = Selection(({"where": "focus > 0.1"}, {"sample": 5, "seed": 0}), half)
    slide = done_entry("slide-1", selection=chosen, split="train", inputs=(KEY,), commit="ef" * 32)
    packed = done_entry("slide-3", splits={"train": half, "test": rest}, inputs=(KEY,))
    others = [entry for entry in full_manifest().stores if entry.id != "slide-1"]
    manifest = Manifest(
        (*others, slide, packed),
        inputs={KEY: ManifestInput("cohort/manifest.json", 4)},
        splits=({"by": "patient", "ratios": [0.8, 0.2], "seed": 0},),
        extra={"x-note": "kept"},
    )
    return json.loads(pretty_json(manifest_json(manifest)))  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and with links that lead out, beside a file of somebody else's."""
    outer = tmp_path_factory.mktemp("outer")
    (outer / "outside").mkdir()
    (outer / "outside/secret").write_text(SECRET)
    make_tiny_store(outer / "outside/foreign.zarr")
    root = outer / "root"
    make_tiny_store(root / "slide-1.zarr")
    make_tiny_store(root / "linked.zarr")
    (root / "linked.zarr/0.5/x/c.0").unlink()
    (root / "linked.zarr/0.5/x/c.0").symlink_to(outer / "outside/secret")
    (root / "out").symlink_to("../outside")
    (root / "deep").mkdir()
    (root / "deep/up").symlink_to("../../outside/foreign.zarr")
    (root / "ring").symlink_to("ring")
    try:  # whatever is imported late is imported now
        (root / "manifest.json").write_text('{"format": "histotile-manifest", "version": 2}')
        load_manifest(root)
    except ManifestError:
        pass
    return root


def check_refusal(error: ManifestError, file: Path) -> None:
    """One line of bounded length, without control characters: file, JSON place, what is wrong."""
    text = str(error)
    assert text.isprintable(), text
    assert len(text) <= 2000
    assert re.match(rf"{re.escape(str(file))}: \$[.\[:]", text), text


def refusal_of(action: Callable[[], object]) -> str:
    """What an action is refused with; empty if it is not."""
    try:
        action()
    except HistotileError as error:
        return str(error)
    return ""


def check(root: Path, data: bytes) -> str:
    """Load a file and do with it what a person would; say whether it was refused."""
    file = root / "manifest.json"
    file.write_bytes(data)
    with touched_outside(root) as outside:
        try:
            found = load_manifest(file)
        except ManifestError as error:
            check_refusal(error, file)
            return "refused"
        finally:
            assert outside == []
    with touched_outside(root) as outside:
        for entry in found.stores:
            refusal = refusal_of(lambda entry=entry: found.store_path(entry))  # type: ignore[misc]
            assert refusal.isprintable()
            assert len(refusal) <= 2000
        result = verify(found, "deep", workers=1)
        assert not any(SECRET in problem.what for problem in result.problems)
    assert outside == []
    again = root / "again.json"
    save_manifest(found, again)
    assert load_manifest(again) == found
    return "loaded"


DISK_TRICKS = ["out", "out/foreign.zarr", "deep/up", "deep/up/0.5", "ring", "ring/a", "linked.zarr"]
RAW = [
    "NaN",
    "-Infinity",
    "1e999",
    "-1e400",
    "1" * 5000,
    "-" + "9" * 400,
    "1e-999",
    "0.1e1",
    "-0",
    "[" * 200 + "]" * 200,
    "[" * 20_000 + "]" * 20_000,
    '{"a":' * 900 + "1" + "}" * 900,
    '{"a": 1, "a": 2}',
    '"\\ud800"',
    '"\\u0000"',
    '"' + "x" * 100_000 + '"',
    '"\\u202e\\u001b[2J"',
    "[" + "0," * 10_000 + "0]",
]
BASE = valid()
PLACES = list(places(BASE))
KEYS = ["", "x-own", "X-own", "\x1b[1m", "a\nb", "../up", "__class__", "extra", "root", "k" * 5000]
TRICKS = st.sampled_from(PATH_TRICKS + DISK_TRICKS)
PATHS = [
    place for place in PLACES if place and place[-1] in ("path", "name", "id", "group", "source")
]


@st.composite
def hostile_texts(draw: st.DrawFn) -> bytes:
    """The bytes of a manifest with one to three things wrong."""
    value: Any = copy.deepcopy(BASE)
    raw: dict[str, str] = {}
    for number in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["value", "path", "raw", "delete", "key", "rename", "bytes"]))
        where = draw(st.sampled_from(PATHS if kind == "path" else PLACES))
        try:
            if kind == "value":
                value = put(value, where, draw(VALUES))
            elif kind == "path":
                value = put(value, where, draw(TRICKS))
            elif kind == "raw":
                mark = f"mark {number}"
                raw[json.dumps(mark)] = draw(st.sampled_from(RAW))
                value = put(value, where, mark)
            elif kind in ("key", "rename"):
                key = draw(st.sampled_from(KEYS) | st.text(max_size=4))
                value = put(value, (*where, key), draw(VALUES))
            if kind in ("delete", "rename"):
                value = without(value, where)
        except (KeyError, IndexError, TypeError):
            continue  # no such place, or an earlier change removed it
    text = json.dumps(value)
    for mark, token in raw.items():
        text = text.replace(mark, token)
    data = text.encode("utf-8", "surrogatepass")
    return spoil(data, draw) if draw(st.integers(0, 3)) == 0 else data


def without(value: Any, where: Place) -> Any:
    """A copy without one place."""
    found = copy.deepcopy(value)
    inner = found
    for key in where[:-1]:
        inner = inner[key]
    del inner[where[-1]]
    return found


def spoil(data: bytes, draw: st.DrawFn) -> bytes:
    """Bytes cut off, put in, repeated, or changed."""
    start = draw(st.integers(0, len(data)))
    length = draw(st.integers(0, 200))
    new = draw(st.sampled_from(["cut", "insert", "repeat", "end"]))
    part = data[start : start + length]
    return {
        "cut": data[:start] + data[start + length :],
        "insert": data[:start] + draw(st.binary(max_size=8)) + data[start:],
        "repeat": data[:start] + part + part + data[start + length :],
        "end": data[:start],
    }[new]


COMMON: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
    "database": None,
}


@given(data=hostile_texts())
@settings(max_examples=200, **COMMON)
def test_a_hostile_manifest_is_refused_in_one_line_or_loads_and_touches_nothing_outside(
    root: Path, data: bytes
) -> None:
    check(root, data)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_hostile_manifests(root: Path) -> None:
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes: list[str] = []

    @given(data=hostile_texts())
    @settings(max_examples=10_000, **COMMON)
    def many(data: bytes) -> None:
        outcomes.append(check(root, data))

    many()
    assert len(outcomes) >= 10_000
    assert outcomes.count("refused") > 3000
    assert outcomes.count("loaded") > 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 300 * 1024


def test_the_manifest_that_is_mutated_is_itself_sound(root: Path) -> None:
    assert check(root, json.dumps(BASE).encode()) == "loaded"


def test_the_watch_sees_what_is_touched(root: Path) -> None:
    secret = root.parent / "outside/secret"
    actions: list[Callable[[], object]] = [
        secret.read_bytes,
        secret.stat,
        lambda: list(secret.parent.iterdir()),
        lambda: secret.with_name("new").mkdir(exist_ok=True),
        lambda: os.stat(root / "out/secret"),
        lambda: (root / "out/secret").open("rb").close(),
    ]
    for action in actions:
        with touched_outside(root) as outside:
            action()
        assert len(outside) == 1, action
    with touched_outside(root) as outside:
        (root / "manifest.json").stat()
        list(root.iterdir())
    assert outside == []


@pytest.mark.parametrize(
    ("where", "value", "place"),
    [
        (
            ("stores", 1, "path"),
            "../a",
            "$.stores[1].path: slide-1: path: '../a' must be a relative",
        ),
        (("stores", 1, "path"), "ftp://h/a", "$.stores[1].path: "),
        (("stores", 1, "id"), "a/b", "$.stores[1].id: "),
        (("stores", 1, "resolutions", 0, "group"), "..", "$.stores[1].resolutions[0].group: "),
        (("stores", 0, "uuid"), "no", "$.stores[0].uuid: "),
        (("stores", 2, "bytes"), 2**60, "$.stores[2].bytes: "),
        (("stores", 1, "organ"), "\ud800", "$.stores[1]: slide-1: organ: '\\ud800' is not valid"),
        (("stores", 1, "x-own"), {"a": "\ud800"}, "$.stores[1]: slide-1: x-own: "),
        (("stores", 3, "id"), "slide-1", "$.stores[3].id: the manifest has two entries with"),
        (("stores", 3, "inputs"), ["other"], "$.stores[3].inputs: an entry names the input"),
        (("stores", 1, "selection", "tiles", "2"), {"count": 0, "bits": ""}, "$.stores[1]: "),
        (("stores", 1, "selection", "tiles", "1", "count"), 3, "$.stores[1]: selection.tiles.'1' "),
        (("stores", 1, "selection", "tiles", "1", "bits"), "A", "$.stores[1]"),
        (("stores", 1, "resolutions", 0, "tiles"), 599, "$.stores[1]: slide-1: selection.tiles: "),
        (("stores", 3, "splits", "test"), {"0.5": {"count": 1, "bits": "AQ=="}}, "$.stores[3]: "),
        (("stores", 3, "split"), "train", "$.stores[3]"),
        (("stores", 1), [], "$.stores[1]: "),
        (("stores",), {}, "$.stores: "),
        (("inputs", KEY, "name"), "/etc/passwd", f"$.inputs['{KEY}'].name: inputs.name: "),
        (("inputs", KEY, "stores"), -1, f"$.inputs['{KEY}'].stores: "),
        (("splits", 0), 7, "$.splits[0]: "),
        (("generator",), {}, "$.generator: "),
        (("version",), 3, "$.version: manifest version 3"),
        (("format",), "zip", "$.format: this is not a histotile manifest"),
        (("x-own",), {"\ud800": 1}, "$: "),
        (("own",), 1, "$: "),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_each_refusal_names_the_file_and_the_place_in_it(
    tmp_path: Path, where: Place, value: object, place: str
) -> None:
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(put(valid(), where, value)))
    with pytest.raises(ManifestError) as caught:
        load_manifest(file)
    check_refusal(caught.value, file)
    assert str(caught.value).startswith(f"{file}: {place}")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ('"organ": "breast"', '"organ": "breast", "organ": "skin"', "$.stores[1]: the key 'organ'"),
        ('"sample": 5', '"sample": NaN', "$.stores[1].selection.steps[1].sample: NaN is not"),
        ('"width": 100000', '"width": ' + "1" * 5000, "$.stores[1].slide.width: an integer of 5,0"),
        ('"x-note": "kept"', '"x-note": {"a b": [0, -Infinity]}', "$.x-note['a b'][1]: -Infinity"),
        ('"stain": "H&E"', '"stain": "H&E",,', "$: not valid JSON (Expecting"),
        ('"x-note": "kept"', '"x-note": ' + "[" * 10**6, "$: not valid JSON (nested too deeply)"),
        ('"breast"', '"br\xe9ast"', "$: it is not UTF-8, first at byte"),
    ],
)
def test_what_is_refused_in_the_text_is_named_by_its_place_too(
    tmp_path: Path, old: str, new: str, place: str
) -> None:
    file = tmp_path / "manifest.json"
    text = json.dumps(valid())
    assert old in text
    file.write_bytes(text.replace(old, new, 1).encode("latin-1"))
    with pytest.raises(ManifestError) as caught:
        load_manifest(file)
    check_refusal(caught.value, file)
    assert str(caught.value).startswith(f"{file}: {place}")


def test_the_refusal_of_one_entry_among_many_is_quick_and_names_it(tmp_path: Path) -> None:
    value = valid()
    entry = value["stores"][1]
    value["stores"] = [{**entry, "id": f"s{i}"} for i in range(3000)]
    value["stores"][2999]["bytes"] = "many"
    (tmp_path / "manifest.json").write_text(json.dumps(value))
    asked: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        import jsonschema

        whole = jsonschema.Draft202012Validator.iter_errors

        def counted(self: Any, data: Any, *rest: Any) -> Any:
            asked.append(len(json.dumps(data)))
            return whole(self, data, *rest)

        patch.setattr(jsonschema.Draft202012Validator, "iter_errors", counted)
        with pytest.raises(ManifestError, match=r"\$\.stores\[2999\]\.bytes: 'many'"):
            load_manifest(tmp_path)
    assert max(asked) < 2 * len(json.dumps(entry))


BOMBS = {
    "a file longer than any manifest": "f.truncate(2**30 + 1)",
    "a million brackets": "f.write(b'[' * 10**6)",
    "a million keys of one name": "f.write(b'{' + b'\"a\": 1,' * 10**6 + b'\"a\": 1}')",
    "ten million zeros": "f.write(b'{\"x-a\": [' + b'0,' * 10**7 + b'0]}')",
    "a key of 50 MB": "f.write(b'{\"' + b'k' * 50_000_000 + b'\": 1}')",
    "a set of 2^53 tiles": "f.write(TILES)",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_within_two_gigabytes(tmp_path: Path, name: str) -> None:
    value = put(valid(), ("stores", 1, "resolutions", 0, "tiles"), 2**53)
    value = put(value, ("stores", 1, "selection", "tiles", "0.5", "count"), 2**53)
    (tmp_path / "tiles").write_text(json.dumps(value))
    script = (
        "import resource, sys\n"
        "from manifests import ManifestError, load_manifest\n"
        "TILES = open('tiles', 'rb').read()\n"
        f"with open('manifest.json', 'wb') as f:\n    {BOMBS[name]}\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))\n"
        "try:\n    load_manifest('manifest.json')\n"
        "except ManifestError as error:\n    print(error)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("manifest.json: $")
    assert len(ran.stdout) < 2000


LITERAL = [
    "a%2e%2e/b",
    "%2e%2e/b",
    "a%2Fb",
    "‥/a",
    "．．/a",
    "a／..／b".replace("..", "x"),
    "․․/a",
    "a/",
    "a//b",
    "a/./b",
    "CON",
    "NUL/a",
    "aux.zarr",
    "$HOME/a",
    "${HOME}",
    "`id`",
    "$(id)",
    "-rf",
    "--help",
    "a;b",
    "a|b",
    "*",
    "?",
    "[a]",
    "{a,b}",
    "a ",
    " a",
    "a\t",
    "\u202ea",
    "\ufeff",
    ".a",
    "...",
    "a/.../b",
    "x" * 255,
    "x" * 256,
    "/".join(["d" * 50] * 60),
]
"""Names that other systems would take for something else: here each is just a name."""


@pytest.mark.parametrize("path", LITERAL, ids=lambda path: ascii(path)[:30])
def test_odd_names_are_taken_literally_and_stay_inside(root: Path, path: str) -> None:
    manifest = Manifest((done_entry(path=path),), root=root)
    with touched_outside(root) as outside:
        refusal = refusal_of(lambda: manifest.store_path(manifest.stores[0]))
        if not refusal:
            assert manifest.store_path(manifest.stores[0]) == root / path
        problems = verify(manifest).problems
    assert refusal == "" or "cannot be followed (File name too long)" in refusal
    assert problems
    assert outside == []


@pytest.mark.parametrize("path", DISK_TRICKS)
@pytest.mark.parametrize("level", LEVELS)
def test_links_on_disk_lead_nobody_out(root: Path, path: str, level: Any) -> None:
    manifest = Manifest((done_entry(path=path, resolutions=()),), root=root)
    with touched_outside(root) as outside:
        result = verify(manifest, level)
    assert outside == []
    assert result.problems
    assert not any(SECRET in problem.what for problem in result.problems)


def test_a_store_behind_a_link_that_stays_inside_is_a_store_like_any(tmp_path: Path) -> None:
    make_tiny_store(tmp_path / "disk1/a.zarr")
    (tmp_path / "a.zarr").symlink_to("disk1/a.zarr")
    manifest = Manifest((stored_entry(tmp_path, "a.zarr"),), root=tmp_path)
    assert verify(manifest, "sha256").problems == ()


STORE_LINKS = [
    "commit.json",
    "zarr.json",
    "0.5/zarr.json",
    "0.5/tiles/zarr.json",
    "0.5/tiles/c.0.0.0.0",
    "0.5/focus/c.0",
    "0.5/focus",
    "0.5/tiles",
    "0.5",
]


def read_all(path: Path) -> list[str]:
    """Read what a store offers; the refusals."""
    is_committed(path)
    actions: list[Callable[[], object]] = [
        lambda: TileStore(path)["0.5"].read_encoded(0),
        lambda: TileStore(path)["0.5"].column("focus"),
    ]
    return [refusal for action in actions if (refusal := refusal_of(action))]


@pytest.mark.parametrize("name", STORE_LINKS)
def test_a_link_in_a_store_to_something_outside_is_never_followed(
    tmp_path: Path, name: str
) -> None:
    # The very file or folder that was committed, but elsewhere: only where it lies is wrong.
    manifest = tiny_set(tmp_path / "root", "a.zarr")
    place = tmp_path / "root/a.zarr" / name
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    with touched_outside(tmp_path / "root") as outside:
        refusals = read_all(tmp_path / "root/a.zarr")
        results = [verify(manifest, level) for level in LEVELS]
    assert outside == []
    assert any("symbolic link that leads out of the store" in text for text in refusals)
    for result in results:
        assert any("leads out of the store" in problem.what for problem in result.problems)


def test_a_link_in_a_store_that_stays_inside_is_followed(tmp_path: Path) -> None:
    manifest = tiny_set(tmp_path, "a.zarr")
    folder = tmp_path / "a.zarr/0.5/tiles"
    (folder / "c.0.0.0.0").rename(folder / ".kept")
    (folder / "c.0.0.0.0").symlink_to(".kept")
    assert read_all(tmp_path / "a.zarr") == []
    assert verify(manifest, "deep").problems == ()


@pytest.mark.parametrize("name", STORE_LINKS[:6])
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path, name: str) -> None:
    manifest = tiny_set(tmp_path, "a.zarr")
    (tmp_path / "a.zarr" / name).unlink()
    os.mkfifo(tmp_path / "a.zarr" / name)
    assert any("is not a plain file" in text for text in read_all(tmp_path / "a.zarr"))
    for level in LEVELS:
        assert any("is not a plain file" in p.what for p in verify(manifest, level).problems)


def set_file(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    """A change to a commit record: one more file."""
    return lambda body: body["files"].update({name: value})


def set_key(key: str, value: object) -> Callable[[dict[str, Any]], None]:
    """A change to a commit record: another value."""
    return lambda body: body.update({key: value})


@pytest.mark.parametrize(
    "change",
    [
        *(set_file(name, [28, sha256(SECRET.encode())]) for name in PATH_TRICKS[:20]),
        set_file("../../outside/secret", [28, sha256(SECRET.encode())]),
        set_file(".hidden", [0, "00" * 32]),
        set_file("a", 7),
        set_file("a", ["1", "00" * 32]),
        set_file("a", [-1, "00" * 32]),
        set_file("a", [2**60, "00" * 32]),
        set_file("a", [1, "00"]),
        set_key("files", []),
        set_key("groups", "0.5"),
        set_key("groups", ["../../outside/foreign.zarr/0.5"]),
        set_key("groups", [".."]),
        set_key("groups", [7]),
        set_key("totals", {}),
        set_key("totals", {"tiles": 1e300, "bytes": -1}),
        set_key("uuid", None),
        set_key("uuid", ""),
    ],
)
def test_a_commit_record_that_was_made_to_mislead_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    manifest = tiny_set(tmp_path / "root", "a.zarr")
    forge(tmp_path / "root/a.zarr", change)
    with touched_outside(tmp_path / "root") as outside:
        with pytest.raises(StoreError, match="says what no commit record says"):
            TileStore(tmp_path / "root/a.zarr")
        assert len(verify(manifest, "deep").problems) == 1
    assert outside == []


def test_random_metadata_in_a_store_are_problems_and_never_errors(tmp_path: Path) -> None:
    # The records vouch for them, so that they are read; a person could have made such a store.
    rng = random.Random(7)
    values = [None, 0, -1, 1.5, 2**70, "", "a", [], {}, [1], {"a": 1}, True]
    for number in range(300):
        path = tmp_path / f"{number}.zarr"
        make_tiny_store(path)
        entry = replace(stored_entry(tmp_path, path.name), commit=None)
        name = rng.choice(["zarr.json", "0.5/zarr.json", "0.5/tiles/zarr.json"])
        data = json.loads((path / name).read_bytes())
        where = rng.choice(list(places(data)))
        data = pretty_json(put(data, where, rng.choice(values)))
        (path / name).write_bytes(data)
        forge(path, set_file(name, [len(data), sha256(data)]))
        for level in LEVELS:
            verify(Manifest((entry,), root=tmp_path), level, workers=1)
        refusal_of(lambda path=path: TileStore(path)["0.5"])  # type: ignore[misc]
