"""Whatever is left out, features, labels, splits, units and names are of the same tile.

Every tile has one colour: red is its number, green its class, blue noise. Labels, splits and what
is left out are drawn without a pattern, so that a row that slips by one is found.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import Tensor, nn  # noqa: E402

from manifests import Manifest, StoreEntry  # noqa: E402
from manifests.console import Display  # noqa: E402
from manifests.model import Selection  # noqa: E402
from manifests.tileset import TileSet  # noqa: E402
from pretrain.embedding.encoders import Encoder, open_encoder  # noqa: E402
from pretrain.embedding.stream import all_features  # noqa: E402
from pretrain.evaluating.finetune import TileRows  # noqa: E402
from pretrain.evaluating.judge import Work, judge_labels  # noqa: E402
from pretrain.labelling.labelled import SPLITS, Labelled, label_tiles  # noqa: E402
from pretrain.results.settings import EvaluateSettings  # noqa: E402
from tests.pretrain.evaluating.make import save_split, splits_of  # noqa: E402
from tests.pretrain.make import SHARD_TILES, damage_tile  # noqa: E402
from tests.pretrain.watch.packed import make_packed  # noqa: E402

CLASSES = ("red", "green", "blue")
GREEN = (30, 128, 225)
ASKED = ("blue", "red")
"""Of the classes, and not in the order of the alphabet."""


@dataclass(frozen=True)
class Known:
    """What is true of a tile."""

    number: int
    label: str | None
    split: str
    unit: str
    counts: bool
    damaged: bool


class Colour(nn.Module):
    """The mean colour of a tile is its features."""

    def forward(self, tiles: Tensor) -> Tensor:
        return tiles.mean(dim=(2, 3))


def colour_encoder() -> Encoder:
    encoder = open_encoder("random:timm/test_resnet")
    model = Colour().eval()
    return replace(encoder, name="colour", model=model, features=3, mean=(0.0,) * 3, std=(1.0,) * 3)


def made(root: Path) -> tuple[Manifest, dict[str, Known]]:
    """Three packed stores of tiles of two sizes, and what is true of each, by its name."""
    random = np.random.default_rng(5)
    entries: list[StoreEntry] = []
    known: dict[str, Known] = {}
    for store, (count, size) in {"a": (41, 32), "b": (37, 24), "c": (50, 32)}.items():
        labels = random.integers(-1, 3, count)
        units = random.integers(0, 8, count)
        # A unit is in one split; one unit is in none.
        splits = [("train", "train", "val", "test", "test", "", "train", "val")[u] for u in units]
        selected = random.random(count) < 0.8
        numbers = len(known) + np.arange(count)
        green = np.where(labels < 0, 77, np.array(GREEN)[labels])
        colours = np.stack([numbers, green, random.integers(0, 256, count)], axis=1)
        tiles = np.broadcast_to(colours[:, None, None], (count, size, size, 3)).astype(np.uint8)
        entry = make_packed(
            root,
            store,
            tiles,
            labels=labels.tolist(),
            names=CLASSES,
            columns=[{"group": f"{store}-{u}"} for u in units],
        )
        selection = Selection((), {"0.5": TileSet.where(selected)})
        entries.append(replace(entry, splits=splits_of(splits), selection=selection))
        torn = set()
        asked = np.isin(labels, [CLASSES.index(name) for name in ASKED]) & selected
        for split in SPLITS:
            inside = [i for i in range(SHARD_TILES) if splits[i] == split and asked[i]]
            if store != "b" and inside:
                torn.add(inside[-1])
                damage_tile(root / f"{store}.zarr", "0.5", inside[-1])
        for index in range(count):
            label = CLASSES[labels[index]] if labels[index] >= 0 else None
            known[f"{store}/0.5/{index}"] = Known(
                number=int(numbers[index]),
                label=label,
                split=splits[index],
                unit=f"{store}-{units[index]}",
                counts=bool(selected[index] and splits[index] and label in ASKED),
                damaged=index in torn,
            )
    save_split(root, *entries)
    return Manifest(tuple(entries), root, splits=({"by": "group"},)), known


def names_of(labelled: Labelled) -> list[str]:
    return [f"{p.entry.id}/{p.group}/{i}" for p in labelled.parts for i in p.indices.tolist()]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Labelled, dict[str, Known]]:
    manifest, known = made(tmp_path_factory.mktemp("set"))
    labelled = label_tiles(manifest, "label", unlabelled="drop", classes=ASKED, near=False)
    return labelled, known


def test_rows_are_the_tiles_that_count(everything: tuple[Labelled, dict[str, Known]]) -> None:
    labelled, known = everything
    assert names_of(labelled) == [name for name, tile in known.items() if tile.counts]
    rows = [known[name] for name in names_of(labelled)]
    assert [labelled.classes[c] for c in labelled.targets.tolist()] == [t.label for t in rows]
    assert [SPLITS[s] for s in labelled.split.tolist()] == [tile.split for tile in rows]
    assert [labelled.unit_names[u] for u in labelled.units.tolist()] == [t.unit for t in rows]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_features_are_those_of_their_rows(
    everything: tuple[Labelled, dict[str, Known]], batch_size: int
) -> None:
    labelled, known = everything
    rows = [known[name] for name in names_of(labelled)]

    features, damaged = all_features(
        labelled.manifest, labelled.parts, colour_encoder(), batch_size=batch_size, threads=3
    )

    assert damaged == tuple(row for row, tile in enumerate(rows) if tile.damaged)
    assert len(damaged) > 3
    good = [row for row, tile in enumerate(rows) if not tile.damaged]
    assert np.round(255 * features[good, 0]).tolist() == [rows[row].number for row in good]
    assert np.isnan(features[list(damaged)]).all()


def test_tiles_that_are_trained_on_are_those_of_their_rows(
    everything: tuple[Labelled, dict[str, Known]],
) -> None:
    labelled, known = everything
    names = names_of(labelled)
    good = np.array([row for row, name in enumerate(names) if not known[name].damaged])
    drawn = np.random.default_rng(0).permutation(good)
    batches = np.array_split(drawn, 5)

    read = TileRows(labelled.manifest, labelled.parts, 2).read(batches, "cpu")

    for rows, tiles in zip(batches, read, strict=True):
        red = tiles[:, :, :, 0].float()
        assert (red == red[:, :1, :1]).all()
        assert red[:, 0, 0].tolist() == [known[names[row]].number for row in rows]


def test_scores_and_the_page_are_of_the_same_tiles(
    everything: tuple[Labelled, dict[str, Known]],
) -> None:
    labelled, known = everything
    settings = EvaluateSettings(label="label", curve=False, resamples=10, batch_size=7)
    work = Work(labelled.manifest, labelled, settings, "cpu", Display("tiles", quiet=True))

    judged = judge_labels(work, [colour_encoder()])

    meant = {n: t for n, t in known.items() if t.counts and not t.damaged and t.split == "test"}
    expected = Counter(tile.label for tile in meant.values())
    for result in judged.results:  # green tells the classes apart, rightly for each test tile
        matrix = np.array(result.confusion["linear"])
        assert matrix.tolist() == np.diag([expected[name] for name in ASKED]).tolist()
    extras = judged.extras
    assert set(extras.names) == set(meant)
    rows = [meant[name] for name in extras.names]
    assert [ASKED[c] for c in extras.targets.tolist()] == [tile.label for tile in rows]
    assert [labelled.unit_names[u] for u in extras.units.tolist()] == [tile.unit for tile in rows]
    assert extras.thumbnails[:, 5, 5, 0].tolist() == [tile.number for tile in rows]
    assert np.round(255 * extras.features[0][:, 0]).tolist() == [tile.number for tile in rows]
    for predictions in extras.predictions:
        assert [ASKED[c] for c in predictions["linear"].tolist()] == [tile.label for tile in rows]
