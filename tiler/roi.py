"""Regions a person has drawn: QuPath's GeoJSON in, a mask of where tiles may be out.

Coordinates in the file are level-0 pixels with the origin at the slide's top-left corner, x to
the right and y down, which is what QuPath exports; a `crs` entry is ignored. A polygon whose class
matches an exclude pattern ("Ignore*", ...) takes area away, any other gives area.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tiler.errors import TilerError

Ring = tuple[tuple[float, float], ...]
"""Corners (l0_x, l0_y); the last is joined to the first and does not repeat it."""

EXCLUDE_CLASSES = ("Ignore*", "Exclude*", "Artifact*", "Artefact*", "Pen", "Pen *")
"""Class names, in QuPath's habits, of regions in which no tile is wanted."""

REGION_OBJECTS = ("annotation", "tma_core")
"""QuPath object types that are regions; detections, cells and tiles are measurements."""


@dataclass(frozen=True, slots=True)
class Polygon:
    """One polygon in level-0 pixels."""

    outer: Ring
    """At least three corners."""
    holes: tuple[Ring, ...] = ()
    """Rings cut out of it."""

    def __post_init__(self) -> None:
        if min(len(ring) for ring in (self.outer, *self.holes)) < 3:
            raise ValueError("a ring needs at least three corners")


