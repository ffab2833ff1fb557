"""From encoders and a manifest to scores: the right tiles, the right features, in the right order.

What the scores themselves are is held by `test_protocol.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

import safetensors.torch  # noqa: E402
from sklearn.metrics import confusion_matrix  # noqa: E402

from manifests import load_manifest  # noqa: E402
from manifests.files import sha256  # noqa: E402
from pretrain.embedding.encoders import open_encoder  # noqa: E402
from pretrain.embedding.stream import all_features, stream_tiles  # noqa: E402
from pretrain.errors import CheckpointError, ConfigError  # noqa: E402
from pretrain.evaluating.evaluate import Evaluated, evaluate, evaluate_fully  # noqa: E402
from pretrain.evaluating.protocol import TEST, TRAIN, Truth, score_features  # noqa: E402
from pretrain.labelling.labelled import SPLITS, label_tiles  # noqa: E402
from pretrain.network.encoder import save_encoder  # noqa: E402
from pretrain.network.model import build_encoder  # noqa: E402
from pretrain.results.settings import EvaluateSettings  # noqa: E402
from pretrain.scoring.histogram import colour_histogram  # noqa: E402
from pretrain.scoring.intervals import difference  # noqa: E402
from tests.pretrain.evaluating.make import labelled_set  # noqa: E402
from tests.pretrain.make import damage_tile  # noqa: E402
from tests.pretrain.network.test_encoder import info_of  # noqa: E402

TINY = "random:timm/test_resnet"


def settings(**changes: Any) -> EvaluateSettings:
    quick: dict[str, Any] = {"label": "label", "curve": False, "near": False, "resamples": 20}
    return EvaluateSettings(**{**quick, **changes})


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def found(manifest: Path) -> Evaluated:
    return evaluate_fully([TINY], manifest, settings(curve=True))


def test_encoder_and_baseline_are_scored_by_their_features(
    manifest: Path, found: Evaluated
) -> None:
    labelled = label_tiles(load_manifest(manifest), "label", near=False)
    truth = Truth(
        "classification", 3, labelled.targets, labelled.units, labelled.split, resamples=20, seed=0
    )
    features, _ = all_features(labelled.manifest, labelled.parts, open_encoder(TINY))
    tiles = [b.tiles.copy() for b in stream_tiles(labelled.manifest, labelled.parts)]
    histograms = colour_histogram(np.concatenate(tiles))

    for result, rows in zip(found.evaluation.encoders, (features, histograms), strict=True):
        expected = score_features(rows, truth, curve=True)
        assert result.scores == expected.scores
        assert result.chosen == expected.chosen
        assert result.curve == expected.curve


def test_the_result_says_what_was_evaluated(manifest: Path, found: Evaluated) -> None:
    said = found.evaluation.to_json()

    assert said["manifest_sha256"] == sha256(manifest.read_bytes())
    assert said["classes"] == ["fat", "mucus", "stroma"]
    assert said["split"]["tiles"] == {"train": 36, "val": 12, "test": 24}
    assert said["split"]["units"] == {"train": 9, "val": 3, "test": 6}
    assert said["interval"]["over"] == "group"
    encoder, baseline = said["encoders"]
    assert (encoder["name"], encoder["kind"]) == ("random:test_resnet", "encoder")
    assert encoder["sha256"] == open_encoder(TINY).sha256
    assert (baseline["name"], baseline["kind"]) == ("colour histogram", "baseline")
    assert baseline["features"] == 48
    assert baseline["scores"]["linear"]["macro_f1"]["value"] == 1
    assert str(manifest.parent) not in json.dumps(said)


def test_the_same_again_gives_the_same(manifest: Path, found: Evaluated) -> None:
    again = evaluate([TINY], manifest, settings(curve=True, threads=1)).to_json()
    first = found.evaluation.to_json()
    for encoder in (*again["encoders"], *first["encoders"]):
        del encoder["seconds"]
    assert again == first


def test_gains_are_the_differences_of_scores(manifest: Path) -> None:
    names = [TINY, "random:timm/test_vit"]
    one, two, colours = evaluate(names, manifest, settings(image_size=160)).encoders

    for method in ("knn", "linear"):
        scores = [found.scores[method]["macro_f1"] for found in (one, two, colours)]
        assert one.gains["baseline"][method] == difference(scores[0], scores[2])
        assert two.gains["first"][method] == difference(scores[1], scores[0])
        assert len(scores[0].resampled) == 20
    assert "first" not in one.gains
    assert colours.gains == {}


def test_the_page_gets_the_predictions_of_its_own_tiles(found: Evaluated) -> None:
    extras = found.extras
    assert len(extras.names) == len(set(extras.names)) == 24
    assert all(name.startswith("pictures/0.5/") for name in extras.names)
    for result, predictions in zip(found.evaluation.encoders, extras.predictions, strict=True):
        for method, counts in result.confusion.items():
            made = confusion_matrix(extras.targets, predictions[method])
            assert np.array_equal(made, counts)


@pytest.mark.parametrize("near", [False, True])
def test_damaged_tiles_count_for_no_encoder(tmp_path: Path, near: bool) -> None:
    manifest = labelled_set(tmp_path)
    labelled = label_tiles(load_manifest(manifest), "label", near=False)
    indices = labelled.parts[0].indices
    row = int(np.flatnonzero((labelled.split == TEST) & (indices < 16))[1])
    damage_tile(tmp_path / "pictures.zarr", "0.5", int(indices[row]))

    found = evaluate_fully([TINY], manifest, settings(near=near, leaks="keep"))

    split = found.evaluation.split
    assert split.tiles == {"train": 36, "val": 12, "test": 23}
    assert split.left_out["damaged"] == 1
    assert [result.damaged for result in found.evaluation.encoders] == [1, 1]
    assert f"pictures/0.5/{indices[row]}" not in found.extras.names
    assert sum(map(sum, found.evaluation.encoders[0].confusion["linear"])) == 23


def test_numbers_can_be_the_truth(manifest: Path) -> None:
    found = evaluate([TINY], manifest, settings(label="score", task="regression"))

    assert found.classes == ()
    for result in found.encoders:
        assert set(result.scores["linear"]) == {"l1", "r2"}
        assert result.confusion == {}
    assert found.encoders[-1].scores["linear"]["r2"].value > 0.5


def test_fine_tuning_is_scored_beside_the_rest(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.evaluating.finetune.EPOCHS", 2)
    monkeypatch.setattr("pretrain.evaluating.finetune.LEAST_STEPS", 1)

    encoder, baseline = evaluate([TINY], manifest, settings(finetune=True)).encoders

    assert set(encoder.scores) == {"knn", "linear", "finetune"}
    assert encoder.chosen["epoch"] in (1, 2)
    assert sum(map(sum, encoder.confusion["finetune"])) == 24
    assert encoder.seconds["finetune"] > 0
    assert set(baseline.scores) == {"knn", "linear"}


def test_encoders_are_opened_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.safetensors.* is not there"):
        evaluate([TINY, str(tmp_path / "no.safetensors")], tmp_path / "no.json", settings())


def test_an_encoder_is_named_once(manifest: Path) -> None:
    with pytest.raises(ConfigError, match="random:test_resnet is there twice"):
        evaluate([TINY, TINY], manifest, settings())


def test_tiles_of_another_mpp_are_refused_unless_asked_for(manifest: Path, tmp_path: Path) -> None:
    file = tmp_path / "far.safetensors"
    save_encoder(file, build_encoder("timm/test_resnet"), info_of(mpp=((2.0, 2.0),)))

    with pytest.raises(ConfigError, match=r"trained on tiles of 2 µm/px, and these have 0\.5"):
        evaluate([str(file)], manifest, settings())
    found = evaluate([str(file)], manifest, settings(any_mpp=True))
    assert found.encoders[0].mpp == ((2.0, 2.0),)


def test_an_encoder_that_gives_no_numbers_is_refused(manifest: Path, tmp_path: Path) -> None:
    weights = build_encoder("timm/test_resnet").state_dict()
    first = next(key for key, value in weights.items() if value.ndim == 4)
    weights[first] = torch.full_like(weights[first], 3e38)
    file = tmp_path / "huge.safetensors"
    safetensors.torch.save_file(weights, file)

    with pytest.raises(CheckpointError, match="gives features that are no numbers"):
        evaluate([f"timm:test_resnet={file}"], manifest, settings())


def test_a_split_whose_tiles_are_all_damaged_is_told(tmp_path: Path) -> None:
    manifest = labelled_set(tmp_path, classes=2, units=3, tiles=1)
    labelled = label_tiles(load_manifest(manifest), "label", near=False)
    for index in labelled.parts[0].indices[labelled.split == TEST].tolist():
        damage_tile(tmp_path / "pictures.zarr", "0.5", index)

    with pytest.raises(ConfigError, match="all tiles of the split test are damaged"):
        evaluate([TINY], manifest, settings())


@pytest.mark.parametrize("which", [TRAIN, TEST])
def test_a_class_whose_tiles_are_all_damaged_is_told(which: int, tmp_path: Path) -> None:
    manifest = labelled_set(tmp_path, classes=2, units=3, tiles=1)
    labelled = label_tiles(load_manifest(manifest), "label", near=False)
    gone = (labelled.split == which) & (labelled.targets == 1)
    for index in labelled.parts[0].indices[gone].tolist():
        damage_tile(tmp_path / "pictures.zarr", "0.5", index)
    with pytest.raises(ConfigError, match=rf"class 'mucus' in {SPLITS[which]} are damaged"):
        evaluate([TINY], manifest, settings())
