"""Does an encoder know the tissue or the scanner? The robustness index of tiles of a manifest.

N tiles have features (N, F) and a unit each (a patient, a slide); neighbours come from other units,
by cosine. The index counts those of the same biology and another confounder against the reverse
(`pretrain.scoring.robustness`); the vote of neighbours tells how well any field can be read from
the features. The colour histogram is measured along: what it knows is stain, not tissue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manifests import Manifest, load_manifest
from manifests.files import Json
from pretrain.device import pick_device
from pretrain.embedding.encoders import Encoder, check_mpp, named_apart, open_encoder
from pretrain.embedding.stream import all_features, stream_tiles
from pretrain.errors import ConfigError
from pretrain.labelling.rows import Flags, Integers, Rows
from pretrain.results.result import HISTOGRAM
from pretrain.robust.found import EncoderRobustness, Prediction, Robustness
from pretrain.robust.settings import RobustSettings
from pretrain.robust.tiles import KnownTiles, check_crossing, know_tiles, pairs_of
from pretrain.scoring.histogram import BINS, colour_histogram
from pretrain.scoring.intervals import Interval, intervals
from pretrain.scoring.metrics import confusion_by_unit, mean_over_classes, recall_by_class
from pretrain.scoring.neighbours import nearest
from pretrain.scoring.robustness import (
    Kinds,
    best_k,
    candidates_within,
    chance_index,
    common_k,
    count_kinds,
    possible_kinds,
    scorable,
    vote,
)

Floats = npt.NDArray[np.float64]
Features = npt.NDArray[np.float32]
Tell = Callable[[str], None]


def measure_robustness(
    encoders: Sequence[str],
    manifest: Path,
    settings: RobustSettings,
    tell: Tell = lambda _: None,
) -> Robustness:
    """The robustness index of each encoder and of the colour histogram, with intervals.

    Args:
        encoders: as `open_encoder` takes them.
        tell: takes a line for people now and then.

    Raises:
        ConfigError: a field is unknown, has one value only, is not known of some tiles, or does not
            cross the other; all tiles are of one unit; an encoder does not fit the tiles.
        CheckpointError: an encoder's file is damaged.
        StoreError: a store is missing or damaged.
    """
    opened = [open_encoder(text, size=settings.image_size, seed=settings.seed) for text in encoders]
    named_apart(opened)
    device = pick_device(settings.device)
    loaded = load_manifest(manifest)
    known = know_tiles(loaded, settings)
    for encoder in opened:
        mpps = [part.mpp for part in known.rows.parts]
        check_mpp(encoder, mpps, any_mpp=settings.any_mpp)
    scorer = _Scorer.of(known, settings)
    tell(f"{HISTOGRAM}: {len(known.rows):,} tiles")
    histogram, damaged = _histograms(loaded, known.rows, settings)
    if damaged:
        good = np.ones(len(known.rows), np.bool_)
        good[list(damaged)] = False
        known = replace(known.kept(good), left_out={**known.left_out, "damaged": len(damaged)})
        histogram, scorer = histogram[good], _Scorer.of(known, settings)
    found = [scorer.neighbours(histogram)]
    for encoder in opened:
        tell(f"{encoder.name}: {len(known.rows):,} tiles on {device}")
        found.append(scorer.neighbours(_features(loaded, known.rows, encoder, device, settings)))
    return _result(opened, [*found[1:], found[0]], known, scorer, settings)


def _histograms(
    manifest: Manifest, rows: Rows, settings: RobustSettings
) -> tuple[Features, tuple[int, ...]]:
    """Colour histograms of the tiles, float32 (N, F), and the rows that are damaged."""
    found = np.zeros((len(rows), 3 * BINS), dtype=np.float32)
    damaged: list[int] = []
    for batch in stream_tiles(
        manifest, rows.parts, batch_size=settings.batch_size, threads=settings.threads
    ):
        found[batch.first : batch.first + len(batch.tiles)] = colour_histogram(batch.tiles)
        damaged += batch.damaged
    return found, tuple(damaged)


def _features(
    manifest: Manifest, rows: Rows, encoder: Encoder, device: str, settings: RobustSettings
) -> Features:
    features, _ = all_features(
        manifest,
        rows.parts,
        encoder,
        device=device,
        batch_size=settings.batch_size,
        threads=settings.threads,
    )
    if not np.isfinite(features).all():
        raise ConfigError(
            f"{encoder.name} gives features that are no numbers, so its weights are damaged or its "
            "training failed; give another encoder"
        )
    return features


@dataclass(frozen=True, slots=True)
class _Scorer:
    """What is the same for all encoders."""

    known: KnownTiles
    settings: RobustSettings
    possible: Kinds
    candidates: tuple[int, ...]

    @classmethod
    def of(cls, known: KnownTiles, settings: RobustSettings) -> _Scorer:
        """Check that an index can be told, and prepare for it."""
        possible = possible_kinds(
            known.values[settings.biology].codes,
            known.values[settings.confounder].codes,
            known.units,
        )
        check_crossing(known, settings, possible)
        most = int(possible.all[possible.crossing].min())
        if settings.k is not None and settings.k > most:
            raise ConfigError(
                f"--k {settings.k} is more than the {most:,} tiles of other units that a tile has "
                f"here; give at most {most}"
            )
        return cls(known, settings, possible, candidates_within(possible))

    @property
    def queries(self) -> Flags:
        """Tiles (N,) that could have neighbours of both kinds."""
        return self.possible.crossing

    def neighbours(self, features: Features) -> Integers:
        """Numbers of the nearest tiles of other units, (N, K)."""
        k = self.candidates[-1] if self.settings.k is None else self.settings.k
        k = min(k, int(self.possible.all.max()))
        units = self.known.units
        return nearest(features, features, k, query_units=units, bank_units=units)[0]

    def best_k(self, numbers: Integers) -> int | None:
        """How many neighbours predict the biology best."""
        labels, _, scored = self._labels(self.settings.biology)
        ks = [k for k in self.candidates if k <= numbers.shape[1]]
        return best_k(numbers, labels, scored, ks)

    def index(self, numbers: Integers, k: int) -> tuple[Interval, Kinds]:
        """The robustness index with its interval, and the counts of the queries."""
        biology, confounder = (
            self.known.values[name].codes
            for name in (self.settings.biology, self.settings.confounder)
        )
        kinds = count_kinds(numbers, biology, confounder, k)
        units = self.known.units[self.queries]
        names, of_row = np.unique(units, return_inverse=True)
        so, os = (
            np.bincount(of_row, counts[self.queries], len(names)) for counts in (kinds.so, kinds.os)
        )

        def statistics(counts: Floats) -> dict[str, Floats]:
            above, below = counts @ so, counts @ (so + os)
            ratio = np.full(len(counts), np.nan)
            return {"": np.divide(above, below, out=ratio, where=below > 0)}

        return self._intervals(statistics, len(names)), kinds

    def predict(self, name: str, numbers: Integers, k: int) -> Prediction:
        """How well neighbours predict a field."""
        labels, names, scored = self._labels(name)
        said = vote(numbers, labels, len(names), (k,))[0]
        asked = (labels >= 0) & scored[labels]
        # A tile without a vote is put down as a class that there is not, so as a wrong one.
        said = np.where(said < 0, len(names), said)
        units, of_row = np.unique(self.known.units[asked], return_inverse=True)
        matrices = confusion_by_unit(labels[asked], said[asked], len(names) + 1, of_row, len(units))

        def statistics(counts: Floats) -> dict[str, Floats]:
            summed = np.tensordot(counts, matrices, axes=1)
            return {"": mean_over_classes(recall_by_class(summed))}

        found = Interval(np.nan, np.nan, np.nan)
        if asked.any():
            found = self._intervals(statistics, len(units))
        classes = tuple(name for name, good in zip(names, scored, strict=True) if good)
        return Prediction(found, classes, int(asked.sum()))

    def _labels(self, name: str) -> tuple[Integers, tuple[str, ...], Flags]:
        """Values of a field (N,), their names, and which of them can be scored."""
        values = self.known.values[name]
        scored = scorable(values.codes, self.known.units, len(values.names))
        return values.codes, values.names, scored

    def _intervals(
        self, statistics: Callable[[Floats], Mapping[str, Floats]], units: int
    ) -> Interval:
        given = {"resamples": self.settings.resamples, "seed": self.settings.seed}
        return intervals(statistics, units, **given)[""]


def _result(
    encoders: Sequence[Encoder],
    numbers: Sequence[Integers],
    known: KnownTiles,
    scorer: _Scorer,
    settings: RobustSettings,
) -> Robustness:
    """Put everything together, with one number of neighbours for all."""
    best = [scorer.best_k(near) for near in numbers]
    # The histogram, the last, has no say in it.
    chosen = [k for k in best[: len(encoders)] if k is not None]
    k = settings.k or common_k(chosen or [1])
    facts: list[Mapping[str, Json]] = [encoder.to_json() for encoder in encoders]
    facts.append({"name": HISTOGRAM, "features": 3 * BINS})
    found = []
    for own, near, own_k in zip(facts, numbers, best, strict=True):
        index, kinds = scorer.index(near, k)
        found.append(
            EncoderRobustness(
                name=own["name"],
                kind="baseline" if near is numbers[-1] else "encoder",
                facts=own,
                index=index,
                so=int(kinds.so[scorer.queries].sum()),
                os=int(kinds.os[scorer.queries].sum()),
                best_k=own_k,
                predictions={name: scorer.predict(name, near, k) for name in settings.predicted},
            )
        )
    chance = chance_index(scorer.possible, scorer.queries)
    assert chance is not None  # there are queries, and each could have both kinds
    return Robustness(
        biology=settings.biology,
        confounder=settings.confounder,
        by=known.by,
        k=k,
        k_given=settings.k is not None,
        tiles=len(known.rows),
        queries=int(scorer.queries.sum()),
        units=len(np.unique(known.units)),
        left_out=known.left_out,
        chance=chance,
        pairs=pairs_of(known, settings),
        resamples=settings.resamples,
        seed=settings.seed,
        encoders=tuple(found),
    )
