"""The page of `manifest summary --html`: which tiles it shows, and that nothing gets into it."""

from __future__ import annotations

import base64
import io
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from manifests.cli.looking import summary
from manifests.codec import Rgb, TileCodec
from manifests.describe.gallery import presentable, share, spread
from manifests.describe.groups import parts_of
from manifests.jsonfile import save_manifest
from manifests.model import Manifest, Resolution, Selection, StoreEntry
from manifests.store import TileStore
from manifests.tileset import TileSet
from tests.manifests.make import make_store_with_unread, plan_store, write_shard
from tests.manifests.make_manifest import SPEC_HASH, failed_entry

TILES = 24
GOOD = range(TILES // 2, TILES)
"""Tiles of at least half tissue: the stores of `make` have it rising from 0 to 1."""


@dataclass
class Page(HTMLParser):
    """What a browser would make of a page."""

    source: str
    tags: Counter[str] = field(default_factory=Counter)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    """Tag, name and value."""
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]

    def pictures(self) -> list[Rgb]:
        """The pictures, decoded."""
        found = []
        for source in self.values("img", "src"):
            kind, data = source.split(",")
            assert kind == "data:image/jpeg;base64"
            found.append(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))))
        return found


def shades(size: int = 32) -> Rgb:
    """Tiles of one grey each: tile i is 10 i."""
    grey = np.arange(TILES, dtype=np.uint8) * 10
    return np.broadcast_to(grey[:, None, None, None], (TILES, size, size, 3)).copy()


def tile_of(picture: Rgb) -> int:
    """Which of the shades a picture shows."""
    return round(float(picture.mean()) / 10)


def add_store(folder: Path, name: str, number: int, size: int = 32, **fields: object) -> StoreEntry:
    """A committed store of the shades, and its entry."""
    uuid = f"12345678-1234-5678-1234-{number:012}"
    writer = plan_store(
        folder / f"{name}.zarr", shades(size), codec=TileCodec("zstd"), shard_tiles=8, uuid=uuid
    )
    for shard in writer.missing_shards("0.5"):
        write_shard(writer, shades(size), shard)
    writer.commit()
    entry = StoreEntry(
        id=name,
        status="done",
        source=f"{name}.svs",
        path=f"{name}.zarr",
        uuid=uuid,
        spec_hash=SPEC_HASH,
        organ="lung",
        resolutions=(Resolution("0.5", (0.5, 0.5), 0.5, size, TILES, 0, (1.0, 1.0)),),
    )
    return replace(entry, **fields)  # type: ignore[arg-type]


def page_of(folder: Path, entries: list[StoreEntry], *options: str) -> tuple[Page, str]:
    """The page of a `summary --html` that succeeds, and what it said on stderr."""
    save_manifest(Manifest(tuple(entries)), folder / "manifest.json")
    file = folder / "page.html"
    ran = CliRunner().invoke(summary, [str(folder), "--html", str(file), *options])
    assert ran.exit_code == 0, ran.output
    return Page(file.read_text(encoding="utf-8")), ran.stderr


def test_pictures_are_spread_over_slides_and_show_tissue(tmp_path: Path) -> None:
    entries = [add_store(tmp_path, f"s{i}", i) for i in range(3)]
    page, _ = page_of(tmp_path, entries, "--tiles-per-group", "7")
    titles = page.values("img", "title")
    assert sorted(Counter(title.split(",")[0] for title in titles).values()) == [2, 2, 3]
    for title, picture in zip(titles, page.pictures(), strict=True):
        tile = tile_of(picture)
        assert tile in GOOD
        assert title.split(", ")[1:] == [f"tile {tile}", "0.5 µm/px"]
    assert len(set(titles)) == 7
    assert page.values("img", "alt") == titles


def test_selected_tiles_alone_are_shown_even_where_they_have_little_tissue(tmp_path: Path) -> None:
    glass, mixed = {2, 5, 7}, {3, 15, 20}
    chosen = [Selection((), {"0.5": TileSet.of(tiles)}) for tiles in (glass, mixed, set[int]())]
    entries = [
        add_store(tmp_path, name, number, organ=name, selection=selection)
        for number, (name, selection) in enumerate(zip(("a", "b", "c"), chosen, strict=True))
    ]
    page, _ = page_of(tmp_path, entries)
    shown: dict[str, set[int]] = {"a": set(), "b": set(), "c": set()}
    for title, picture in zip(page.values("img", "title"), page.pictures(), strict=True):
        shown[title.split(",")[0]].add(tile_of(picture))
    assert shown == {"a": glass, "b": {15, 20}, "c": set()}
    assert "6 tiles from 2 slides" in page.text