@dataclass(frozen=True, slots=True)
class Rois:
    """Regions of one slide."""

    keep: tuple[Polygon, ...]
    """Tiles may only be in these; empty: anywhere."""
    exclude: tuple[Polygon, ...]
    """Tiles may not be in these, not even inside `keep`."""
    warnings: tuple[str, ...] = ()
    """What of the file was not used, one sentence each."""

    @property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the geometry; names and the order of polygons do not count."""
        shapes = [
            sorted(
                [_floats(polygon.outer), *sorted(map(_floats, polygon.holes))] for polygon in side
            )
            for side in (self.keep, self.exclude)
        ]
        text = json.dumps(shapes, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    def rasterise(
        self, shape: tuple[int, int], l0_per_px_x: float, l0_per_px_y: float
    ) -> npt.NDArray[np.bool_]:
        """Draw the regions on a picture of the slide.

        A pixel belongs to a region if its centre does: pixel (column, row) has its centre at
        level-0 ((column + 0.5) * l0_per_px_x, (row + 0.5) * l0_per_px_y).

        Args:
            shape: (height, width) of the picture, which shows the slide from its origin on.
            l0_per_px_x: level-0 pixels per picture pixel in x.
            l0_per_px_y: the same in y.

        Returns:
            bool (height, width): True where tiles may be.
        """
        if not (l0_per_px_x > 0 and l0_per_px_y > 0 and min(shape) > 0):
            raise ValueError(
                f"positive sizes and scales needed, got {shape}, {l0_per_px_x}, {l0_per_px_y}"
            )
        scale = np.array([l0_per_px_x, l0_per_px_y])
        allowed = np.full(shape, not self.keep)
        for polygon in self.keep:
            _draw(allowed, polygon, scale, True)
        for polygon in self.exclude:
            _draw(allowed, polygon, scale, False)
        return allowed


def load_rois(
    path: Path | str,
    exclude_classes: Sequence[str] = EXCLUDE_CLASSES,
    *,
    origin: tuple[float, float] = (0.0, 0.0),
) -> Rois:
    """Read the regions of one slide from a GeoJSON file.

    Understood are a FeatureCollection, a Feature, a geometry, and a list of these; of geometries,
    Polygon and MultiPolygon with holes, also within a GeometryCollection.

    Args:
        path: the file.
        exclude_classes: patterns (`*`, `?`) of class names whose polygons take area away;
            upper and lower case are the same.
        origin: (l0_x, l0_y) of the file's origin. Not (0, 0) only for slides with bounds (MRXS,
            some SVS) whose empty margin QuPath had cut off.

    Raises:
        TilerError: the file cannot be read, is not GeoJSON, or has no polygon.
    """
    path = Path(path)
    patterns = [pattern.casefold() for pattern in exclude_classes]
    keep: list[Polygon] = []
    exclude: list[Polygon] = []
    ignored: dict[str, int] = {}
    try:
        for feature in _features(_parsed(path)):
            reason = _not_a_region(feature)
            for kind, coordinates in () if reason else _geometries(feature.get("geometry")):
                if kind in ("Polygon", "MultiPolygon"):
                    name = _class_name(feature).casefold()
                    side = exclude if any(fnmatchcase(name, p) for p in patterns) else keep
                    parts = [coordinates] if kind == "Polygon" else _list(coordinates, kind)
                    side.extend(_polygon(part, origin) for part in parts)
                else:
                    ignored[kind] = ignored.get(kind, 0) + 1
            if reason:
                ignored[reason] = ignored.get(reason, 0) + 1
    except _Malformed as error:
        raise TilerError(
            f"{path} is not a GeoJSON file of regions: {error}; export it again from QuPath "
            "(File > Export objects as GeoJSON)."
        ) from error
    if not keep and not exclude:
        raise TilerError(
            f"{path} has no polygon ({_counted(ignored) or 'it is empty'}); draw the regions as "
            "closed areas, or leave the file away to use the whole slide."
        )
    warnings = (f"{path.name}: ignored {_counted(ignored)}.",) if ignored else ()
    return Rois(tuple(keep), tuple(exclude), warnings)


def _floats(ring: Ring) -> list[list[float]]:
    return [[float(x), float(y)] for x, y in ring]


class _Malformed(Exception):
    """Half a sentence about what is wrong in the file."""


def _parsed(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise TilerError(
            f"{path} cannot be read ({error.strerror}); give the path of a GeoJSON file."
        ) from error
    except (ValueError, RecursionError) as error:
        raise _Malformed(f"it is no valid JSON ({error})") from error


def _features(document: Any) -> Iterator[dict[str, Any]]:
    """Yield features; a bare geometry becomes a feature without properties."""
    if isinstance(document, list):
        for item in document:
            yield from _features(item)
        return
    kind = _kind(document)
    if kind == "FeatureCollection":
        yield from _features(_list(document.get("features"), "features"))
    elif kind == "Feature":
        yield document
    else:
        yield {"type": "Feature", "geometry": document}


def _geometries(geometry: Any) -> Iterator[tuple[str, Any]]:
    """Yield (type, coordinates) of a geometry and of what a collection holds."""
    if geometry is None:
        yield "feature without geometry", None
        return
    kind = _kind(geometry)
    if kind == "GeometryCollection":
        for part in _list(geometry.get("geometries"), kind):
            yield from _geometries(part)
    elif kind in ("Polygon", "MultiPolygon", "Point", "MultiPoint", "LineString"):
        yield kind, geometry.get("coordinates")
    elif kind == "MultiLineString":
        yield kind, None
    else:
        raise _Malformed(f"it has an object of type {kind!r}")


def _not_a_region(feature: dict[str, Any]) -> str | None:
    kind = _properties(feature).get("objectType", REGION_OBJECTS[0])
    return None if kind in REGION_OBJECTS else f"{kind} object"


def _properties(feature: dict[str, Any]) -> dict[str, Any]:
    properties = feature.get("properties")
    return properties if isinstance(properties, dict) else {}


def _class_name(feature: dict[str, Any]) -> str:
    """Class of a feature: QuPath writes `name`, or `names` for a class with parts."""
    classification = _properties(feature).get("classification")
    if isinstance(classification, str):
        return classification
    if not isinstance(classification, dict):
        return ""
    names = classification.get("names", [])
    joined = ": ".join(str(name) for name in names) if isinstance(names, list) else ""
    return str(classification.get("name") or joined)


def _polygon(rings: Any, origin: tuple[float, float]) -> Polygon:
    outer, *holes = [_ring(ring, origin) for ring in _list(rings, "Polygon")] or [()]
    try:
        return Polygon(outer, tuple(holes))
    except ValueError as error:
        raise _Malformed(str(error)) from error


def _ring(corners: Any, origin: tuple[float, float]) -> Ring:
    try:
        points = np.array([corner[:2] for corner in _list(corners, "ring")], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _Malformed("a ring holds something else than pairs of numbers") from error
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise _Malformed("a ring holds something else than pairs of finite numbers")
    points += origin
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    return tuple((float(x), float(y)) for x, y in points)


def _kind(item: Any) -> str:
    if not isinstance(item, dict) or not isinstance(item.get("type"), str):
        raise _Malformed(f"an object with a type is needed where it has {str(item)[:40]!r}")
    kind: str = item["type"]
    return kind


def _list(item: Any, what: str) -> list[Any]:
    if not isinstance(item, list):
        raise _Malformed(f"{what} needs a list, and has {str(item)[:40]!r}")
    return item


def _counted(ignored: dict[str, int]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in sorted(ignored.items()))


def _draw(
    canvas: npt.NDArray[np.bool_],
    polygon: Polygon,
    scale: npt.NDArray[np.float64],
    value: bool,
) -> None:
    """Set the pixels whose centres lie in the polygon, working within its bounding box only."""
    outer = np.array(polygon.outer) / scale
    limits = np.array(canvas.shape[::-1])
    low = np.clip(np.floor(outer.min(axis=0)), 0, limits).astype(np.int64)
    high = np.clip(np.ceil(outer.max(axis=0)), 0, limits).astype(np.int64)
    width, height = high - low
    if min(width, height) <= 0:
        return
    rings = [outer, *(np.array(hole) / scale for hole in polygon.holes)]
    crossings = sum(_crossings(ring - low, height, width) for ring in rings)
    inside = np.cumsum(crossings, axis=1)[:, :width] % 2 == 1
    canvas[low[1] : high[1], low[0] : high[0]][inside] = value


def _crossings(ring: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.int64]:
    """Count, per row, the edges crossed on the way to each pixel centre from the one before.

    The running sum along a row is odd inside (even-odd rule). Rows and columns are half-open, so
    that polygons that touch share no pixel and leave none out.
    """
    x0, y0 = ring.T
    x1, y1 = np.roll(ring, -1, axis=0).T
    first = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    behind = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    lengths = behind - first
    edge = np.repeat(np.arange(len(ring)), lengths)
    starts = np.cumsum(lengths) - lengths
    row = first[edge] + np.arange(len(edge)) - starts[edge]
    share = (row + 0.5 - y0[edge]) / (y1[edge] - y0[edge])
    x = x0[edge] + share * (x1[edge] - x0[edge])
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)
    flat = np.bincount(row * (width + 1) + column, minlength=height * (width + 1))
    return flat.reshape(height, width + 1)
