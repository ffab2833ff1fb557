"""`histopretrain sample` shows what a run draws: counts that are right, pictures of those tiles."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from manifests import load_manifest
from pretrain.cli.sample import sample
from pretrain.config import TrainConfig
from pretrain.mixing.mix import resolve_mix
from pretrain.mixing.sampler import Sampler
from pretrain.watch.sample import sample_listing, take_sample, tile_rows
from tests.pretrain.make import damage_tile, make_slide, numbered_tiles, save


def study(root: Path) -> Path:
    """Three strata of slides whose tiles are numbered by colour."""
    root.mkdir(exist_ok=True)
    said = (
        ("a", "H&E", 40, 0),
        ("b", "H&E", 10, 50),
        ("c", "PAS", 12, 100),
        ("d", "IHC: p53", 3, 200),
    )
    return save(
        root,
        *(
            make_slide(root, name, {"0.5": numbered_tiles(count, first, 32)}, stain=stain)
            for name, stain, count, first in said
        ),
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study(tmp_path_factory.mktemp("study"))


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(sample, [str(argument) for argument in arguments])


def test_draws_are_those_of_a_run(manifest: Path) -> None:
    settings: dict[str, Any] = {"seed": 5, "weight": ("stain=PAS:2",), "batch_size": 8}
    taken = take_sample(TrainConfig(**settings, max_per_slide=5), manifest, 100)
    mix = resolve_mix(load_manifest(manifest), TrainConfig(**settings))
    sampler = Sampler(mix, 5, 8, max_per_slide=5)
    assert list(taken.draws) == [d for step in range(13) for d in sampler.batch(step)][:100]


def test_counts_are_those_of_the_draws(manifest: Path) -> None:
    taken = take_sample(TrainConfig(), manifest, 300)
    homes = {"a": "H&E", "b": "H&E", "c": "PAS", "d": "IHC: p53"}
    slides = taken.mix.slides
    tiles = Counter((slides[d.slide].id, d.tile) for d in taken.draws)
    for stratum in taken.strata:
        own = {tile: n for tile, n in tiles.items() if homes[tile[0]] == stratum.fields["stain"]}
        assert stratum.expected == pytest.approx(1 / 3)
        assert stratum.drawn == sum(own.values()) / 300
        assert stratum.tiles_drawn == len(own)
        assert stratum.slides_drawn == len({slide for slide, _ in own})
        assert stratum.repeats == sum(n - 1 for n in own.values())
    he = next(s for s in taken.strata if s.fields["stain"] == "H&E")
    assert (he.tiles, he.slides, he.patients) == (50, 2, 2)


def test_json_and_table_say_the_same(manifest: Path, tmp_path: Path) -> None:
    arguments = (manifest, "--no-pictures", "--draws", 60, "--out", tmp_path / "no")
    said = json.loads(invoke(*arguments, "--json").stdout)
    assert (said["draws"], said["tiles"], said["batch_size"]) == (60, 65, 64)
    table = invoke(*arguments).stdout
    rows = sample_listing(take_sample(TrainConfig(), manifest, 60)).rows
    for stratum, row in zip(said["strata"], rows, strict=True):
        assert row[0] == stratum["name"]
        assert row[0] in table
        assert row[1:3] == (f"{stratum['expected']:.2%}".replace("%", " %"),) * 2
        assert row[3] == str(stratum["tiles"])
    assert not (tmp_path / "no").exists()


def test_settings_reach_the_draws(manifest: Path) -> None:
    arguments = ("--weight", "stain=IHC*:0", "--mix-temperature", "1", "--no-pictures", "--json")
    said = json.loads(invoke(manifest, *arguments).stdout)
    assert [(s["name"], s["expected"]) for s in said["strata"]] == [
        ("H&E × colon", pytest.approx(50 / 62)),
        ("PAS × colon", pytest.approx(12 / 62)),
    ]


def test_a_row_shows_the_first_tiles_of_its_stratum_each_once(manifest: Path) -> None:
    taken = take_sample(TrainConfig(), manifest, 300)
    numbers = {0: range(60), 1: range(200, 203), 2: range(100, 112)}
    for place, row in enumerate(tile_rows(taken)):
        shown = [int(pixels[0, 0, 0]) for pixels in row.pictures if pixels is not None]
        assert len(shown) == len(row.pictures) == min(8, taken.strata[place].tiles)
        assert len(set(shown)) == len(shown)
        assert set(shown) <= set(numbers[place])


def test_a_damaged_tile_leaves_a_hole(tmp_path: Path) -> None:
    path = study(tmp_path)
    damage_tile(tmp_path / "d.zarr", "0.5", 1)
    (row,) = (r for r in tile_rows(take_sample(TrainConfig(), path, 90)) if "p53" in r.title)
    assert sum(pixels is None for pixels in row.pictures) == 1
    assert len(row.pictures) == 3


def test_the_pictures_are_written_and_named(manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    result = invoke(manifest, "--out", tmp_path / "p", "--image-size", 32, "--views", "none")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("Picture: ") == 2
    with (
        Image.open(tmp_path / "p" / "tiles.png") as tiles,
        Image.open(tmp_path / "p" / "views.png") as views,
    ):
        assert tiles.size == (240 + 8 * 100, 4 + 3 * 100)
        shown = np.asarray(views)
    # Twelve rows, of flat tiles whose views under no augmentation are the tiles.
    assert shown.shape[0] == 24 + 12 * 164
    for row in range(12):
        tile, *both = (shown[24 + row * 164 + 80, 240 + i * 164 + 80].astype(int) for i in range(3))
        assert all(np.abs(view - tile).max() <= 1 for view in both)


def test_without_torch_there_is_one_picture_and_a_word_about_the_other(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    result = invoke(manifest, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "pip install 'histotile[pretrain]'" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["tiles.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--balance", "scanner"), "no store of the manifest has 'scanner'"),
        (("--split", "val"), "the manifest has no split 'val'; it has none"),
        (("--max-per-slide", "2"), "max-per-slide 2 cannot be kept in batches of 64"),
        (("--weight", "organ=lung:2"), "fits no stratum; there are organ: colon"),
    ],
)
def test_wrong_settings_are_one_sentence(
    manifest: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = invoke(manifest, *arguments, "--no-pictures")
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_pictures_that_lie_where_a_file_is_are_refused(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = invoke(manifest, "--out", tmp_path / "file")
    assert result.exit_code == 2
    assert (tmp_path / "file").read_text() == "mine"