def test_each_split_of_a_store_shows_its_own_tiles(tmp_path: Path) -> None:
    parts = {"train": {"0.5": TileSet.of(range(14))}, "test": {"0.5": TileSet.of(range(14, 17))}}
    entry = add_store(tmp_path, "a", 1, splits=parts)
    page, _ = page_of(tmp_path, [entry], "--by", "split", "--tiles-per-group", "20")
    strips = page.source.split('<section class="strip">')[1:]
    shown = {
        strip.split("<h3>")[1].split("<")[0]: {tile_of(p) for p in Page(strip).pictures()}
        for strip in strips
    }
    assert shown == {
        "train": {12, 13},
        "nothing known": set(range(17, 24)),
        "test": {14, 15, 16},
    }


def test_tiles_that_could_not_be_read_from_the_slide_are_not_shown(tmp_path: Path) -> None:
    make_store_with_unread(tmp_path / "a.zarr", [0, 0, 0, 0, 0, 0.5, 0, 0])
    entry = StoreEntry(
        id="a",
        status="done",
        source="a.svs",
        path="a.zarr",
        uuid="12345678-1234-5678-1234-567812345678",
        spec_hash=SPEC_HASH,
        resolutions=(Resolution("0.5", (0.5, 0.5), 0.5, 32, 8, 0, (1.0, 1.0)),),
    )
    [part] = parts_of(Manifest((entry,)))
    group = TileStore(tmp_path / "a.zarr")["0.5"]
    assert presentable(group, part).tolist() == [4, 6, 7]


def test_pictures_are_small_and_keep_their_proportions(tmp_path: Path) -> None:
    entries = [add_store(tmp_path, "big", 1, size=320), add_store(tmp_path, "small", 2, organ="a")]
    page, _ = page_of(tmp_path, entries)
    assert {picture.shape for picture in page.pictures()} == {(128, 128, 3), (32, 32, 3)}


def test_the_same_set_elsewhere_gives_the_same_page_without_a_path(tmp_path: Path) -> None:
    first = tmp_path / "first"
    first.mkdir()
    entries = [add_store(first, f"s{i}", i) for i in range(4)]
    page, _ = page_of(first, entries, "--tiles-per-group", "3")
    shutil.copytree(first, tmp_path / "second", ignore=shutil.ignore_patterns("page.html"))
    other, _ = page_of(tmp_path / "second", entries, "--tiles-per-group", "3")
    assert page.source == other.source
    assert str(tmp_path) not in page.source


@pytest.mark.parametrize("harm", ["missing", "uncommitted", "shard", "foreign"])
def test_a_bad_store_is_a_line_in_the_page_and_others_are_shown(tmp_path: Path, harm: str) -> None:
    entries = [add_store(tmp_path, name, number) for number, name in enumerate(("bad", "good"))]
    bad = tmp_path / "bad.zarr"
    if harm == "missing":
        shutil.rmtree(bad)
    elif harm == "uncommitted":
        (bad / "commit.json").unlink()
    elif harm == "shard":
        for shard in (bad / "0.5" / "tiles").glob("c.*"):
            shard.write_bytes(bytes(shard.stat().st_size))
    else:
        shutil.rmtree(bad)
        shutil.copytree(tmp_path / "good.zarr", bad)
    page, said = page_of(tmp_path, entries, "--tiles-per-group", "6")
    assert "1 of the 2 stores opened for pictures could not be read: bad." in page.text
    assert {title.split(",")[0] for title in page.values("img", "title")} == {"good"}
    assert "No pictures of bad: " in said
    assert str(tmp_path) not in page.source


def test_a_remote_store_is_a_line_in_the_page(tmp_path: Path) -> None:
    remote = add_store(tmp_path, "far", 1, path="https://example.org/far.zarr")
    page, _ = page_of(tmp_path, [remote, add_store(tmp_path, "near", 2)])
    assert "No pictures of 1 store behind URLs." in page.text
    assert "could not be read" not in page.text
    assert {title.split(",")[0] for title in page.values("img", "title")} == {"near"}


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><style>*{display:none}</style>",
    "{{ 7 * 7 }}{% raw %}",
    "]]><!-- & -->",
    "javascript:alert(1)",
    "a\u202eb\x00\x1b[2J",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text_and_nothing_else(tmp_path: Path, name: str) -> None:
    plain, _ = page_of(tmp_path, [add_store(tmp_path, "a", 1)])
    shutil.rmtree(tmp_path / "a.zarr")
    identity = "".join(c for c in name if c not in "/\\:\0\n")
    known = dict.fromkeys(("organ", "stain", "dataset", "scanner", "site", "license"), name)
    entry = add_store(tmp_path, "a", 1, labels=(name,), columns={"own": name})
    entry = replace(entry, **known)  # type: ignore[arg-type]
    bad = replace(entry, id=f"{identity}2", path="none.zarr", selection=None)
    failed = failed_entry(f"{identity}3", reason=name, organ=name)
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    entries = [replace(entry, id=identity, path="b.zarr"), bad, failed]
    page, _ = page_of(tmp_path, entries, "--by", "organ,stain,dataset,scanner,site,own")
    assert page.tags.keys() == plain.tags.keys()
    assert not {"script", "link", "iframe", "a", "object"} & page.tags.keys()
    assert page.tags["style"] == 1
    assert {name for _, name, _ in page.attributes} == {name for _, name, _ in plain.attributes}
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.values("img", "src"))
    shown = name.replace("\u202e", "\\u202e").replace("\x00", "\\x00").replace("\x1b", "\\x1b")
    assert shown in page.text
    assert len(page.pictures()) == 8


