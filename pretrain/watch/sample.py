"""What a run would draw, without training: shares counted over many draws, and pictures of them.

Draws are those that a run of the same settings makes, batch by batch, caps and all. Nothing here
needs torch but the picture of views.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manifests import Manifest, StoreError, load_manifest
from manifests.codec import Rgb
from manifests.files import Json
from manifests.listing import Column, Listing, many
from manifests.store import open_store
from pretrain.config import BATCH_SIZE, IMAGE_SIZE_PX, TrainConfig
from pretrain.errors import ConfigError
from pretrain.loading.loader import resized
from pretrain.mixing.mix import Mix, pick_split, resolve_mix
from pretrain.mixing.sampler import Draw, make_sampler
from pretrain.watch.montage import Row

_TILES_PER_ROW = 8
_MOST_ROWS = 60
"""More strata make a picture that nobody looks through."""
_PAIRS = 12


@dataclass(frozen=True, slots=True)
class StratumSample:
    """What was drawn of a stratum, beside what there is."""

    name: str
    fields: dict[str, str]
    expected: float
    """Its share of all draws, as stated."""
    drawn: float
    """Its share of the draws that were made."""
    tiles: int
    slides: int
    patients: int
    tiles_drawn: int
    """Different tiles."""
    slides_drawn: int
    """Different slides."""
    repeats: int
    """Draws of a tile that had been drawn before."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The draws of a run's beginning."""

    config: TrainConfig
    manifest: Manifest
    mix: Mix
    batch_size: int
    draws: tuple[Draw, ...]
    strata: tuple[StratumSample, ...]

    def to_json(self) -> Json:
        """Settings, counts and shares."""
        return {
            "split": self.mix.split,
            "seed": self.config.seed,
            "batch_size": self.batch_size,
            "draws": len(self.draws),
            "tiles": self.mix.tiles,
            "tile_size": self.mix.tile_size,
            "strata": [dataclasses.asdict(stratum) for stratum in self.strata],
        }


def take_sample(config: TrainConfig, manifest: str | Path, draws: int) -> Sample:
    """Draw as a run with these settings would.

    Args:
        draws: how many tiles to draw, without reading them.

    Raises:
        ConfigError: a setting does not fit the manifest.
        ManifestError, StoreError: the tiles cannot be had.
    """
    loaded = load_manifest(manifest)
    config = dataclasses.replace(config, split=pick_split(config, loaded))
    mix = resolve_mix(loaded, config)
    batch_size = config.batch_size or min(BATCH_SIZE["cpu"], mix.tiles)
    sampler = make_sampler(mix, config, batch_size)
    batches = (sampler.batch(step) for step in itertools.count())
    found = tuple(itertools.islice(itertools.chain.from_iterable(batches), draws))
    return Sample(config, loaded, mix, batch_size, found, _count(mix, found))


def _homes(mix: Mix) -> list[int]:
    """The stratum of each slide."""
    return [home for home, stratum in enumerate(mix.strata) for _ in stratum.slides]


def _count(mix: Mix, draws: Sequence[Draw]) -> tuple[StratumSample, ...]:
    homes = _homes(mix)
    total = Counter(homes[draw.slide] for draw in draws)
    tiles = Counter(homes[slide] for slide, _ in {(draw.slide, draw.tile) for draw in draws})
    slides = Counter(homes[slide] for slide in {draw.slide for draw in draws})
    return tuple(
        StratumSample(
            name=stratum.name,
            fields=dict(stratum.key),
            expected=stratum.probability,
            drawn=total[home] / len(draws),
            tiles=stratum.tiles,
            slides=len(stratum.slides),
            patients=stratum.patients,
            tiles_drawn=tiles[home],
            slides_drawn=slides[home],
            repeats=total[home] - tiles[home],
        )
        for home, stratum in enumerate(mix.strata)
    )


