"""The page of an evaluation: scores, curves, confusions, maps and neighbours in one HTML file.

It needs no network and no other file. Without JavaScript all of it is there but the tiles that
maps show under the pointer. The same evaluation and extras give the same bytes, and nothing on the
page says where on a disk anything lies.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests.codec import Rgb
from manifests.files import Json, write_atomic
from manifests.listing import one_line
from pretrain.page import figures, gallery, wording
from pretrain.page.figures import METHOD_NAMES, Key
from pretrain.page.gains import gain_table
from pretrain.page.map import Layout, lay_out
from pretrain.page.pictures import sheet
from pretrain.results.result import METRICS, Evaluation
from pretrain.results.settings import CLASSIFICATION, REGRESSION, SEGMENTATION

Numbers = npt.NDArray[np.number]

_MAP_SIDE = 400
_MAP_EDGE = 12
_MAIN_METHOD = "linear"
"""Whose predictions are shown, if there are any."""


@dataclass(frozen=True, slots=True)
class Extras:
    """What only the page needs: n test tiles, and what each encoder makes of them.

    Choose them by `map.choose_points`, or a few for segmentation; make them small by
    `pictures.shrunk`. Damaged tiles are not among them.
    """

    thumbnails: Rgb
    """uint8 (n, h, w, 3)."""
    names: tuple[str, ...]
    """`slide/group/index`, (n,)."""
    targets: Numbers
    """Class numbers (n,), values (n,), or masks of class numbers (n, h, w), below 0: ignored."""
    units: npt.NDArray[np.int64]
    """(n,)."""
    features: tuple[npt.NDArray[np.floating], ...] = ()
    """(n, F) for each encoder of the evaluation, in its order; () for segmentation."""
    predictions: tuple[Mapping[str, Numbers], ...] = ()
    """Method → shaped as `targets`, for each encoder of the evaluation, in its order."""

    def __post_init__(self) -> None:
        count = len(self.thumbnails)
        rows = [self.names, self.targets, self.units, *self.features]
        rows += [values for found in self.predictions for values in found.values()]
        wrong = [len(values) for values in rows if len(values) != count]
        if wrong:
            raise ValueError(f"{count} thumbnails, but {wrong[0]} names, targets or features")
        if not all(np.isfinite(values).all() for values in self.features):
            raise ValueError("features are not finite: leave damaged tiles out")

    def __len__(self) -> int:
        return len(self.thumbnails)


@dataclass(frozen=True, slots=True)
class Map:
    """The map of an encoder."""

    name: str
    method: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """One method: a row for each encoder, a cell for each metric."""

    title: str
    metrics: tuple[str, ...]
    rows: tuple[tuple[str, bool, tuple[figures.Bar | None, ...]], ...]
    """Encoder, whether it is a baseline, and its scores."""


def write_report(path: Path, evaluation: Evaluation, extras: Extras) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: the file cannot be written; an older one is then untouched.
    """
    write_atomic(path, page_html(evaluation, extras).encode())


def page_html(evaluation: Evaluation, extras: Extras) -> str:
    """The page; everything that an evaluation or a manifest says is escaped in it."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script, style = _own_text("report.js"), _own_text("report.css")
    names = wording.encoder_names(evaluation)
    main = METRICS[evaluation.task][0]
    if extras.features:
        extras = _mixed(extras, evaluation.seed)
    keys, groups = _keys(evaluation, extras)
    maps = _maps(evaluation, extras, names)
    drawn = sheet(extras.thumbnails) if maps else None
    # Both are files of this package, and the data are JSON without a "<": safe as they are.
    return environment.from_string(_own_text("report.html.j2")).render(
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(_data(evaluation, extras, groups)),  # noqa: S704
        evaluation=evaluation,
        headline=wording.headline(evaluation),
        facts=wording.facts(evaluation),
        warnings=wording.warnings(evaluation),
        tables=_score_tables(evaluation, names),
        gains=gain_table(evaluation, names),
        curves=figures.curves(evaluation.encoders, names, main),
        curve_metric=figures.metric_title(main),
        confusions=_confusions(evaluation, names),
        scatters=_scatters(evaluation, extras, names),
        keys=keys,
        groups=groups,
        maps=maps,
        sheet=drawn,
        queries=gallery.neighbour_rows(extras.thumbnails, _tiles(evaluation, extras), names),
        agreement=gallery.agreement(_tiles(evaluation, extras), len(evaluation.classes)),
        masks=_masks(evaluation, extras, names),
        mask_keys=gallery.mask_keys(evaluation.classes),
        settings=wording.settings(evaluation),
        provenance=wording.provenance(evaluation, names),
        names=names,
        units=wording.units(evaluation),
        width=figures.WIDTH,
        height=figures.HEIGHT,
        frame=(figures.LEFT, figures.TOP, figures.RIGHT, figures.BOTTOM),
        map_side=_MAP_SIDE,
        neighbours=gallery.NEIGHBOURS,
        evaluation_tiles=f"{len(extras):,}",
    )


def _mixed(extras: Extras, seed: int) -> Extras:
    """The tiles in an order by chance, so that no class is drawn over the others."""
    order = np.random.default_rng(seed).permutation(len(extras))
    return Extras(
        extras.thumbnails[order],
        tuple(extras.names[row] for row in order.tolist()),
        extras.targets[order],
        extras.units[order],
        tuple(features[order] for features in extras.features),
        tuple({m: values[order] for m, values in found.items()} for found in extras.predictions),
    )


def _own_text(name: str) -> str:
    return files("pretrain.page").joinpath(name).read_text(encoding="utf-8")


def _score_tables(evaluation: Evaluation, names: tuple[str, ...]) -> list[ScoreTable]:
    methods = dict.fromkeys(m for encoder in evaluation.encoders for m in encoder.scores)
    tables = []
    for method in methods:
        found = [encoder.scores.get(method, {}) for encoder in evaluation.encoders]
        metrics = tuple(dict.fromkeys(m for scores in found for m in scores))
        axes = {m: figures.axis_of(m, (s[m] for s in found if m in s)) for m in metrics}
        rows = tuple(
            (
                name,
                encoder.kind == "baseline",
                tuple(figures.bar(s[m], axes[m]) if m in s else None for m in metrics),
            )
            for name, encoder, s in zip(names, evaluation.encoders, found, strict=True)
            if s
        )
        titles = tuple(figures.metric_title(metric) for metric in metrics)
        tables.append(ScoreTable(METHOD_NAMES.get(method, method), titles, rows))
    return tables


def _confusions(
    evaluation: Evaluation, names: tuple[str, ...]
) -> list[tuple[str, list[tuple[str, tuple[tuple[figures.Cell, ...], ...]]]]]:
    """Encoder → its matrices, the main method's first."""
    return [
        (
            name,
            [
                (METHOD_NAMES.get(method, method), figures.cells(encoder.confusion[method]))
                for method in sorted(encoder.confusion, key=lambda m: m != _MAIN_METHOD)
            ],
        )
        for name, encoder in zip(names, evaluation.encoders, strict=True)
        if encoder.confusion
    ]