def test_the_page_asks_for_nothing_from_outside(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, [add_store(tmp_path, "a", 1)])
    assert "http:" not in page.source
    assert "https:" not in page.source
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "default-src 'none'" in page.values("meta", "content")[0]


def test_charts_and_totals_say_what_is_counted(tmp_path: Path) -> None:
    organs = ["lung", "lung", "skin", None]
    entries = [add_store(tmp_path, f"s{i}", i, organ=organ) for i, organ in enumerate(organs)]
    page, _ = page_of(tmp_path, entries, "--tiles-per-group", "0")
    assert page.tags["img"] == 0
    assert "96 tiles from 4 slides" in page.text
    chart = page.source.split("<h3>Tiles per organ</h3>")[1].split("</section>")[0]
    bars = Page(chart)
    assert bars.text.split("\n") == ["", "", "lung48", "skin24", "not known24", "", ""]
    assert bars.values("span", "style") == ["width: 100.0%", "width: 50.0%", "width: 50.0%"]
    assert "Tiles per stain" not in page.text


def test_a_page_without_pictures_opens_no_store(tmp_path: Path) -> None:
    entry = replace(add_store(tmp_path, "a", 1), path="nowhere.zarr")
    page, said = page_of(tmp_path, [entry], "--tiles-per-group", "0")
    assert "could not be read" not in page.text
    assert said == f"Page: {tmp_path / 'page.html'}\n"


def test_an_empty_manifest_has_a_page_too(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, [failed_entry()])
    assert "0 tiles from no slide" in page.text


def test_an_older_page_stays_where_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, [add_store(tmp_path, "a", 1)])
    (tmp_path / "manifest.json").write_text("{")
    file = tmp_path / "page.html"
    ran = CliRunner().invoke(summary, [str(tmp_path), "--html", str(file)])
    assert ran.exit_code == 5
    assert file.read_text(encoding="utf-8") == page.source
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_page_is_not_written_over_the_manifest_or_into_a_folder_that_is_not_there(
    tmp_path: Path,
) -> None:
    file = tmp_path / "manifest.json"
    save_manifest(Manifest(), file)
    before = file.read_bytes()
    for page in (file, tmp_path / "no" / "page.html", tmp_path):
        ran = CliRunner().invoke(summary, [str(tmp_path), "--html", str(page)])
        assert (ran.exit_code, ran.stdout) == (2, "")
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


@given(st.integers(0, 20), st.lists(st.integers(0, 9), max_size=6))
def test_shares_are_as_even_as_the_heaps_allow(count: int, available: list[int]) -> None:
    taken = share(count, available)
    assert sum(taken) == min(count, sum(available))
    assert all(got <= most for got, most in zip(taken, available, strict=True))
    for got, most in zip(taken, available, strict=True):
        assert got == most or got >= max(taken, default=0) - 1


@given(st.integers(1, 200), st.data())
def test_spread_tiles_are_distinct_and_evenly_apart(available: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, available))
    tiles = np.arange(available, dtype=np.int64) * 3
    found = np.array(spread(tiles, count)) // 3
    assert len(set(found.tolist())) == count
    gaps = np.diff([-1, *found, available])
    inner = gaps[1:-1]
    assert inner.size == 0 or inner.max() - inner.min() <= 1
    assert abs(int(gaps[0]) - int(gaps[-1])) <= 1


@pytest.mark.slow
def test_a_real_slide_has_pictures_of_tissue(tmp_path: Path, real_data: Path) -> None:
    from tiler.cli import main

    slide = real_data / "svs" / "CMU-1-Small-Region.svs"
    options = ["--mpp", "0.5", "--mpp", "1", "--stain", "H&E", "--workers", "0", "--quiet"]
    ran = CliRunner().invoke(main, ["extract", str(slide), "--out", str(tmp_path), *options])
    assert ran.exit_code == 0, ran.output
    file = tmp_path / "page.html"
    ran = CliRunner().invoke(summary, [str(tmp_path), "--html", str(file)])
    assert ran.exit_code == 0, ran.output
    page = Page(file.read_text(encoding="utf-8"))
    pictures = page.pictures()
    assert len(pictures) == 16
    assert all(picture.shape == (128, 128, 3) for picture in pictures)
    # H&E: tissue absorbs green more than red and blue.
    assert all(picture.std() > 10 for picture in pictures)
    greens = np.array([picture.mean(axis=(0, 1)) for picture in pictures])
    assert (greens[:, 1] < greens[:, [0, 2]].min(axis=1)).all()
    assert "from 1 slide" in page.text