def sample_listing(sample: Sample) -> Listing:
    """The strata as a table, totals below."""
    strata = sample.strata
    counts = ("tiles", "slides", "patients", "tiles_drawn", "slides_drawn", "repeats")
    # A patient, and with mpp a slide, may be in several strata: such sums would count it twice.
    summed = ("tiles", "tiles_drawn", "repeats")
    totals = {name: sum([getattr(stratum, name) for stratum in strata]) for name in summed}
    columns = [
        Column("stratum", many(len(strata), "stratum", "strata")),
        Column("expected", "100.00 %", number=True),
        Column("drawn", "100.00 %", number=True),
    ]
    for name in counts:
        total = f"{totals[name]:,}" if name in totals else ""
        columns.append(Column(name.replace("_", " "), total, number=True))
    rows = [
        (
            stratum.name,
            f"{stratum.expected:.2%}".replace("%", " %"),
            f"{stratum.drawn:.2%}".replace("%", " %"),
            *(f"{getattr(stratum, name):,}" for name in counts),
        )
        for stratum in strata
    ]
    return Listing(tuple(columns), rows)


def tile_rows(sample: Sample) -> list[Row]:
    """A row for each stratum with the first tiles that are drawn of it, each once."""
    homes, found = _homes(sample.mix), defaultdict[int, list[Draw]](list)
    for draw in sample.draws:
        row, tile = found[homes[draw.slide]], (draw.slide, draw.tile)
        if len(row) < _TILES_PER_ROW and tile not in {(d.slide, d.tile) for d in row}:
            row.append(draw)
    shown, reader = sample.strata[:_MOST_ROWS], _Reader(sample)
    return [
        Row(
            stratum.name,
            (
                f"{stratum.expected:.2%} of the draws",
                many(stratum.tiles, "tile"),
                f"{many(stratum.slides, 'slide')} of {many(stratum.patients, 'patient')}",
            ),
            [reader.read(draw) for draw in found[home]],
        )
        for home, stratum in enumerate(shown)
    ]


class _Reader:
    """Reads the tiles of draws, of the mix's size."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._entries = {entry.id: entry for entry in sample.manifest.stores}

    def read(self, draw: Draw) -> Rgb | None:
        """The pixels of a draw; None if they are damaged."""
        mix = self._sample.mix
        slide = mix.slides[draw.slide]
        group, index = slide.locate(draw.tile)
        store = open_store(self._sample.manifest, self._entries[slide.id])
        try:
            return resized(store[group].read(index), mix.tile_size)
        except StoreError:
            return None


def view_rows(sample: Sample) -> list[Row]:
    """Rows of a tile and its two views, of different strata as far as there are; needs torch."""
    import torch

    from pretrain.views.augment import MEAN, STD, both_views

    config, mix = sample.config, sample.mix
    size = config.image_size or min(IMAGE_SIZE_PX["cuda"], mix.tile_size)
    if size > mix.tile_size:
        raise ConfigError(
            f"views of {size} px are larger than the tiles, which have {mix.tile_size} px; "
            "give a smaller --image-size"
        )
    homes, reader, rows = _homes(mix), _Reader(sample), []
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    for draw in _different(sample):
        pixels = reader.read(draw)
        pictures: list[Rgb | None] = [pixels, None, None]
        if pixels is not None:
            numbers = np.array([draw.number], dtype=np.int64)
            tiles = torch.from_numpy(pixels.copy())[None]
            views = both_views(config.views, config.seed, tiles, numbers, size)
            colours = ((views * std + mean) * 255).round().clamp(0, 255).byte()
            pictures[1:] = colours.permute(0, 2, 3, 1).contiguous().numpy()
        notes = (f"sample {draw.number}", mix.slides[draw.slide].id)
        rows.append(Row(mix.strata[homes[draw.slide]].name, notes, pictures))
    return rows


def _different(sample: Sample) -> Iterator[Draw]:
    """The first draws of the run, one of each stratum before a second of any, in their order."""
    homes, seen = _homes(sample.mix), Counter[int]()
    before: dict[int, int] = {}
    first = sample.draws[: _PAIRS * len(sample.mix.strata)]
    for draw in first:
        before[draw.number] = seen[homes[draw.slide]]
        seen[homes[draw.slide]] += 1
    chosen = sorted(first, key=lambda draw: (before[draw.number], draw.number))[:_PAIRS]
    yield from sorted(chosen, key=lambda draw: homes[draw.slide])
