"""The page of an evaluation: what is on it is what was found, and nothing gets into it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pretrain.page import figures, gallery
from pretrain.page.pictures import jpeg_uri, overlaid, sheet, shrunk
from pretrain.page.report import Extras, page_html, write_report
from pretrain.results.result import (
    CurvePoint,
    EncoderResult,
    Evaluation,
    LeakNote,
    Matrix,
    SplitNote,
)
from pretrain.scoring.intervals import Interval

CLASSES = ("fat", "stroma", "tumour")
TILES = 24
EVIL = "<script>alert('&\"')</script>"
METRICS = {
    "classification": ("macro_f1", "balanced_accuracy", "auc"),
    "regression": ("l1", "r2"),
    "segmentation": ("dice", "iou"),
}


@dataclass
class Page(HTMLParser):
    """What a browser would make of a page."""

    source: str
    tags: Counter[str] = field(default_factory=Counter)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    """Tag, name and value."""
    tables: list[list[list[str]]] = field(default_factory=list)
    """Rows of cells of text; a caption is a row of one."""
    text: str = ""
    inside: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.inside.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag in ("tr", "caption"):
            self.tables[-1].append([""] if tag == "caption" else [])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.inside):
            self.text += data
        if {"td", "th", "caption"} & set(self.inside):
            self.tables[-1][-1][-1] += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]

    def table(self, caption: str) -> dict[str, list[str]]:
        """Cells by the first of their row, of the first table whose caption begins so."""
        rows = next(rows for rows in self.tables if rows and rows[0][0].startswith(caption))
        return {row[0]: [" ".join(cell.split()) for cell in row[1:]] for row in rows[1:]}


def scores(task: str, methods: Mapping[str, float]) -> dict[str, dict[str, Interval]]:
    return {
        method: {
            name: Interval(value + 0.011 * i, value - 0.1, value + 0.1)
            for i, name in enumerate(METRICS[task])
        }
        for method, value in methods.items()
    }


def one_encoder(task: str, name: str, value: float, kind: str = "encoder") -> EncoderResult:
    methods = {"decoder": value} if task == "segmentation" else {"knn": value, "linear": value / 2}
    matrix: Matrix = ((7, 1, 0), (2, 5, 1), (0, 3, 1234))
    return EncoderResult(
        name=name,
        arch="resnet18",
        library="torchvision",
        features=8,
        sha256=hashlib.sha256(f"{name}{value}".encode()).hexdigest(),
        mpp=((0.5, 0.5),),
        kind=kind,
        scores=scores(task, methods),
        chosen={"k": 5, "c": 0.01},
        confusion={} if task == "regression" else dict.fromkeys(methods, matrix),
        curve=()
        if task == "segmentation"
        else tuple(
            CurvePoint(s, int(200 * s), int(20 * s) + 1, (s,), Interval(s / 2, s / 3, s))
            for s in (0.01, 0.1, 1.0)
        ),
        seconds={"embed": 1.5, "score": 0.25},
    )


def evaluation(
    task: str = "classification", *, names: tuple[str, ...] = ("a.safetensors",)
) -> Evaluation:
    encoders = [one_encoder(task, name, 0.6 + 0.01 * i) for i, name in enumerate(names)]
    return Evaluation(
        task=task,
        label="kind",
        classes=() if task == "regression" else CLASSES,
        manifest_sha256="0123456789abcdef" * 4,
        image_size=None,
        seed=3,
        resamples=500,
        split=SplitNote(
            by=("patient",),
            tiles={"train": 200, "val": 50, "test": 1024},
            units={"train": 20, "val": 5, "test": 11},
        ),
        encoders=(*encoders, one_encoder(task, "colour histogram", 0.5, "baseline")),
    )


def extras(task: str = "classification", encoders: int = 2, tiles: int = TILES) -> Extras:
    random = np.random.default_rng(0)
    group = np.arange(tiles) % len(CLASSES)
    targets: np.ndarray[tuple[int, ...], np.dtype[np.number]] = group.astype(np.int64)
    shape: tuple[int, ...] = (tiles,)
    if task == "regression":
        targets = np.round(random.uniform(-1, 1, tiles), 3)
    if task == "segmentation":
        shape = (tiles, 16, 16)
        targets = random.integers(-1, len(CLASSES), shape)
    rows = np.eye(8, dtype=np.float32)[group] + random.normal(0, 0.05, (tiles, 8))
    return Extras(
        thumbnails=random.integers(0, 256, (tiles, 16, 16, 3)).astype(np.uint8),
        names=tuple(f"slide-{i}/0.5/{i}" for i in range(tiles)),
        targets=targets,
        units=(np.arange(tiles) % 6).astype(np.int64),
        features=() if task == "segmentation" else (rows,) * encoders,
        predictions=tuple(
            {"decoder": targets} if task == "segmentation" else {"knn": targets, "linear": targets}
            for _ in range(encoders)
        ),
    )


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(page_html(evaluation(), extras()))


def test_the_score_tables_hold_every_score_with_its_bounds(page: Page) -> None:
    for encoder in evaluation().encoders:
        for method, title in (("knn", "k nearest neighbours"), ("linear", "linear probe")):
            rows = page.table(title)
            name = encoder.name + (" (no network)" if encoder.kind == "baseline" else "")
            assert rows[name] == [
                f"{s.value:.3f} {s.low:.3f} to {s.high:.3f}".replace("-", "−")
                for s in encoder.scores[method].values()
            ]


def test_the_gains_are_told_with_sign_bounds_and_whether_they_are_sure() -> None:
    given = evaluation(names=("a", "b"))
    gains = {
        "baseline": {"linear": Interval(0.2, 0.1, 0.3), "knn": Interval(-0.2, -0.3, -0.1)},
        "first": {"linear": Interval(0.01, -0.02, 0.05), "knn": Interval(0.01, math.nan, math.nan)},
    }
    one, two, colours = given.encoders
    given = replace(given, encoders=(one, replace(two, gains=gains), colours))

    made = Page(page_html(given, extras(encoders=3)))

    assert made.table("Better by: macro F1") == {
        "encoder": [
            "linear probe, than colour histogram",
            "k nearest neighbours, than colour histogram",
            "linear probe, than a",
            "k nearest neighbours, than a",
        ],
        "b": [
            "+0.200 +0.100 to +0.300 better",
            "−0.200 −0.300 to −0.100 worse",
            "+0.010 −0.020 to +0.050",
            "+0.010",
        ],
    }


def test_a_page_without_gains_has_no_table_of_them(page: Page) -> None:
    assert "Better by" not in page.text


def test_the_confusion_tables_hold_every_count(page: Page) -> None:
    rows = page.table("linear probe: rows are the truth")
    assert rows["1\xa0fat"] == ["7", "1", "0"]
    assert rows["3\xa0tumour"] == ["0", "3", "1,234"]
    assert page.source.count('<table class="matrix">') == 4  # two encoders, two methods


def test_the_colour_of_a_cell_is_its_share_of_the_row() -> None:
    cells = figures.cells(((3, 1), (0, 0)))
    assert [[cell.share for cell in row] for row in cells] == [[0.75, 0.25], [0, 0]]


def test_the_curves_numbers_stand_in_a_table(page: Page) -> None:
    rows = next(table for table in page.tables if "100 %" in table[0])
    assert rows[0][1:] == ["1 %", "10 %", "100 %"]
    assert rows[1] == ["patients / tiles", "1 / 2", "3 / 20", "21 / 200"]
    assert rows[2][3] == "0.500 (0.333 to 1.000)"


def test_it_says_what_was_evaluated_and_how(page: Page) -> None:
    assert "kind: 1 encoder on 1,024 test tiles of 11 patients" in page.text
    assert "95 %, bootstrap over patients, 500 resamples" in page.text
    assert "k = 5, c = 0.01" in page.text
    assert "0123456789abcdef" * 4 in page.text
    assert not page.source.count('class="warnings"')


def test_every_picture_is_in_the_page_and_told_in_words(page: Page) -> None:
    sources = page.values("img", "src")
    assert sources
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/jpeg;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert len(page.values("img", "alt")) == len(sources)
    assert page.values("img", "alt").count("") == 1  # the sheet of the maps, told by the script
    drawings = page.tags["svg"]
    told = page.values("svg", "aria-label") + page.values("svg", "aria-hidden")
    assert len(told) == drawings


def test_it_asks_nothing_of_a_network_and_runs_its_own_script_alone(page: Page) -> None:
    assert "http:" not in page.source.replace("http-equiv", "")
    assert "https:" not in page.source
    assert "//" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", page.source)
    assert not page.tags["link"]
    policy = page.values("meta", "content")[0]
    assert policy.startswith("default-src 'none'; img-src data:;")
    script = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy


def test_maps_have_a_mark_for_each_tile_and_the_script_knows_each(page: Page) -> None:
    maps = re.findall(r'<svg viewBox="0 0 400 400".*?</svg>', page.source, re.DOTALL)
    assert [drawn.count("<use ") for drawn in maps] == [TILES, TILES]
    given = extras()
    data = json.loads(re.findall(r'id="data">(.*?)</script>', page.source, re.DOTALL)[0])
    assert sorted(data["names"]) == sorted(given.names)
    told = dict(zip(data["names"], data["targets"], strict=True))
    assert told == dict(zip(given.names, given.targets.tolist(), strict=True))
    assert data["predictions"][0]["by"] == "linear probe"


def test_the_same_evaluation_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one.html", "two.html"):
        write_report(tmp_path / name, evaluation(), extras())
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["one.html", "two.html"]


def test_names_stay_text_whatever_they_say() -> None:
    found = evaluation(names=(EVIL,))
    split = replace(found.split, leaks=LeakNote("keep", 1, (EVIL,), 0), left_out={EVIL: 2})
    found = replace(found, label=EVIL, classes=(EVIL, "b", "c"), split=split)
    shown = replace(extras(), names=(EVIL,) * TILES)
    page = Page(page_html(found, shown))
    assert page.tags["script"] == 2  # the data and the script
    assert "<script>alert" not in page.source.replace('<script>"use', "")
    data = re.findall(r'id="data">(.*?)</script>', page.source, re.DOTALL)[0]
    assert json.loads(data)["names"][0] == EVIL


def test_two_encoders_of_one_name_are_told_apart() -> None:
    found = evaluation(names=("encoder.safetensors", "encoder.safetensors"))
    rows = Page(page_html(found, extras(encoders=3))).table("linear probe")
    short = [encoder.sha256 for encoder in found.encoders if encoder.sha256]
    assert {f"encoder.safetensors ({digest[:8]})" for digest in short[:2]} <= rows.keys()


@pytest.mark.parametrize(
    ("policy", "words"),
    [("keep", "2 leaks between the splits were kept"), ("drop", "31 tiles of validation and test")],
)
def test_leaks_are_told_before_any_number(policy: str, words: str) -> None:
    found = evaluation()
    leaks = LeakNote(policy, 2, ("slide-1 is in train and test", "tile 7 is there twice"), 31)
    source = page_html(replace(found, split=replace(found.split, leaks=leaks)), extras())
    assert source.index(words) < source.index("<h2>Scores")
    assert "slide-1 is in train and test" in source


def test_of_many_leaks_the_first_are_named() -> None:
    found = evaluation()
    leaks = LeakNote("keep", 50, tuple(f"leak {i}." for i in range(50)), 0)
    text = Page(page_html(replace(found, split=replace(found.split, leaks=leaks)), extras())).text
    assert "leak 19." in text
    assert "leak 20." not in text
    assert "30 more" in text


def test_tiles_that_do_not_count_are_told() -> None:
    found = evaluation()
    split = replace(found.split, left_out={"damaged": 4}, val_from_train=True)
    text = Page(page_html(replace(found, split=split), extras())).text
    assert "damaged: 4 tiles" in text
    assert "taken from the training tiles" in text


def test_regression_shows_prediction_against_truth() -> None:
    given = extras("regression")
    page = Page(page_html(evaluation("regression"), given))
    assert page.tags["circle"] >= 2 * TILES
    assert "L1 error (less is better)" in page.text
    rows = next(table for table in page.tables if "mean truth" in table[0])
    assert sum(int(row[1]) for row in rows[1:]) == TILES
    assert all(row[2] == row[3] and row[4] == "0.000" for row in rows[1:])
    assert 'class="matrix"' not in page.source


def test_points_of_truth_and_prediction_stand_where_their_numbers_say() -> None:
    plot = figures.scatter(np.array([0.0, 1.0, 0.5, 0.5]), np.array([-0.25, 1.25, 0.5, 99.0]))
    x1, y1, x2, y2 = plot.line  # from -0.25 to 1.25
    assert x1 < x2
    assert y1 > y2  # upwards
    middle = ((x1 + x2) / 2, (y1 + y2) / 2)
    assert plot.points[2] == pytest.approx(middle, abs=0.11)
    assert plot.points[0] == pytest.approx((x1 + (x2 - x1) / 6, y1), abs=0.11)
    assert plot.points[1] == pytest.approx((x2 - (x2 - x1) / 6, y2), abs=0.11)
    assert plot.points[3] == pytest.approx((middle[0], y2), abs=0.11)  # on the edge
    assert [tick.text for tick in plot.x] == ["0", "0.5", "1"]


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_lie_on_the_axis(low: float, span: float) -> None:
    plot = figures.scatter(np.array([low, low + span]), np.array([low, low + span]))
    assert 2 <= len(plot.x) <= 6
    left, right = plot.line[0], plot.line[2]
    assert all(left <= tick.at <= right for tick in plot.x)


def test_segmentation_shows_masks_and_how_much_of_them_agrees() -> None:
    given = extras("segmentation", tiles=3)
    wrong = np.where(given.targets == 0, 1, 0)
    given = replace(given, predictions=({"decoder": given.targets}, {"decoder": wrong}))
    page = Page(page_html(evaluation("segmentation"), given))
    assert page.text.count("a.safetensors: 100 %") == 3
    assert page.text.count("colour histogram: 0 %") == 3
    assert len(page.values("img", "src")) == 3 * 4
    assert "small decoder" in page.text


def test_an_evaluation_without_extras_still_has_its_numbers() -> None:
    nothing = Extras(
        np.zeros((0, 8, 8, 3), np.uint8), (), np.zeros(0, np.int64), np.zeros(0, np.int64)
    )
    page = Page(page_html(evaluation(), nothing))
    assert page.table("linear probe")
    assert not page.values("img", "src")


def test_scores_that_cannot_be_had_are_dashes() -> None:
    nan = float("nan")
    found = evaluation()
    encoder = replace(
        found.encoders[0], scores={"linear": {"macro_f1": Interval(0.5, nan, nan)}}, curve=()
    )
    other = replace(encoder, name="b", scores={"linear": {"macro_f1": Interval(nan, nan, nan)}})
    rows = Page(page_html(replace(found, encoders=(encoder, other)), extras())).table("linear")
    assert rows["a.safetensors"] == ["0.500"]
    assert rows["b"] == ["–"]


def test_a_page_of_five_encoders_and_noise_has_a_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pretrain.page.report.lay_out", _anywhere)
    random = np.random.default_rng(0)
    small = extras(encoders=6, tiles=400)
    noise = random.integers(0, 256, (400, 96, 96, 3), dtype=np.uint8)
    found = evaluation(names=tuple(f"{i}.safetensors" for i in range(5)))
    assert len(page_html(found, replace(small, thumbnails=noise))) < 6_000_000


def _anywhere(features: np.ndarray[tuple[int, ...], np.dtype[np.floating]], seed: int) -> object:
    from pretrain.page.map import Layout

    return Layout(np.random.default_rng(seed).random((len(features), 2)), "t-SNE")


def tiles_of(targets: list[int], units: list[int], seed: int = 0) -> gallery.Tiles:
    features = np.random.default_rng(seed).normal(size=(len(targets), 4))
    return gallery.Tiles(
        tuple(map(str, range(len(targets)))),
        np.array(targets, dtype=np.int64),
        np.array(units, dtype=np.int64),
        (features,),
        CLASSES,
    )


@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=30),
    st.integers(0, 9),
)
def test_neighbours_are_the_nearest_of_other_units(pairs: list[tuple[int, int]], seed: int) -> None:
    tiles = tiles_of([p[0] for p in pairs], [p[1] for p in pairs], seed)
    thumbnails = np.zeros((len(pairs), 8, 8, 3), np.uint8)
    rows = tiles.features[0] / np.linalg.norm(tiles.features[0], axis=1, keepdims=True)
    for query in gallery.neighbour_rows(thumbnails, tiles, ["a"]):
        tile = int(query.name)
        assert query.said == CLASSES[tiles.targets[tile]]
        others = [i for i in range(len(pairs)) if tiles.units[i] != tiles.units[tile]]
        expected = sorted(others, key=lambda i: -float(rows[i] @ rows[tile]))[:6]
        found = query.rows[0][1]
        assert [int(near.name) for near in found] == expected
        assert [near.agrees for near in found] == [
            bool(tiles.targets[i] == tiles.targets[tile]) for i in expected
        ]


def test_queries_are_of_each_class_and_of_different_units() -> None:
    tiles = tiles_of([0] * 5 + [1] * 5 + [2] * 2, [0, 0, 0, 1, 1, 2, 2, 2, 2, 2, 3, 3])
    chosen = gallery.queries(tiles)
    assert Counter(tiles.targets[chosen].tolist()) == {0: 2, 1: 2, 2: 2}
    assert set(tiles.units[chosen].tolist()) == {0, 1, 2, 3}


def test_agreement_is_the_share_of_neighbours_of_the_same_class() -> None:
    tiles = tiles_of([0, 0, 1], [0, 1, 2])
    # Tile 0 has neighbours 1 (same) and 2; tile 1 has 0 (same) and 2; tile 2 has none of its class.
    assert gallery.agreement(tiles, 3) == [(2, ["50 %"]), (1, ["0 %"]), (0, ["–"])]


def test_tiles_of_one_unit_have_no_neighbours() -> None:
    tiles = tiles_of([0, 0, 1], [5, 5, 5])
    assert gallery.agreement(tiles, 2) == [(2, ["–"]), (1, ["–"])]
    thumbnails = np.zeros((3, 8, 8, 3), np.uint8)
    assert all(not q.rows[0][1] for q in gallery.neighbour_rows(thumbnails, tiles, ["a"]))


def test_features_that_are_no_numbers_and_rows_that_lack_are_refused() -> None:
    good = extras()
    with pytest.raises(ValueError, match="finite"):
        replace(good, features=(np.full((TILES, 2), np.nan),))
    with pytest.raises(ValueError, match="24 thumbnails, but 23"):
        replace(good, names=good.names[1:])


@given(st.integers(1, 40))
def test_each_tile_has_its_place_in_a_sheet(count: int) -> None:
    grey = np.linspace(0, 255, count).astype(np.uint8)
    tiles = np.broadcast_to(grey[:, None, None, None], (count, 20, 20, 3))
    found = sheet(tiles)
    data = base64.b64decode(found.uri.partition(",")[2])
    picture = np.asarray(Image.open(io.BytesIO(data)))
    assert picture.shape == (found.rows * found.side, found.columns * found.side, 3)
    for number, value in enumerate(grey.tolist()):
        top, left = (found.side * place for place in divmod(number, found.columns))
        tile = picture[top : top + found.side, left : left + found.side].astype(int)
        assert abs(tile - value).max() <= 4


def test_tiles_are_made_small_and_never_large() -> None:
    tiles = np.zeros((2, 100, 200, 3), dtype=np.uint8)
    assert shrunk(tiles, 50).shape == (2, 25, 50, 3)
    assert shrunk(tiles, 500) is tiles
    assert jpeg_uri(shrunk(tiles, 50)[0]).startswith("data:image/jpeg;base64,")


def test_a_mask_tints_its_classes_and_nothing_else() -> None:
    tile = np.full((1, 4, 3), 100, dtype=np.uint8)
    found = overlaid(tile, np.array([[-1, 0, 1, 9]]), [(200, 100, 0), (0, 0, 0)])
    assert found[0].tolist() == [[100, 100, 100], [155, 100, 45], [45, 45, 45], [100, 100, 100]]