def _scatters(
    evaluation: Evaluation, extras: Extras, names: tuple[str, ...]
) -> list[tuple[str, str, figures.Scatter]]:
    if evaluation.task != REGRESSION or not len(extras):
        return []
    return [
        (name, METHOD_NAMES.get(method, method), figures.scatter(extras.targets, found[method]))
        for name, found in zip(names, extras.predictions, strict=False)
        for method in _main_method(found)
    ]


def _main_method(found: Mapping[str, Numbers]) -> list[str]:
    """The method whose predictions are shown; [] where there are none."""
    return [_MAIN_METHOD] if _MAIN_METHOD in found else [*found][:1]


def _keys(evaluation: Evaluation, extras: Extras) -> tuple[list[Key], list[int]]:
    """The legend of the maps, and the place in it of each tile."""
    if evaluation.task == CLASSIFICATION:
        counts = np.bincount(extras.targets, minlength=len(evaluation.classes))
        named = zip(evaluation.classes, counts.tolist(), strict=True)
        keys = [figures.class_key(i, one_line(name), n) for i, (name, n) in enumerate(named)]
        return keys, extras.targets.tolist()
    if evaluation.task == REGRESSION:
        places, ranges = figures.fifths(extras.targets)
        counts = np.bincount(places, minlength=len(ranges))
        named = zip(ranges, counts.tolist(), strict=True)
        return [Key(name, f"v{i}", 0, n) for i, (name, n) in enumerate(named)], places.tolist()
    return [], []


def _maps(evaluation: Evaluation, extras: Extras, names: tuple[str, ...]) -> list[Map]:
    maps = []
    for name, features in zip(names, extras.features, strict=False):
        if not len(extras):
            break
        layout: Layout = lay_out(features, evaluation.seed)
        spots = _MAP_EDGE + layout.points * (_MAP_SIDE - 2 * _MAP_EDGE)
        maps.append(Map(name, layout.method, tuple(map(tuple, np.round(spots, 1).tolist()))))
    return maps


def _tiles(evaluation: Evaluation, extras: Extras) -> gallery.Tiles:
    classes = evaluation.classes if evaluation.task == CLASSIFICATION else ()
    return gallery.Tiles(
        tuple(map(one_line, extras.names)),
        extras.targets,
        extras.units,
        extras.features,
        tuple(map(one_line, classes)),
    )


def _masks(evaluation: Evaluation, extras: Extras, names: tuple[str, ...]) -> list[gallery.Masked]:
    if evaluation.task != SEGMENTATION:
        return []
    found = [
        (name, predicted[method])
        for name, predicted in zip(names, extras.predictions, strict=False)
        for method in _main_method(predicted)
    ]
    return gallery.masked(extras.thumbnails, extras.names, extras.targets, found)


def _data(evaluation: Evaluation, extras: Extras, groups: list[int]) -> str:
    """What the script tells of a tile, as JSON that may stand inside of HTML."""
    if not extras.features:
        return "{}"
    classes = [one_line(name) for name in evaluation.classes]

    def told(values: Numbers) -> list[Json]:
        return [int(v) if classes else round(float(v), 4) for v in values]

    data = {
        "label": one_line(evaluation.label or ""),
        "classes": classes,
        "names": [one_line(name) for name in extras.names],
        "targets": told(extras.targets),
        "groups": groups,
        "predictions": [
            {"by": METHOD_NAMES.get(m, m), "is": told(found[m])}
            for found in extras.predictions
            for m in _main_method(found)
        ]
        if all(extras.predictions)
        else [],
    }
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
