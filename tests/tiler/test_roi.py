"""Regions: every shape of GeoJSON that QuPath writes, areas, and what is said of broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiler.errors import TilerError
from tiler.roi import Polygon, Rois, load_rois

Json = dict[str, Any] | list[Any]


def box(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h], [x, y]]


def feature(geometry: Json | None, **properties: Any) -> dict[str, Any]:
    return {"type": "Feature", "id": "1", "geometry": geometry, "properties": properties}


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def saved(folder: Path, document: Any) -> Path:
    path = folder / "slide.geojson"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


SQUARE = polygon(box(10, 20, 30, 40))


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": [feature(SQUARE, objectType="annotation")]},
        {"type": "FeatureCollection", "crs": {"type": "name"}, "features": [feature(SQUARE)]},
        feature(SQUARE),
        SQUARE,
        [feature(SQUARE)],
        {"type": "MultiPolygon", "coordinates": [SQUARE["coordinates"]]},
        {"type": "GeometryCollection", "geometries": [SQUARE]},
        polygon(box(10, 20, 30, 40)[:-1]),
        feature(SQUARE, classification=None),
    ],
)
def test_every_wrapping_gives_the_same_region(tmp_path: Path, document: Any) -> None:
    rois = load_rois(saved(tmp_path, document))
    assert rois.keep == (Polygon(((10.0, 20.0), (40.0, 20.0), (40.0, 60.0), (10.0, 60.0))),)
    assert (rois.exclude, rois.warnings) == ((), ())


@pytest.mark.parametrize(
    ("classification", "excluded"),
    [
        ({"name": "Ignore*", "color": [1, 2, 3]}, True),
        ({"name": "ignore"}, True),
        ({"name": "ARTIFACT"}, True),
        ({"names": ["Artefact", "fold"]}, True),
        ("Exclude", True),
        ({"name": "Tumor"}, False),
        ({"names": ["Tumor", "Ignore"]}, False),
        ({"name": "Region*"}, False),
        ({}, False),
        (None, False),
    ],
)
def test_the_class_decides_the_side(tmp_path: Path, classification: Any, excluded: bool) -> None:
    rois = load_rois(saved(tmp_path, feature(SQUARE, classification=classification)))
    assert (len(rois.exclude), len(rois.keep)) == ((1, 0) if excluded else (0, 1))


def test_exclude_patterns_can_be_chosen(tmp_path: Path) -> None:
    path = saved(tmp_path, feature(SQUARE, classification={"name": "Necrosis, old"}))
    assert load_rois(path, ("necro*",)).exclude
    assert load_rois(path, ()).keep


def test_the_file_may_start_elsewhere_on_the_slide(tmp_path: Path) -> None:
    path = saved(tmp_path, SQUARE)
    moved = load_rois(path, origin=(100, 200)).keep[0].outer
    assert moved[0] == (110.0, 220.0)


def test_points_lines_and_measurements_are_ignored_with_a_warning(tmp_path: Path) -> None:
    point = {"type": "Point", "coordinates": [1, 2]}
    line = {"type": "LineString", "coordinates": [[1, 2], [3, 4]]}
    cell = feature(SQUARE, objectType="cell")
    document = [feature(point), feature(point), feature(line), cell, feature(None), feature(SQUARE)]
    rois = load_rois(saved(tmp_path, document))
    assert len(rois.keep) == 1
    (warning,) = rois.warnings
    for part in ("2 x Point", "1 x LineString", "1 x cell object", "1 x feature without geometry"):
        assert part in warning


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "no valid JSON"),
        (b"\xff\xfe\x00garbage", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b'{"a": 1}', "type"),
        (b"3", "type"),
        (b'{"type": "Circle"}', "'Circle'"),
        (b'{"type": "FeatureCollection"}', "features needs a list"),
        (b'{"type": "Polygon", "coordinates": 5}', "needs a list"),
        (b'{"type": "MultiPolygon", "coordinates": {}}', "needs a list"),
        (b'{"type": "Polygon", "coordinates": []}', "three corners"),
        (b'{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}', "three corners"),
        (b'{"type": "Polygon", "coordinates": [[[0, 0], [1], [2, 2]]]}', "pairs"),
        (b'{"type": "Polygon", "coordinates": [[0, 1, 2]]}', "pairs"),
        (b'{"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [2, 2]]]}', "pairs"),
        (b'{"type": "Polygon", "coordinates": [[[NaN, 0], [1, 1], [2, 2]]]}', "finite"),
        (b'{"type": "Polygon", "coordinates": [[[1e999, 0], [1, 1], [2, 2]]]}', "finite"),
    ],
)
def test_malformed_files_are_named_and_explained(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = tmp_path / "broken.geojson"
    path.write_bytes(content)
    with pytest.raises(TilerError) as caught:
        load_rois(path)
    message = str(caught.value)
    assert str(path) in message
    assert found in message
    assert "QuPath" in message


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection", "features": []},
        [],
        feature({"type": "Point", "coordinates": [1, 2]}),
    ],
)
def test_a_file_without_polygons_is_an_error_not_an_empty_slide(
    tmp_path: Path, document: Any
) -> None:
    with pytest.raises(TilerError, match="no polygon"):
        load_rois(saved(tmp_path, document))


def test_a_missing_file_is_a_tiler_error(tmp_path: Path) -> None:
    with pytest.raises(TilerError, match="cannot be read"):
        load_rois(tmp_path / "none.geojson")


def square(x: float, y: float, w: float, h: float) -> Polygon:
    return Polygon(tuple((px, py) for px, py in box(x, y, w, h)[:-1]))


def test_pixels_belong_by_their_centre() -> None:
    rois = Rois((square(1.4, 0.6, 2.2, 2.0),), ())
    expected = np.zeros((4, 6), dtype=np.bool_)
    expected[1:3, 1:4] = True
    np.testing.assert_array_equal(rois.rasterise((4, 6), 1.0, 1.0), expected)


def test_scales_differ_in_x_and_y() -> None:
    drawn = Rois((square(0, 0, 320, 80),), ()).rasterise((20, 30), 32.0, 8.0)
    assert drawn[:10, :10].all()
    assert drawn.sum() == 100


def test_holes_and_excluded_regions_take_area_away() -> None:
    ring = Polygon(square(0, 0, 40, 40).outer, (square(10, 10, 10, 10).outer,))
    island = square(12, 12, 4, 4)
    assert Rois((ring,), ()).rasterise((50, 50), 1, 1).sum() == 1600 - 100
    assert Rois((ring, island), ()).rasterise((50, 50), 1, 1).sum() == 1600 - 100 + 16
    assert Rois((ring,), (square(0, 0, 40, 5),)).rasterise((50, 50), 1, 1).sum() == 1500 - 200


def test_only_excluded_regions_leave_all_the_rest() -> None:
    allowed = Rois((), (square(0, 0, 5, 5),)).rasterise((10, 10), 1, 1)
    assert allowed.sum() == 75
    assert not allowed[:5, :5].any()


def test_touching_regions_share_no_pixel_and_leave_none_out() -> None:
    left, right = square(0, 0, 10.5, 20), square(10.5, 0, 9.5, 20)
    drawn = [Rois((part,), ()).rasterise((20, 20), 1, 1) for part in (left, right)]
    assert (drawn[0] ^ drawn[1]).all()


def test_regions_off_the_picture_draw_nothing_or_their_part() -> None:
    outside = (square(-50, -50, 20, 20), square(100, 2, 5, 5))
    assert not Rois(outside, ()).rasterise((10, 10), 1, 1).any()
    assert Rois((square(-5, -5, 8, 8),), ()).rasterise((10, 10), 1, 1).sum() == 9
    assert Rois((square(-5, -5, 80, 80),), ()).rasterise((10, 10), 1, 1).all()


def test_a_circle_has_the_area_of_a_circle() -> None:
    angle = np.linspace(0, 2 * np.pi, 720, endpoint=False)
    points = zip(1000 + 800 * np.cos(angle), 900 + 800 * np.sin(angle), strict=True)
    circle = Polygon(tuple((float(x), float(y)) for x, y in points))
    drawn = Rois((circle,), ()).rasterise((300, 300), 7.0, 7.0)
    assert drawn.sum() * 49 == pytest.approx(np.pi * 800**2, rel=0.003)
    rows, columns = np.nonzero(drawn)
    assert (columns.mean() + 0.5) * 7 == pytest.approx(1000, abs=1)
    assert (rows.mean() + 0.5) * 7 == pytest.approx(900, abs=1)


@given(
    st.lists(
        st.tuples(st.floats(-5, 25, width=32), st.floats(-5, 25, width=32)), min_size=3, max_size=9
    )
)
def test_drawing_is_the_even_odd_rule_at_pixel_centres(corners: list[tuple[float, float]]) -> None:
    drawn = Rois((Polygon(tuple(corners)),), ()).rasterise((18, 20), 1, 1)
    for row in range(18):
        for column in range(20):
            assert _inside(corners, column + 0.5, row + 0.5) in (drawn[row, column], None)


def _inside(corners: list[tuple[float, float]], x: float, y: float) -> bool | None:
    """Even-odd rule; None where an edge runs through the point, as near as rounding can tell."""
    inside = False
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y0 <= y) != (y1 <= y):
            crossing = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
            if abs(crossing - x) < 1e-6:
                return None
            inside ^= crossing < x
    return inside


def test_the_digest_is_of_the_geometry_alone(tmp_path: Path) -> None:
    a, b = polygon(box(0, 0, 5, 5)), polygon(box(9, 9, 5, 5), box(10, 10, 1, 1))
    one = load_rois(saved(tmp_path, [feature(a, name="x"), feature(b)]))
    same = load_rois(saved(tmp_path, [feature(b, classification={"name": "Tumor"}), a]))
    assert one.digest == same.digest
    assert len(one.digest) == 64
    others = [[a], [a, polygon(box(9, 9, 5, 5))], [feature(a, classification="Ignore"), b]]
    digests = {load_rois(saved(tmp_path, other)).digest for other in others}
    assert len(digests | {one.digest}) == 4


def test_the_digest_stays_the_same_between_releases() -> None:
    with_hole = Polygon(square(0, 0, 9, 9).outer, (square(1, 1, 2, 2).outer,))
    found = Rois((square(0, 0, 1, 1), with_hole), (square(5, 5, 1, 1),)).digest
    assert found == "d48faa469182063ec892bb5109ba8747b4983dcc404558f510312a05d08ca53d"


def test_whole_numbers_and_fractions_of_one_make_one_digest() -> None:
    assert Rois((square(0, 0, 1, 1),), ()).digest == Rois((square(0.0, 0.0, 1.0, 1.0),), ()).digest


@pytest.mark.parametrize(("shape", "scale"), [((0, 5), 1.0), ((5, 5), 0.0), ((5, 5), -1.0)])
def test_impossible_pictures_are_refused(shape: tuple[int, int], scale: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        Rois((square(0, 0, 1, 1),), ()).rasterise(shape, scale, scale)


def test_a_hundred_thousand_corners_are_drawn_in_a_moment() -> None:
    angle = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    radius = 40_000 * (1 + 0.1 * np.sin(200 * angle))
    points = zip(50_000 + radius * np.cos(angle), 50_000 + radius * np.sin(angle), strict=True)
    rois = Rois((Polygon(tuple((float(x), float(y)) for x, y in points)),), ())
    assert 0.4 < rois.rasterise((3000, 3000), 100_000 / 3000, 100_000 / 3000).mean() < 0.6
