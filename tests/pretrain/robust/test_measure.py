"""Robustness on small sets whose tissue and site are told by colour, through the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

pytest.importorskip("torch")

from manifests import Manifest, save_manifest
from pretrain.cli.robustness import robustness
from pretrain.errors import ConfigError
from pretrain.robust.found import Robustness
from pretrain.robust.measure import measure_robustness
from pretrain.robust.settings import RobustSettings
from tests.pretrain.make import damage_tile, make_slide
from tests.pretrain.watch.packed import make_packed

ENCODER = "random:test_resnet"
FAST = {"batch_size": 32, "resamples": 50, "device": "cpu", "image_size": 32}
TISSUES, SITES = ("fat", "stroma"), ("A", "B")
RED, BLUE = np.array([1, 0, 0]), np.array([0, 0, 1])


def crossed_set(
    root: Path,
    *,
    tissue: float = 90,
    site: float = 90,
    pairs: Sequence[tuple[int, int]] = ((0, 0), (0, 1), (1, 0), (1, 1)),
    patients: int = 3,
    tiles: int = 4,
    columns: Sequence[str] = ("patient", "site"),
) -> Path:
    """Tiles of each pair of tissue and site; `tissue` makes them redder, `site` bluer."""
    random = np.random.default_rng(0)
    known, labels, pixels = [], [], []
    for b, c in pairs:
        for patient in range(patients):
            said = {"patient": f"P-{b}{c}{patient}", "site": SITES[c], "scanner": f"S{patient}"}
            for _ in range(tiles):
                colour = 100 + tissue * b * RED + site * c * BLUE
                pixels.append(colour + random.integers(-6, 7, (16, 16, 3)))
                labels.append(b)
                known.append({name: said[name] for name in columns})
    entry = make_packed(
        root,
        "pictures",
        np.array(pixels).astype(np.uint8),
        labels=labels,
        names=TISSUES,
        columns=known,
    )
    path = root / "manifest.json"
    save_manifest(Manifest((entry,), root), path)
    return path


def measured(path: Path, *encoders: str, **settings: Any) -> Robustness:
    return measure_robustness(encoders or (ENCODER,), path, RobustSettings(**{**FAST, **settings}))


def command(path: Path, *flags: str) -> Result:
    fast = ("--device", "cpu", "--resamples", "20", "--image-size", "32")
    return CliRunner().invoke(robustness, [ENCODER, str(path), *fast, *flags])


@pytest.mark.parametrize(("tissue", "site", "expected"), [(90, 10, 1.0), (10, 90, 0.0)])
def test_what_colour_tells_is_what_the_histogram_knows(
    tmp_path: Path, tissue: float, site: float, expected: float
) -> None:
    # With 15 neighbours besides the 8 of its own pair, a tile takes all of the nearer pair.
    found = measured(crossed_set(tmp_path, tissue=tissue, site=site), k=15)
    histogram = found.encoders[-1]
    assert histogram.kind == "baseline"
    assert histogram.index.value == expected
    assert found.chance == pytest.approx(0.5)
    assert (found.tiles, found.queries, found.units, found.k) == (48, 48, 12, 15)


def test_neighbours_predict_what_they_can_see(tmp_path: Path) -> None:
    path = crossed_set(tmp_path, tissue=0, site=90, columns=("patient", "site", "scanner"))
    found = measured(path, also=("scanner",), k=5).encoders[-1].predictions
    assert list(found) == ["label", "site", "scanner"]
    assert found["site"].accuracy.value == 1.0
    assert found["label"].accuracy.value < 0.9
    assert found["label"].chance == 0.5
    assert found["scanner"].classes == ("S0", "S1", "S2")
    assert found["scanner"].chance == pytest.approx(1 / 3)


def test_no_tile_is_a_neighbour_of_its_patient(tmp_path: Path) -> None:
    # One patient of each pair: its own tiles would be the nearest, and are all of its pair.
    found = measured(crossed_set(tmp_path, patients=1, tiles=6, tissue=90, site=10), k=6)
    assert found.by == ("patient",)
    assert found.encoders[-1].index.value == 1.0
    assert found.encoders[-1].so == 24 * 6


def test_one_number_of_neighbours_for_all_and_the_histogram_has_no_say(tmp_path: Path) -> None:
    found = measured(crossed_set(tmp_path, tissue=20, site=60), ENCODER, "random:resnet18")
    best = [encoder.best_k for encoder in found.encoders[:-1]]
    assert not found.k_given
    assert found.k == int(np.median([k for k in best if k is not None]))


def test_only_tiles_that_could_have_both_kinds_are_asked(tmp_path: Path) -> None:
    # No stroma at B: tiles of fat at B and of stroma at A have one kind each, and are no queries.
    found = measured(crossed_set(tmp_path, pairs=((0, 0), (0, 1), (1, 0))), k=5)
    assert (found.tiles, found.queries) == (36, 12)
    assert found.pairs == {"fat": {"A": 12, "B": 12}, "stroma": {"A": 12}}


def test_a_damaged_tile_is_left_out_for_all(tmp_path: Path) -> None:
    path = crossed_set(tmp_path)
    damage_tile(tmp_path / "pictures.zarr", "0.5", 2)
    found = measured(path, k=5)
    assert found.tiles == 47
    assert found.left_out == {"damaged": 1}


def test_the_same_settings_give_the_same_result(tmp_path: Path) -> None:
    path = crossed_set(tmp_path)
    assert measured(path, threads=1).to_json() == measured(path, threads=3, batch_size=7).to_json()


def test_intervals_hold_the_index_and_are_over_patients(tmp_path: Path) -> None:
    found = measured(crossed_set(tmp_path, tissue=40, site=45), k=11)
    for encoder in found.encoders:
        assert encoder.index.low <= encoder.index.value <= encoder.index.high
    assert found.to_json()["interval"] == {"level": 0.95, "resamples": 50, "over": "patient"}


def test_the_command_prints_a_table_and_json(tmp_path: Path) -> None:
    path = crossed_set(tmp_path)
    table = command(path)
    assert table.exit_code == 0, table.output
    for text in ("label against site: 48 tiles", "colour histogram", "knows site", "chance"):
        assert text in table.stdout
    found = json.loads(command(path, "--json").stdout)
    assert found["format"] == "histotile-robustness"
    assert [encoder["name"] for encoder in found["encoders"]] == [ENCODER, "colour histogram"]
    assert str(tmp_path) not in json.dumps(found)


def test_wrong_input_is_told_in_one_sentence(tmp_path: Path) -> None:
    path = crossed_set(tmp_path)
    for flags, said in (
        (("--confounder", "sites"), "no tile has a 'sites' (did you mean site?)"),
        (("--confounder", "organ"), "'organ' has one value on these tiles: all are 'colon'"),
        (("--confounder", "label"), "biology and confounder are both 'label'"),
        (("--by", "organ"), "all tiles belong to one unit by organ"),
        (("--k", "0"), "k must be at least 1, got 0"),
    ):
        result = command(path, *flags)
        assert result.exit_code == 2, result.output
        assert said in result.stderr
        assert result.stderr.count("\n") == 1


def test_no_more_neighbours_than_there_are(tmp_path: Path) -> None:
    path = crossed_set(tmp_path)  # of 48 tiles, 4 of each patient
    assert measured(path, k=44).k == 44
    with pytest.raises(ConfigError, match="--k 45 is more than the 44 tiles of other units"):
        measured(path, k=45)


def test_pairs_that_do_not_cross_have_no_index(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"do not cross.*'fat' \+ 'A', 'stroma' \+ 'B'"):
        measured(crossed_set(tmp_path, pairs=((0, 0), (1, 1))))


def test_values_that_some_tiles_lack_are_refused_or_left_out(tmp_path: Path) -> None:
    path = crossed_set(tmp_path)
    slide = make_slide(tmp_path, "slide", {"0.5": np.zeros((3, 16, 16, 3), np.uint8)})
    manifest = Manifest((*_entries(path), replace(slide, patient="P-9")), tmp_path)
    save_manifest(manifest, path)
    with pytest.raises(ConfigError, match="3 of 51 tiles do not say their 'label', the first is"):
        measured(path)
    found = measured(path, unlabelled="drop", k=5)
    assert found.tiles == 48
    assert found.left_out == {"no biology or confounder": 3}


def test_several_resolutions_are_refused(tmp_path: Path) -> None:
    path = crossed_set(tmp_path)
    slide = make_slide(tmp_path, "slide", {"1": np.zeros((3, 16, 16, 3), np.uint8)})
    save_manifest(Manifest((*_entries(path), slide), tmp_path), path)
    with pytest.raises(ConfigError, match=r"2 resolutions \(0\.5, 1\).*--mpp"):
        measured(path, unlabelled="drop")


def _entries(path: Path) -> tuple[Any, ...]:
    from manifests import load_manifest

    return tuple(load_manifest(path).stores)
