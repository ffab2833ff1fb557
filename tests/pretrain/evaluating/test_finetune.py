"""Fine-tuning learns, is the same each time, and leaves the encoder as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from torch import nn  # noqa: E402

from manifests import load_manifest  # noqa: E402
from manifests.console import Display  # noqa: E402
from pretrain.embedding.encoders import Encoder, open_encoder, weights_digest  # noqa: E402
from pretrain.embedding.stream import stream_tiles  # noqa: E402
from pretrain.evaluating import finetune as tuning  # noqa: E402
from pretrain.evaluating.finetune import TileRows, Tuned, finetune, turned  # noqa: E402
from pretrain.evaluating.protocol import TEST, Truth  # noqa: E402
from pretrain.labelling.labelled import Labelled, label_tiles  # noqa: E402
from pretrain.results.settings import CLASSIFICATION, REGRESSION  # noqa: E402
from tests.pretrain.evaluating.make import labelled_set  # noqa: E402

QUIET = Display("tiles", quiet=True)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelled_set(tmp_path_factory.mktemp("set"), classes=2)


def blind() -> Encoder:
    """An encoder that gives zeros, until its own weights are trained."""
    encoder = open_encoder("random:timm/test_resnet")
    convolution = nn.Conv2d(3, 4, 8, stride=8)
    for weights in convolution.parameters():
        nn.init.zeros_(weights)
    model = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return replace(encoder, model=model, features=4)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """High rates, with which so small a network learns in few steps."""
    monkeypatch.setattr(tuning, "ENCODER_LR", 0.02)
    monkeypatch.setattr(tuning, "HEAD_LR", 0.02)
    monkeypatch.setattr(tuning, "LEAST_STEPS", 40)


def tune(
    manifest: Path, label: str, task: str, encoder: Encoder, *, left_out: int = 0
) -> tuple[Tuned, Truth]:
    """Fine-tune an encoder; of the test tiles some are left out."""
    labelled = label_tiles(load_manifest(manifest), label, task=task, near=False)
    good = np.ones(len(labelled), dtype=np.bool_)
    good[np.flatnonzero(labelled.split == TEST)[:left_out]] = False
    truth = truth_of(labelled, good)
    before = weights_digest(encoder.model)
    tuned = finetune(
        TileRows(labelled.manifest, labelled.parts, 2),
        np.flatnonzero(good),
        encoder,
        truth,
        device="cpu",
        tell=QUIET,
    )
    assert weights_digest(encoder.model) == before
    return tuned, truth


def truth_of(labelled: Labelled, good: np.ndarray) -> Truth:
    return Truth(
        task=labelled.task,
        classes=len(labelled.classes),
        targets=labelled.targets[good],
        units=labelled.units[good],
        split=labelled.split[good],
        resamples=20,
        seed=1,
    )


@pytest.mark.usefixtures("hasty")
def test_classes_are_learnt(manifest: Path) -> None:
    tuned, truth = tune(manifest, "label", CLASSIFICATION, blind())

    assert truth.score(tuned.said)["macro_f1"].value == 1
    assert np.allclose(tuned.said.sum(axis=1), 1)


def test_what_is_learnt_is_the_same_each_time(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "EPOCHS", 3)
    monkeypatch.setattr(tuning, "LEAST_STEPS", 1)
    state = torch.random.get_rng_state()

    encoder = open_encoder("random:timm/test_resnet")
    tuned, _ = tune(manifest, "label", CLASSIFICATION, encoder)
    again, _ = tune(manifest, "label", CLASSIFICATION, encoder)

    assert np.array_equal(tuned.said, again.said)
    assert tuned.epoch == again.epoch
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.usefixtures("hasty")
def test_numbers_are_learnt_in_their_own_unit(tmp_path: Path) -> None:
    manifest = labelled_set(tmp_path, classes=1)
    tuned, truth = tune(manifest, "score", REGRESSION, blind(), left_out=2)

    test = truth.of(TEST)
    assert tuned.said.shape == (test.sum(),)
    values = truth.targets[test]
    mean = np.abs(values - truth.targets[truth.of(0)].mean()).mean()
    assert np.abs(values - tuned.said).mean() < 0.7 * mean


def test_tiles_come_by_their_rows(manifest: Path) -> None:
    labelled = label_tiles(load_manifest(manifest), "label", near=False)
    expected = np.concatenate(
        [batch.tiles.copy() for batch in stream_tiles(labelled.manifest, labelled.parts)]
    )
    batches = [np.array([7, 0, 3]), np.array([len(labelled) - 1])]

    read = list(TileRows(labelled.manifest, labelled.parts, 2).read(batches, "cpu"))

    for rows, tiles in zip(batches, read, strict=True):
        assert np.array_equal(tiles.numpy(), expected[rows])


def test_tiles_are_turned_into_all_eight_positions() -> None:
    tile = torch.arange(3 * 3 * 3, dtype=torch.uint8).reshape(1, 3, 3, 3)
    found = turned(tile.expand(400, -1, -1, -1), np.random.default_rng(0)).numpy()

    one = tile[0].numpy()
    positions = [np.rot90(side, k) for side in (one, one[:, ::-1]) for k in range(4)]
    counts = [sum(np.array_equal(other, each) for each in found) for other in positions]
    assert sum(counts) == 400
    assert min(counts) > 25
